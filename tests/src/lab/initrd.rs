//! The nested machine's initrd, put together in memory.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::guests;
use super::monitors::{Monitor, QEMU_FILES};
use crate::artefacts::Coffer;
use crate::run::Run;

/// Modules by their place below a kernel's `kernel` directory. Which of them are loaded, and in which order, is told by
/// `tests/lab/src/stage.rs`.
const MODULES: &[&str] = &[
    "virt/lib/irqbypass.ko",
    "drivers/crypto/ccp/ccp.ko",
    "arch/x86/kvm/kvm.ko",
    "arch/x86/kvm/kvm-amd.ko",
    "drivers/net/tun.ko",
    "drivers/block/nbd.ko",
];

/// Modules of a nested machine that is a node: see `tests/lab/src/node.rs`.
const NODE_MODULES: &[&str] = &[
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "net/9p/9pnet.ko",
    "net/9p/9pnet_virtio.ko",
    "fs/netfs/netfs.ko",
    "fs/fscache/fscache.ko",
    "fs/9p/9p.ko",
    "fs/overlayfs/overlay.ko",
];

/// Those that QEMU's vsock device needs, which only the benchmark starts.
const BENCH_MODULES: &[&str] = &[
    "net/vmw_vsock/vsock.ko",
    "drivers/vhost/vhost_iotlb.ko",
    "drivers/vhost/vhost.ko",
    "net/vmw_vsock/vmw_vsock_virtio_transport_common.ko",
    "drivers/vhost/vhost_vsock.ko",
];

/// Files of the guest image.
const IMAGE: &[&str] = &["vmlinux", "bzImage", "initrd.img"];

/// An archive of the kind that a kernel unpacks.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<PathBuf>,
    libraries: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    /// Adds a file, and the directories above it.
    fn file(&mut self, at: &str, content: &[u8], executable: bool) -> Result<()> {
        let parents: Vec<PathBuf> = Path::new(at).ancestors().skip(1).map(Path::to_owned).collect();
        for parent in parents.into_iter().rev().filter(|parent| parent.components().count() > 0) {
            self.directory(&parent)?;
        }
        let mode = 0o100_644 | if executable { 0o111 } else { 0 };
        self.entry(at, mode, content).with_context(|| at.to_owned())
    }

    /// Adds a program, and the shared libraries that it needs.
    fn program(&mut self, at: &str, program: &Path) -> Result<()> {
        self.file(at, &read(program)?, true)?;
        for library in libraries(program)? {
            if self.libraries.insert(library.clone()) {
                self.file(library.trim_start_matches('/'), &read(Path::new(&library))?, true)?;
            }
        }
        Ok(())
    }

    fn directory(&mut self, at: &Path) -> Result<()> {
        if self.directories.insert(at.to_owned()) {
            self.entry(&at.to_string_lossy(), 0o040_755, &[])?;
        }
        Ok(())
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entries += 1;
        let size = u32::try_from(content.len()).context("a file of 4 GiB")?;
        let header = cpio::newc::Builder::new(name).ino(self.entries).nlink(1).mode(mode);
        let mut writer = header.write(&mut self.bytes, size);
        writer.write_all(content)?;
        writer.finish()?;
        Ok(())
    }

    /// Adds modules of an unpacked kernel package.
    fn modules(&mut self, kernel: &Path, modules: &[&str]) -> Result<()> {
        let place = only_directory(&kernel.join("lib/modules"))?.join("kernel");
        for module in modules {
            let name = Path::new(module).file_name().context("a module's name")?.to_string_lossy();
            let bytes = fs::read(place.join(module)).with_context(|| format!("module {module}"))?;
            self.file(&format!("modules/{name}"), &bytes, false)?;
        }
        Ok(())
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        cpio::newc::trailer(self.bytes)
    }
}

/// The archive: `kernel` is an unpacked kernel package, `init` the static program, `monitors` what is compared with.
pub(super) fn build(kernel: &Path, init: &Path, coffer: &Coffer, monitors: &[Monitor]) -> Result<Vec<u8>> {
    let init = read(init)?;
    let mut archive = Archive::default();
    archive.file("init", &init, true)?;
    // The same program is the first process of the guests that a case gives orders to.
    let mut guest = Archive::default();
    guest.file("init", &init, true)?;
    archive.file("coffer/lab.img", &guest.finish()?, false)?;
    archive.modules(kernel, MODULES)?;
    archive.program("coffer/coffer-vmm", &coffer.binaries.join("coffer-vmm"))?;
    for name in IMAGE {
        archive.file(&format!("coffer/{name}"), &read(&coffer.guest.join(name))?, false)?;
    }
    if !monitors.is_empty() {
        archive.modules(kernel, BENCH_MODULES)?;
        benchmark(&mut archive, monitors)?;
    }
    Ok(archive.finish()?)
}

/// Adds the guests of the benchmark, and the monitors that ours is compared with.
fn benchmark(archive: &mut Archive, monitors: &[Monitor]) -> Result<()> {
    archive.file("bench/tiny", &guests::kernel(), false)?;
    let mut guest = Archive::default();
    guest.file("init", &guests::init(), true)?;
    archive.file("bench/mark.img", &guest.finish()?, false)?;
    for Monitor { name, program, line, config } in monitors {
        archive.program(&format!("bench/bin/{name}"), program)?;
        archive.file(&format!("bench/{name}.line"), line.as_bytes(), false)?;
        archive.file(&format!("bench/{name}.config"), config.as_bytes(), false)?;
    }
    for file in QEMU_FILES.iter().map(Path::new) {
        let name = file.file_name().context("a file's name")?.to_string_lossy();
        archive.file(&format!("bench/qemu/{name}"), &read(file)?, false)?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

/// The archive of a machine that is a node, and `told` what to do there.
pub(super) fn build_node(kernel: &Path, init: &Path, told: &str) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.file("init", &fs::read(init).with_context(|| init.display().to_string())?, true)?;
    archive.file("node", told.as_bytes(), false)?;
    archive.modules(kernel, NODE_MODULES)?;
    Ok(archive.finish()?)
}

/// The one kernel's directory of a package.
pub(super) fn only_directory(parent: &Path) -> Result<PathBuf> {
    let entry = fs::read_dir(parent).with_context(|| parent.display().to_string())?.next();
    Ok(entry.with_context(|| format!("{} is empty", parent.display()))??.path())
}

/// The shared libraries of a program, by their places: none of one that was linked statically.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let ended = Run::new("ldd").arg(program).end()?;
    let text = String::from_utf8_lossy(&ended.stdout);
    let places = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(places.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_once_and_before_their_files() {
        let mut archive = Archive::default();
        archive.file("a/b/one", b"1", false).unwrap();
        archive.file("a/b/two", b"22", true).unwrap();
        let bytes = archive.finish().unwrap();
        let mut rest = bytes.as_slice();
        let mut seen = Vec::new();
        loop {
            let reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            seen.push((reader.entry().name().to_owned(), reader.entry().mode()));
            rest = reader.finish().unwrap();
        }
        let expected = [("a", 0o040_755), ("a/b", 0o040_755), ("a/b/one", 0o100_644), ("a/b/two", 0o100_755)];
        assert_eq!(seen, expected.map(|(name, mode)| (name.to_owned(), mode)));
    }
}
