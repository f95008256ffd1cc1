//! Sealed layers: a disk with an EROFS image and the dm-verity tree behind it, under a root hash that somebody signed.
//!
//! ```text
//! disk = data, whole blocks ── hash blocks, topmost level first (dm-verity format 1, no superblock)
//! root = SHA-256(salt + topmost hash block), or of the data block if there is one
//! ```
//! The kernel checks each block as it is read, and a wrong one ends the guest. So that a disk that is another one altogether is
//! refused by name instead, the way from its first block up to the root is walked here before the device is made.
//!
//! Source: `Documentation/admin-guide/device-mapper/verity.rst` and `drivers/md/dm-verity-target.c` of Linux.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use coffer_layer::sealed::SealedLayer;
use coffer_layer::verity::{BLOCK, level_places};

use super::device_mapper::{CONTROL, Line, Mapped, Table, numbers};

const SECTOR: u64 = 512;
const BLOCK_BYTES: usize = 4096;
const HASH: usize = 32;

/// Why a sealed layer cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerityError {
    /// The disk cannot be looked at.
    #[error("reading the disk")]
    Read {
        /// The kernel's answer.
        source: io::Error,
    },
    /// It ends before the tree does.
    #[error(
        "the disk has {found} bytes, {expected} are wanted: {data} of data and the hash tree behind them"
    )]
    Short {
        /// Bytes of the disk.
        found: u64,
        /// Bytes wanted.
        expected: u64,
        /// Bytes of data.
        data: u64,
    },
    /// Other bytes than those that were signed.
    #[error(
        "the disk is not the layer that was signed: the hash of its {what} is {found}, {expected} is wanted"
    )]
    Other {
        /// Which block.
        what: &'static str,
        /// Its hash.
        found: String,
        /// The hash that the block above it has, or that was signed.
        expected: String,
    },
    /// The kernel's device.
    #[error("making a device of target verity through {CONTROL}; does the guest kernel have it?")]
    Device {
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Makes the device whose every block is checked against the layer's signed root.
pub(super) fn open(name: &str, disk: &Path, layer: &SealedLayer) -> Result<Mapped, VerityError> {
    let read = |source| VerityError::Read { source };
    let file = File::open(disk).map_err(read)?;
    let bytes = (&file).seek(SeekFrom::End(0)).map_err(read)?;
    check(&file, bytes, layer)?;
    let device = numbers(disk).map_err(read)?;
    let made = Mapped::make(Path::new(CONTROL), name, &table(&device, layer));
    made.map_err(|source| VerityError::Device { source })
}

/// The kernel's words for it. Version 1 puts the salt in front; a corrupted block ends the guest.
fn table(device: &str, layer: &SealedLayer) -> Table {
    let blocks = layer.data_bytes / BLOCK;
    let SealedLayer { root, salt, .. } = layer;
    let line = format!(
        "1 {device} {device} {BLOCK} {BLOCK} {blocks} {blocks} sha256 {root} {salt} 1 panic_on_corruption"
    );
    Table { sectors: layer.data_bytes / SECTOR, target: "verity", line: Line::Plain(line), writable: false }
}

/// Walks from the first block up to the root.
fn check(disk: &File, bytes: u64, layer: &SealedLayer) -> Result<(), VerityError> {
    let expected = layer.file_bytes();
    if bytes < expected {
        return Err(VerityError::Short { found: bytes, expected, data: layer.data_bytes });
    }
    // From the root down, so that the first wrong block is the one that is named.
    let mut wanted = layer.root.0;
    let mut what = "hash tree's root";
    for first in level_places(layer.data_bytes / BLOCK).into_iter().rev() {
        let block = read_block(disk, first)?;
        hold(&block, layer, &wanted, what)?;
        wanted = block.first_chunk().copied().unwrap_or_default();
        what = "hash tree";
    }
    hold(&read_block(disk, 0)?, layer, &wanted, "first block")
}

fn read_block(disk: &File, number: u64) -> Result<Vec<u8>, VerityError> {
    let mut block = vec![0; BLOCK_BYTES];
    let read = disk.read_exact_at(&mut block, number.saturating_mul(BLOCK));
    read.map_err(|source| VerityError::Read { source })?;
    Ok(block)
}

fn hold(
    block: &[u8],
    layer: &SealedLayer,
    wanted: &[u8; HASH],
    what: &'static str,
) -> Result<(), VerityError> {
    let found = layer.salt.hash(block);
    if found == *wanted {
        return Ok(());
    }
    Err(VerityError::Other { what, found: hex::encode(found), expected: hex::encode(wanted) })
}

#[cfg(test)]
mod tests {
    use coffer_layer::verity::{Root, Salt, append, tree_bytes};

    use super::*;

    const SALT: Salt = Salt([0x22; HASH]);

    #[test]
    fn the_kernel_is_told_to_end_the_guest_when_a_block_is_wrong() {
        let layer = SealedLayer { data_bytes: 2 * BLOCK, root: Root([0x11; HASH]), salt: SALT };
        let (root, salt) = ("11".repeat(32), "22".repeat(32));
        let line = format!("1 8:16 8:16 4096 4096 2 2 sha256 {root} {salt} 1 panic_on_corruption");
        let expected = Table { sectors: 16, target: "verity", line: Line::Plain(line), writable: false };
        assert_eq!(table("8:16", &layer), expected);
    }

    /// A file of so many blocks with its tree, and what a manifest says of it.
    fn sealed(blocks: u64) -> (File, SealedLayer) {
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(blocks * BLOCK).unwrap();
        file.write_all_at(b"a file system", 1024).unwrap();
        let root = append(&mut file, blocks * BLOCK, &SALT).unwrap();
        (file, SealedLayer { data_bytes: blocks * BLOCK, root, salt: SALT })
    }

    fn look(file: &File, layer: &SealedLayer) -> Result<(), VerityError> {
        check(file, file.metadata().unwrap().len(), layer)
    }

    fn wrong(result: Result<(), VerityError>) -> &'static str {
        match result {
            Err(VerityError::Other { what, .. }) => what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn disks_of_any_height_are_taken_under_their_root() {
        for blocks in [1, 2, 128, 129, 16_385] {
            let (file, layer) = sealed(blocks);
            look(&file, &layer).unwrap();
            assert_eq!(file.metadata().unwrap().len(), layer.data_bytes + tree_bytes(layer.data_bytes));
        }
    }

    #[test]
    fn another_layers_disk_is_refused_by_its_root() {
        let (file, layer) = sealed(200);
        let other = SealedLayer { root: Root([0x33; HASH]), ..layer };
        assert_eq!(wrong(look(&file, &other)), "hash tree's root");
        let salted = SealedLayer { salt: Salt([0; HASH]), ..layer };
        assert_eq!(wrong(look(&file, &salted)), "hash tree's root");
    }

    #[test]
    fn a_flipped_bit_in_the_tree_or_the_first_block_is_named() {
        let (file, layer) = sealed(200);
        file.write_all_at(&[1], 0).unwrap();
        assert_eq!(wrong(look(&file, &layer)), "first block");
        // The lowest level begins behind the topmost, which is one block.
        file.write_all_at(&[1], 201 * BLOCK + 4000).unwrap();
        assert_eq!(wrong(look(&file, &layer)), "hash tree");
    }

    #[test]
    fn a_disk_that_ends_before_its_tree_is_refused_with_both_sizes() {
        let (file, layer) = sealed(200);
        file.set_len(202 * BLOCK).unwrap();
        let refused = look(&file, &layer);
        assert!(
            matches!(refused, Err(VerityError::Short { found, expected, .. }) if (found, expected) == (202 * BLOCK, 203 * BLOCK)),
            "{refused:?}"
        );
    }
}
