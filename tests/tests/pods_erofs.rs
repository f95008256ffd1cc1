//! containerd's own EROFS snapshotter: its layers are disks already, and nothing is converted.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Result, ensure};
use coffer_tests::artefacts::target;
use coffer_tests::images::BUSYBOX;
use coffer_tests::node::Node;
use coffer_tests::packages::{Unpacked, unpacked};
use coffer_tests::pod_tests;

pod_tests! {
    coffer_only layers_of_the_erofs_snapshotter_are_disks_as_they_are;
}

/// Where Debian keeps libraries, and the loader, in a package.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

fn layers_of_the_erofs_snapshotter_are_disks_as_they_are(node: &mut Node) -> Result<()> {
    use_erofs(node)?;
    let archive = target().join("coffer-images/busybox.tar");
    node.ctr(["images", "import", "--local", "--snapshotter", "erofs"]).arg(archive).text()?;
    let layers = fs::read_dir(snapshots(node))?.flatten();
    let made = layers.filter(|layer| layer.path().join("layer.erofs").is_file()).count();
    ensure!(made > 1, "containerd made {made} EROFS layers");
    for id in ["c1", "c2"] {
        let script =
            "echo written > /file && cat /file && stat -f -c %t / && grep -c erofs /proc/filesystems";
        let ended = node.ctr_run(&["--rm", "--snapshotter", "erofs"], id, &["sh", "-c", script]).end()?;
        ensure!(ended.code() == 0 && ended.out() == "written\n794c7630\n1\n", "{ended}");
    }
    let converted = fs::read_dir(node.layout.layers().join("blobs")).map_or(0, Iterator::count);
    ensure!(converted == 0, "{converted} layers were converted that were EROFS already");
    node.ctr(["images", "delete", "--sync", BUSYBOX]).text().map(drop)
}

/// Restarts containerd with its EROFS differ, and with the newer `mkfs.erofs` that this needs.
fn use_erofs(node: &mut Node) -> Result<()> {
    node.stop_containerd()?;
    let libc = unpacked(Unpacked::Libc)?.join(LIBRARIES);
    let libdeflate = unpacked(Unpacked::Libdeflate)?.join(LIBRARIES);
    let mkfs = unpacked(Unpacked::ErofsUtils)?.join("usr/bin/mkfs.erofs");
    let (loader, libc, libdeflate, mkfs) =
        (libc.join("ld-linux-x86-64.so.2"), libc.display(), libdeflate.display(), mkfs.display());
    let script =
        format!("#!/bin/sh\nexec {} --library-path {libc}:{libdeflate} {mkfs} \"$@\"\n", loader.display());
    // The node's own programs come first in containerd's PATH.
    let path = node.binaries().join("mkfs.erofs");
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    let mut config = fs::File::options().append(true).open(node.layout.containerd_config())?;
    writeln!(config, "[plugins.\"io.containerd.service.v1.diff-service\"]")?;
    writeln!(config, "default = [\"erofs\", \"walking\"]")?;
    node.start_containerd()
}

fn snapshots(node: &Node) -> std::path::PathBuf {
    node.layout.data.join("root/io.containerd.snapshotter.v1.erofs/snapshots")
}
