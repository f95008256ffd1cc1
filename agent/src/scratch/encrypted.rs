//! The two devices of the kernel's over the host's disk, and the key.
//!
//! ```text
//! scratch-tags  integrity   the disk's blocks and beside each 48 bytes, kept and not judged
//! scratch       crypt       authenc(hmac(sha256),xts(aes)): each block under a random start, with its number authenticated
//! ```
//! Whatever the host does to the lower device, its layout included, the upper one gives back what was written under this key
//! at this place, or an I/O error. What it gives back may be what was written there before (docs/threat-model.md).
//!
//! Source: `Documentation/admin-guide/device-mapper/dm-crypt.rst` of Linux.

use std::fmt::Write;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::ext4;
use super::layout::{BLOCK, SECTOR, TAG, data_sectors};
use crate::image::device_mapper::{CONTROL, Line, Mapped, Table, numbers};

/// Two of AES-256 for XTS, and one as long as the HMAC's hash.
const KEY_BYTES: usize = 2 * 32 + 32;

/// Why there is no such disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EncryptedError {
    /// The disk cannot be used.
    #[error("using the disk {disk}")]
    Disk {
        /// Its node.
        disk: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No file system can be made on it.
    #[error(
        "the disk {disk} has {found} bytes: no file system with its tags fits, or none of that size can be made"
    )]
    Size {
        /// Its node.
        disk: PathBuf,
        /// Its size.
        found: u64,
    },
    /// No key could be made.
    #[error("no random key from the kernel")]
    Random {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel's device.
    #[error("making a device of target {target} through {CONTROL}; does the guest kernel have it?")]
    Device {
        /// Which target.
        target: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The file system.
    #[error("making a file system of {bytes} bytes on the encrypted disk")]
    FileSystem {
        /// Its size.
        bytes: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The agent's thread ended without a result.
    #[error("making the encrypted disk was cut off")]
    CutOff,
}

/// Makes the encrypted disk of `disk`, with an empty ext4 file system on it; answers its node. It is there until the
/// guest ends, and nothing of what `disk` held is on it.
pub(crate) async fn make(disk: PathBuf) -> Result<PathBuf, EncryptedError> {
    let made = tokio::task::spawn_blocking(move || make_now(&disk)).await;
    made.unwrap_or(Err(EncryptedError::CutOff))
}

fn make_now(disk: &Path) -> Result<PathBuf, EncryptedError> {
    let using = |source| EncryptedError::Disk { disk: disk.to_owned(), source };
    let found = clear(disk).map_err(using)?;
    let sectors = data_sectors(found / SECTOR);
    let bytes = sectors * SECTOR;
    if !ext4::fits(bytes) {
        return Err(EncryptedError::Size { disk: disk.to_owned(), found });
    }
    let tags = tags(&numbers(disk).map_err(using)?, sectors);
    let tags = map("scratch-tags", &tags)?;
    let below = numbers(tags.node()).map_err(using)?;
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    random(&mut *key).map_err(|source| EncryptedError::Random { source })?;
    let upper = map("scratch", &crypt(&below, sectors, &key))?;
    let made = fill(upper.node(), bytes);
    made.map_err(|source| EncryptedError::FileSystem { bytes, source })?;
    // Had one failed, both would go, in whatever order: the kernel keeps the lower one until the upper one has gone.
    let node = upper.node().to_owned();
    upper.keep();
    tags.keep();
    Ok(node)
}

/// Sees to it that the kernel finds no layout of the host's; answers the disk's size in bytes.
fn clear(disk: &Path) -> io::Result<u64> {
    let mut file = File::options().write(true).open(disk)?;
    file.write_all_at(&[0; BLOCK as usize], 0)?;
    file.sync_data()?;
    file.seek(SeekFrom::End(0))
}

fn fill(device: &Path, bytes: u64) -> io::Result<()> {
    let mut seed = [0; 16];
    random(&mut seed)?;
    ext4::write(&File::options().write(true).open(device)?, bytes, &seed)
}

/// Waits until the kernel has seen enough of chance.
fn random(bytes: &mut [u8]) -> io::Result<()> {
    getrandom::fill(bytes).map_err(io::Error::other)
}

fn map(name: &str, table: &Table) -> Result<Mapped, EncryptedError> {
    let made = Mapped::make(Path::new(CONTROL), name, table);
    made.map_err(|source| EncryptedError::Device { target: table.target, source })
}

/// Written in place and without order (`D`): nothing has to survive the guest. The smallest journal that there is.
fn tags(disk: &str, sectors: u64) -> Table {
    let line = format!("{disk} 0 {TAG} D 3 block_size:{BLOCK} journal_sectors:1 fix_padding");
    Table { sectors, target: "integrity", line: Line::Plain(line), writable: true }
}

/// Without discards: a block that was given back would have no tag any more, and its next reader an error.
fn crypt(tags: &str, sectors: u64, key: &[u8; KEY_BYTES]) -> Table {
    let mut hex = Zeroizing::new([0; 2 * KEY_BYTES]);
    let encoded = hex::encode_to_slice(key, &mut *hex);
    assert!(encoded.is_ok(), "two digits for each byte");
    // With room enough, so that no part of it is left behind when it grows.
    let mut line = Zeroizing::new(String::with_capacity(Line::MOST));
    line.push_str("capi:authenc(hmac(sha256),xts(aes))-random ");
    line.extend(hex.iter().map(|digit| char::from(*digit)));
    // A string takes whatever is written to it.
    let _ = write!(line, " 0 {tags} 0 2 integrity:{TAG}:aead sector_size:{BLOCK}");
    Table { sectors, target: "crypt", line: Line::Secret(line), writable: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_told_to_keep_tags_and_to_judge_none() {
        let line = "8:0 0 48 D 3 block_size:4096 journal_sectors:1 fix_padding".to_owned();
        let expected = Table { sectors: 8, target: "integrity", line: Line::Plain(line), writable: true };
        assert_eq!(tags("8:0", 8), expected);
    }

    #[test]
    fn the_kernel_is_told_to_encrypt_and_to_authenticate() {
        let table = crypt("253:0", 16, &[0xab; KEY_BYTES]);
        let line = format!(
            "capi:authenc(hmac(sha256),xts(aes))-random {} 0 253:0 0 2 integrity:48:aead sector_size:4096",
            "ab".repeat(96)
        );
        assert!(line.len() < Line::MOST);
        assert_eq!((table.sectors, table.target), (16, "crypt"));
        assert_eq!(table.line, Line::Secret(Zeroizing::new(line)));
    }

    #[test]
    fn a_disk_without_room_is_refused_before_anything_is_made_of_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let refused = make_now(file.path()).unwrap_err();
        assert!(matches!(refused, EncryptedError::Size { found: 1_048_576, .. }), "{refused}");
    }

    #[test]
    fn what_a_host_wrote_where_the_layout_is_kept_is_gone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        file.as_file().write_all_at(&[0xff; 5000], 0).unwrap();
        assert_eq!(clear(file.path()).unwrap(), 64 << 20);
        let mut found = [1; 5000];
        file.as_file().read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found[..4096], [0; 4096]);
        // The rest is never read before it was written.
        assert_eq!(found[4096..], [0xff; 904]);
    }
}
