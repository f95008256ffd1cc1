//! What a file system that calls itself EROFS says of itself, before a kernel is made to believe it.
//!
//! ```text
//! disk = 1024 bytes of anything ── superblock, 128 bytes ── …
//!   0 magic u32   8 compatible u32   12 block bits u8   13 extension slots u8   36 blocks u32   80 incompatible u32   86 devices u16
//! ```
//! Little endian; Linux 6.12's `fs/erofs/erofs_fs.h`. The kernel checks much of this too, and says `EINVAL` to all of it.

use std::io::{self, Read, Seek, SeekFrom};

/// Where the superblock is.
const OFFSET: u64 = 1024;
/// Its length, without extensions.
const LENGTH: usize = 128;
const MAGIC: u32 = 0xE0F5_E1E2;
/// From 512 bytes to a page.
const BLOCK_BITS: std::ops::RangeInclusive<u8> = 9..=12;
/// The features that the guest's kernel has (`EROFS_ALL_FEATURE_INCOMPAT`).
const KNOWN: u32 = 0x7F;

/// Why a disk has no file system that the guest could mount.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// The disk cannot be read.
    #[error("cannot read the superblock of the layer's disk")]
    Read(#[source] io::Error),
    /// Too short for a superblock.
    #[error("the layer's disk has {found} bytes: an EROFS file system has 1152 at least")]
    Short {
        /// Bytes of the disk.
        found: u64,
    },
    /// Something else.
    #[error("the layer's disk is no EROFS file system: magic {found:#010x}, expected was 0xe0f5e1e2")]
    Magic {
        /// Where the magic should be.
        found: u32,
    },
    /// Blocks of a size that Linux does not know.
    #[error("blocks of 2^{bits} bytes: EROFS has them from 2^9 to 2^12")]
    Blocks {
        /// The logarithm.
        bits: u8,
    },
    /// Made for a newer kernel.
    #[error(
        "features {unknown:#x} of EROFS, which the guest's kernel does not know: make the image with an older mkfs.erofs"
    )]
    Features {
        /// The unknown bits.
        unknown: u32,
    },
    /// Its data is elsewhere.
    #[error("data on {count} further devices: a layer has one disk")]
    Devices {
        /// How many.
        count: u16,
    },
    /// It goes on behind its disk's end.
    #[error("{claimed} bytes of file system on a disk of {found}: it was cut off")]
    Size {
        /// Bytes of the file system.
        claimed: u64,
        /// Bytes of the disk.
        found: u64,
    },
}

/// What a superblock says that was believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// Bytes of the file system; at most those of its disk.
    pub bytes: u64,
}

impl Superblock {
    /// Reads it from a disk, or from a file that is one.
    ///
    /// # Errors
    /// [`ErofsError`]
    pub fn read(mut disk: impl Read + Seek) -> Result<Self, ErofsError> {
        let found = disk.seek(SeekFrom::End(0)).map_err(ErofsError::Read)?;
        if found < OFFSET.saturating_add(LENGTH as u64) {
            return Err(ErofsError::Short { found });
        }
        let mut bytes = [0; LENGTH];
        disk.seek(SeekFrom::Start(OFFSET)).map_err(ErofsError::Read)?;
        disk.read_exact(&mut bytes).map_err(ErofsError::Read)?;
        Self::parse(&bytes, found)
    }

    /// From the superblock's bytes, of a disk that has `disk` bytes.
    ///
    /// # Errors
    /// [`ErofsError`]
    pub fn parse(bytes: &[u8; LENGTH], disk: u64) -> Result<Self, ErofsError> {
        let magic = u32::from_le_bytes(field(bytes, 0));
        if magic != MAGIC {
            return Err(ErofsError::Magic { found: magic });
        }
        let [bits] = field(bytes, 12);
        if !BLOCK_BITS.contains(&bits) {
            return Err(ErofsError::Blocks { bits });
        }
        let unknown = u32::from_le_bytes(field(bytes, 80)) & !KNOWN;
        if unknown != 0 {
            return Err(ErofsError::Features { unknown });
        }
        let count = u16::from_le_bytes(field(bytes, 86));
        if count != 0 {
            return Err(ErofsError::Devices { count });
        }
        // At most 2^44.
        let claimed = u64::from(u32::from_le_bytes(field(bytes, 36))) << bits;
        if claimed > disk {
            return Err(ErofsError::Size { claimed, found: disk });
        }
        Ok(Self { bytes: claimed })
    }
}

/// `N` bytes from `at` on, which is a place within the superblock.
fn field<const N: usize>(bytes: &[u8; LENGTH], at: usize) -> [u8; N] {
    std::array::from_fn(|index| bytes.get(at + index).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::process::Command;

    /// The superblock of 3 blocks of 4096 bytes.
    fn good() -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[12] = 12;
        bytes[36] = 3;
        bytes
    }

    fn refused(change: impl FnOnce(&mut [u8; LENGTH])) -> String {
        let mut bytes = good();
        change(&mut bytes);
        Superblock::parse(&bytes, 3 * 4096).unwrap_err().to_string()
    }

    #[test]
    fn a_superblock_says_how_long_the_file_system_is() {
        assert_eq!(Superblock::parse(&good(), 3 * 4096).unwrap(), Superblock { bytes: 3 * 4096 });
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(refused(|bytes| bytes[0] = 0).contains("no EROFS file system"));
        assert!(refused(|bytes| bytes[12] = 13).contains("2^13"));
        assert!(refused(|bytes| bytes[12] = 8).contains("2^8"));
        assert!(refused(|bytes| bytes[80] = 0x80).contains("0x80"));
        assert!(refused(|bytes| bytes[86] = 1).contains("1 further devices"));
        assert!(refused(|bytes| bytes[36] = 4).contains("cut off"));
    }

    #[test]
    fn a_disk_without_room_for_a_superblock_is_refused() {
        let short = io::Cursor::new(vec![0; 1151]);
        assert!(matches!(Superblock::read(short), Err(ErofsError::Short { found: 1151 })));
    }

    #[test]
    fn what_mkfs_makes_is_believed_and_cut_off_it_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let (tree, image) = (directory.path().join("tree"), directory.path().join("image"));
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(tree.join("file"), vec![7; 100_000]).unwrap();
        let made = Command::new("mkfs.erofs").arg("--quiet").arg(&image).arg(&tree).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let file = File::options().read(true).write(true).open(&image).unwrap();
        let length = file.metadata().unwrap().len();
        let found = Superblock::read(&file).unwrap();
        assert!(found.bytes > 100_000 && found.bytes <= length, "{found:?} of {length}");
        file.set_len(found.bytes - 1).unwrap();
        assert!(matches!(Superblock::read(&file), Err(ErofsError::Size { .. })));
    }
}
