//! Names of volumes and disks: the same host source has the same name in every container of a pod.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::content::BlockDevice;

/// The id of a volume: its kind, the readable part of its source, and enough of a digest to tell sources apart.
pub(crate) fn volume_id(kind: &str, source: &Path) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '-' };
    let last = source.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let readable: String = last.chars().map(plain).take(40).collect();
    format!("{kind}.{readable}.{}", short_digest(source.as_os_str().as_bytes()))
}

/// The serial of a host's device in the machine; virtio's limit is 20 bytes.
pub(crate) fn disk_serial(device: BlockDevice, read_only: bool) -> String {
    let name = format!("{}:{}:{read_only}", device.major, device.minor);
    format!("vol-{}", short_digest(name.as_bytes()))
}

/// 64 bits of SHA-256 in hex: what a pod's author could collide are only the author's own volumes.
fn short_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_has_one_id_and_two_have_two() {
        let (a, b) = (Path::new("/a/cache"), Path::new("/b/cache"));
        assert_eq!(volume_id("share", a), volume_id("share", a));
        assert_ne!(volume_id("share", a), volume_id("share", b));
    }

    #[test]
    fn an_odd_name_gives_an_id_that_the_protocol_takes() {
        let id = volume_id("share", Path::new("/x/ä b/…%"));
        assert!(
            id.len() <= 128
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        );
    }

    #[test]
    fn a_serial_fits_virtio() {
        assert!(
            disk_serial(BlockDevice { major: 259, minor: 1 << 20 }, true).len()
                <= coffer_vmm::spec::MAX_SERIAL
        );
    }
}
