//! Which modules of a packaged kernel a guest needs, and in which order they have to be loaded.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// What a guest needs of a kernel that has everything as modules. What these need in turn is found in `modules.dep`.
pub(super) const WANTED: &[&str] = &[
    "virtio_mmio",
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "sd_mod",
    "virtio_net",
    "virtio-rng",
    "vmw_vsock_virtio_transport",
    "erofs",
    "ext4",
    "overlay",
    "loop",
    "fuse",
    "9p",
    "9pnet_fd",
    "dm-verity",
    "veth",
    "tun",
    "nf_tables",
    "nft_compat",
    "nft_ct",
    "nft_chain_nat",
    "nft_masq",
    "nft_redir",
    "crc32c_generic",
];

/// The files below `modules.dep`'s directory that `wanted` and their dependencies are, each after what it needs. A
/// name that `modules.dep` does not know is left out: that kernel has it built in, or not at all.
pub(super) fn in_order(modules_dep: &str, wanted: &[&str]) -> Vec<PathBuf> {
    let table: BTreeMap<String, (&str, Vec<&str>)> = modules_dep.lines().filter_map(parse_line).collect();
    let mut ordered: Vec<&str> = Vec::new();
    for (path, needs) in wanted.iter().filter_map(|name| table.get(&plain(name))) {
        // depmod lists a module's needs completely, the nearest first, so that the reverse order can be loaded.
        for file in needs.iter().rev().chain([path]) {
            if !ordered.contains(file) {
                ordered.push(file);
            }
        }
    }
    ordered.into_iter().map(PathBuf::from).collect()
}

fn parse_line(line: &str) -> Option<(String, (&str, Vec<&str>))> {
    let (path, needs) = line.split_once(':')?;
    let name = path.rsplit('/').next()?.split(".ko").next()?;
    Some((plain(name), (path, needs.split_whitespace().collect())))
}

/// A module's name is the same with `-` and with `_`.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULES_DEP: &str = "kernel/a/virtio.ko:\n\
        kernel/a/virtio_ring.ko: kernel/a/virtio.ko\n\
        kernel/a/virtio-net.ko: kernel/b/failover.ko kernel/a/virtio_ring.ko kernel/a/virtio.ko\n\
        kernel/b/failover.ko:\n";

    fn names(wanted: &[&str]) -> Vec<String> {
        in_order(MODULES_DEP, wanted).iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn a_module_comes_after_all_that_it_needs() {
        assert_eq!(
            names(&["virtio_net"]),
            [
                "kernel/a/virtio.ko",
                "kernel/a/virtio_ring.ko",
                "kernel/b/failover.ko",
                "kernel/a/virtio-net.ko"
            ]
        );
    }

    #[test]
    fn a_module_that_two_need_is_loaded_once() {
        assert_eq!(names(&["virtio_ring", "virtio", "virtio-net"]).len(), 4);
    }

    #[test]
    fn a_module_that_is_built_in_is_left_out() {
        assert!(names(&["ext4"]).is_empty());
    }
}
