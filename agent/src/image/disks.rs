//! Finds a disk by its serial, and waits for it when it was attached a moment ago.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::timeout;

use super::uevents::Uevents;

const SYS_BLOCK: &str = "/sys/block";
/// How long a disk that was announced may take to appear.
const PATIENCE: Duration = Duration::from_secs(10);
/// The four bytes before the serial in a SCSI "unit serial number" page (SPC-4, 7.8.17).
const PAGE_HEADER: usize = 4;

/// Why a disk was not found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    /// No such disk came in time.
    #[error("no disk with serial {serial} appeared within {} s; present: {present}", PATIENCE.as_secs())]
    Missing {
        /// The serial that was looked for.
        serial: String,
        /// The serials of the disks that are there.
        present: String,
    },
    /// The kernel's announcements of devices cannot be heard.
    #[error("listening for new disks")]
    Listen {
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The device node of the disk with this serial; waits for it up to ten seconds.
pub(crate) async fn find_disk(serial: &str) -> Result<PathBuf, DiskError> {
    let mut found = find_disks(&[serial]).await?;
    found.pop().ok_or_else(|| missing(Path::new(SYS_BLOCK), serial))
}

/// The device nodes of the disks with these serials, in their order; waits for them up to ten seconds.
pub(super) async fn find_disks(serials: &[&str]) -> Result<Vec<PathBuf>, DiskError> {
    find_below(Path::new(SYS_BLOCK), serials, PATIENCE).await
}

async fn find_below(
    sys_block: &Path,
    serials: &[&str],
    patience: Duration,
) -> Result<Vec<PathBuf>, DiskError> {
    if let Ok(devices) = look(sys_block, serials) {
        return Ok(devices);
    }
    let uevents = Uevents::open().map_err(listen)?;
    // They may have come between the first look and the subscription.
    let wait = async {
        loop {
            if let Ok(devices) = look(sys_block, serials) {
                return Ok(devices);
            }
            uevents.block_device().await.map_err(listen)?;
        }
    };
    match timeout(patience, wait).await {
        Ok(found) => found,
        Err(_) => look(sys_block, serials).map_err(|serial| missing(sys_block, serial)),
    }
}

/// One pass over all disks, however many are looked for; the first serial that is missing is the error.
fn look<'a>(sys_block: &Path, serials: &[&'a str]) -> Result<Vec<PathBuf>, &'a str> {
    let there: HashMap<String, String> = disks(sys_block).map(|(name, serial)| (serial, name)).collect();
    let node = |serial: &&'a str| there.get(*serial).map(|name| Path::new("/dev").join(name)).ok_or(*serial);
    serials.iter().map(node).collect()
}

fn missing(sys_block: &Path, serial: &str) -> DiskError {
    DiskError::Missing { serial: serial.to_owned(), present: present(sys_block) }
}

fn present(sys_block: &Path) -> String {
    let serials: Vec<String> = disks(sys_block).map(|(_, serial)| serial).collect();
    if serials.is_empty() { "none".to_owned() } else { serials.join(", ") }
}

/// Name and serial of each disk that has one.
fn disks(sys_block: &Path) -> impl Iterator<Item = (String, String)> {
    let entries = fs::read_dir(sys_block).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, serial(&entry.path())?)))
}

fn serial(disk: &Path) -> Option<String> {
    // SCSI has its serial in a page of its own, virtio-blk in an attribute.
    let bytes = match fs::read(disk.join("device/vpd_pg80")) {
        Ok(page) => page.get(PAGE_HEADER..)?.to_vec(),
        Err(_) => fs::read(disk.join("serial")).ok()?,
    };
    let text = String::from_utf8(bytes).ok()?;
    let serial = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!serial.is_empty()).then(|| serial.to_owned())
}

fn listen(source: io::Error) -> DiskError {
    DiskError::Listen { source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sysfs() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("sdb/device")).unwrap();
        fs::write(root.path().join("sdb/device/vpd_pg80"), b"\x00\x80\x00\x08layer-01").unwrap();
        fs::create_dir_all(root.path().join("vda")).unwrap();
        fs::write(root.path().join("vda/serial"), b"scratch\n").unwrap();
        fs::create_dir_all(root.path().join("loop0")).unwrap();
        root
    }

    #[tokio::test]
    async fn a_scsi_disk_is_found_by_its_serial_page() {
        let root = sysfs();
        let found = find_below(root.path(), &["layer-01"], Duration::ZERO).await.unwrap();
        assert_eq!(found, [PathBuf::from("/dev/sdb")]);
    }

    #[tokio::test]
    async fn a_virtio_disk_is_found_by_its_serial() {
        let root = sysfs();
        let found = find_below(root.path(), &["scratch"], Duration::ZERO).await.unwrap();
        assert_eq!(found, [PathBuf::from("/dev/vda")]);
    }

    #[tokio::test]
    async fn a_missing_disk_is_reported_with_those_that_are_there() {
        let root = sysfs();
        let error = find_below(root.path(), &["layer-01", "layer-02"], Duration::ZERO).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("layer-02") && text.contains("layer-01") && text.contains("scratch"), "{text}");
    }

    #[test]
    fn a_serial_page_shorter_than_its_header_is_no_serial() {
        let root = sysfs();
        fs::write(root.path().join("sdb/device/vpd_pg80"), b"\x00\x80").unwrap();
        assert_eq!(serial(&root.path().join("sdb")), None);
    }
}
