//! An empty ext4 file system, written onto a disk whose blocks cannot be read before they are written.
//!
//! ```text
//! group 0   superblock │ descriptors │ block bitmap │ inode bitmap │ inode table │ / │ /lost+found │ free
//! others                               block bitmap │ inode bitmap │ inode table │ free
//! ```
//! Only what the kernel reads of an empty file system is written: bitmaps of other groups are marked as not yet made, so that the
//! kernel makes them, and of the inode tables two blocks are in use. A block of a table that holds no other inode is made and not
//! read by the kernel (`__ext4_get_inode_loc`). An inode therefore is as long as a block: of two files that are made at the same time
//! in one block, the first to be written would find the other's inode taken, and read what nobody has written. Nor may the kernel
//! read ahead of the inodes in use: mount with `inode_readahead_blks=0`. No journal and no copies of the superblock: the file
//! system does not outlive its key. Blocks have no checksums of their own, because what lies below authenticates each.
//!
//! Source: `Documentation/filesystems/ext4/` of Linux.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::layout::BLOCK;

const BLOCK_BYTES: usize = BLOCK as usize;
/// As many as a bitmap of one block has bits.
const GROUP_BLOCKS: u32 = 32_768;
/// One in a block: see above.
const INODE_BYTES: u32 = BLOCK as u32;
/// One for each 32 KiB, half as many as `mkfs.ext4` makes: an eighth of the disk is for them.
const GROUP_INODES: u32 = 4096;
const TABLE_BLOCKS: u32 = GROUP_INODES;
/// Two bitmaps and the inode table.
const GROUP_OVERHEAD: u32 = 2 + TABLE_BLOCKS;
/// A last group smaller than this is left out.
const LEAST_FREE: u32 = 64;
const DESCRIPTOR_BYTES: usize = 32;
const DESCRIPTORS_PER_BLOCK: u32 = (BLOCK_BYTES / DESCRIPTOR_BYTES) as u32;

const ROOT: u32 = 2;
const LOST_AND_FOUND: u32 = 11;
/// Those below the first that files get are taken for good.
const USED_INODES: u32 = LOST_AND_FOUND;
const DIRECTORIES: u32 = 2;

const INODE_UNINIT: u16 = 1;
const BLOCK_UNINIT: u16 = 2;
/// Nobody is to fill the table with zeros in the background.
const INODE_ZEROED: u16 = 4;

/// Any: nobody looks for it, and descriptors are summed up with it.
const UUID: [u8; 16] = *b"coffer's scratch";

/// Whether a file system of so many bytes can be made.
pub(super) fn fits(bytes: u64) -> bool {
    Shape::of(bytes).is_some()
}

/// Makes a file system on all of the disk's `bytes`. The hashes of directories begin with `seed`.
pub(super) fn write(disk: &File, bytes: u64, seed: &[u8; 16]) -> io::Result<()> {
    let Some(shape) = Shape::of(bytes) else {
        let reason = format!("no file system fits into {bytes} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    };
    let put = |number: u32, block: &[u8]| {
        assert_eq!(block.len(), BLOCK_BYTES, "the rest of a block could not be read");
        disk.write_all_at(block, u64::from(number) * BLOCK)
    };
    put(0, &shape.superblock(seed))?;
    for (number, block) in (1..).zip(shape.descriptors().chunks(BLOCK_BYTES)) {
        put(number, block)?;
    }
    let bitmaps = shape.bitmaps(0);
    put(bitmaps, &shape.block_bitmap(0))?;
    put(bitmaps + 1, &bitmap(USED_INODES, GROUP_INODES))?;
    put(bitmaps + 1 + ROOT, &inode(3, 0o755, shape.root()))?;
    put(bitmaps + 1 + LOST_AND_FOUND, &inode(2, 0o700, shape.root() + 1))?;
    put(shape.root(), &directory(ROOT, &[("lost+found", LOST_AND_FOUND)]))?;
    put(shape.root() + 1, &directory(LOST_AND_FOUND, &[]))?;
    let last = shape.groups - 1;
    if last > 0 {
        put(shape.bitmaps(last), &shape.block_bitmap(last))?;
    }
    disk.sync_data()
}

/// What lies where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    blocks: u32,
    groups: u32,
}

impl Shape {
    fn of(bytes: u64) -> Option<Self> {
        let blocks = u32::try_from(bytes / BLOCK).ok()?;
        let (whole, rest) = (blocks / GROUP_BLOCKS, blocks % GROUP_BLOCKS);
        let shape = match rest < GROUP_OVERHEAD + LEAST_FREE {
            true => Self { blocks: whole * GROUP_BLOCKS, groups: whole },
            false => Self { blocks, groups: whole + 1 },
        };
        // The first group has the superblock and the descriptors besides, and two directories.
        let room = shape.blocks.min(GROUP_BLOCKS);
        (shape.groups > 0 && room >= shape.root() + DIRECTORIES + LEAST_FREE / 2).then_some(shape)
    }

    /// The group's two bitmaps, and its inode table behind them.
    fn bitmaps(self, group: u32) -> u32 {
        match group {
            0 => 1 + self.groups.div_ceil(DESCRIPTORS_PER_BLOCK),
            _ => group * GROUP_BLOCKS,
        }
    }

    /// Block of the root directory.
    fn root(self) -> u32 {
        self.bitmaps(0) + GROUP_OVERHEAD
    }

    fn group_blocks(self, group: u32) -> u32 {
        (self.blocks - group * GROUP_BLOCKS).min(GROUP_BLOCKS)
    }

    /// Blocks at the group's beginning that are taken.
    fn used_blocks(self, group: u32) -> u32 {
        if group == 0 { self.root() + DIRECTORIES } else { GROUP_OVERHEAD }
    }

    fn free_blocks(self, group: u32) -> u32 {
        self.group_blocks(group) - self.used_blocks(group)
    }

    fn block_bitmap(self, group: u32) -> Vec<u8> {
        bitmap(self.used_blocks(group), self.group_blocks(group))
    }

    fn superblock(self, seed: &[u8; 16]) -> Vec<u8> {
        let free = (0..self.groups).map(|group| self.free_blocks(group)).sum();
        let mut block = Block::of(BLOCK_BYTES);
        // It is 1024 bytes into the disk.
        let mut word = |at: usize, value: u32| block.put(1024 + at, &value.to_le_bytes());
        word(0x00, self.groups * GROUP_INODES);
        word(0x04, self.blocks);
        word(0x0c, free);
        word(0x10, self.groups * GROUP_INODES - USED_INODES);
        // Size of blocks and clusters: 1024 shifted by so much.
        word(0x18, 2);
        word(0x1c, 2);
        word(0x20, GROUP_BLOCKS);
        word(0x24, GROUP_BLOCKS);
        word(0x28, GROUP_INODES);
        // Never checked because of its mounts, and the magic number.
        word(0x34, 0xffff << 16);
        word(0x38, 0xef53 | 1 << 16);
        // After an error it goes on, unless the mount says otherwise.
        word(0x3c, 1);
        // Revision, with features; the first inode for files.
        word(0x4c, 1);
        word(0x54, LOST_AND_FOUND);
        word(0x58, INODE_BYTES);
        // ext_attr, dir_index, sparse_super2 (which has no copies unless it names groups for them).
        word(0x5c, 0x8 | 0x20 | 0x200);
        // filetype, extents.
        word(0x60, 0x2 | 0x40);
        // large_file, huge_file, gdt_csum, dir_nlink, extra_isize.
        word(0x64, 0x2 | 0x8 | 0x10 | 0x20 | 0x40);
        // Directories are hashed by half MD4, with signed characters.
        word(0xfc, 1);
        word(0x15c, 32 | 32 << 16);
        word(0x160, 1);
        block.put(1024 + 0x68, &UUID);
        block.put(1024 + 0xec, seed);
        block.0
    }

    /// In whole blocks.
    fn descriptors(self) -> Vec<u8> {
        let mut all: Vec<u8> = (0..self.groups).flat_map(|group| self.descriptor(group).0).collect();
        all.resize(all.len().next_multiple_of(BLOCK_BYTES), 0);
        all
    }

    fn descriptor(self, group: u32) -> Block {
        let (first, last) = (group == 0, group == self.groups - 1);
        // The last group's bitmap has padding, which is written rather than left to the kernel.
        let blocks = if first || last { 0 } else { BLOCK_UNINIT };
        let inodes = if first { 0 } else { INODE_UNINIT };
        let used = if first { USED_INODES } else { 0 };
        let bitmaps = self.bitmaps(group);
        let mut descriptor = Block::of(DESCRIPTOR_BYTES);
        descriptor.put(0, &bitmaps.to_le_bytes());
        descriptor.put(4, &(bitmaps + 1).to_le_bytes());
        descriptor.put(8, &(bitmaps + 2).to_le_bytes());
        descriptor.half(12, self.free_blocks(group));
        descriptor.half(14, GROUP_INODES - used);
        descriptor.half(16, if first { DIRECTORIES } else { 0 });
        descriptor.half(18, u32::from(blocks | inodes | INODE_ZEROED));
        // Inodes at the table's end that were never used.
        descriptor.half(28, GROUP_INODES - used);
        let sum = crc16(0xffff, &UUID);
        let sum = crc16(sum, &group.to_le_bytes());
        let sum = crc16(sum, descriptor.0.get(..30).unwrap_or_default());
        descriptor.half(30, u32::from(sum));
        descriptor
    }
}

/// A directory's inode, which has so many names; its one block is at `place`.
fn inode(links: u32, mode: u32, place: u32) -> Vec<u8> {
    let mut block = Block::of(INODE_BYTES as usize);
    block.half(0, 0o040_000 | mode);
    block.put(4, &(BLOCK as u32).to_le_bytes());
    block.half(26, links);
    // Its length in sectors; that it has extents.
    block.put(28, &8u32.to_le_bytes());
    block.put(32, &0x8_0000u32.to_le_bytes());
    // One extent of at most four: block 0, one block long, there.
    block.half(40, 0xf30a);
    block.half(42, 1);
    block.half(44, 4);
    block.half(56, 1);
    block.put(60, &place.to_le_bytes());
    // Bytes that are in use beyond the first 128.
    block.half(128, 32);
    block.0
}

/// A directory's one block.
fn directory(number: u32, entries: &[(&str, u32)]) -> Vec<u8> {
    let all: Vec<_> = [(".", number), ("..", ROOT)].iter().chain(entries).copied().collect();
    let mut block = Block::of(BLOCK_BYTES);
    let mut at = 0;
    for (index, (name, inode)) in all.iter().enumerate() {
        // The last entry reaches to the block's end.
        let length =
            if index + 1 == all.len() { BLOCK_BYTES - at } else { (8 + name.len()).next_multiple_of(4) };
        block.put(at, &inode.to_le_bytes());
        block.half(at + 4, length as u32);
        // Length of the name, and that it is a directory's.
        block.put(at + 6, &[name.len() as u8, 2]);
        block.put(at + 8, name.as_bytes());
        at += length;
    }
    block.0
}

/// A bitmap whose first `used` bits are set, and those from `end` on, which stand for nothing.
fn bitmap(used: u32, end: u32) -> Vec<u8> {
    let taken = |bit: u32| bit < used || bit >= end;
    let byte = |byte: u32| (0..8).map(|bit| u8::from(taken(byte * 8 + bit)) << bit).sum();
    (0..BLOCK as u32).map(byte).collect()
}

/// The CRC of the polynomial 0x8005 with its bits reversed.
fn crc16(sum: u16, bytes: &[u8]) -> u16 {
    let shift = |sum: u16, _| if sum & 1 == 0 { sum >> 1 } else { sum >> 1 ^ 0xa001 };
    bytes.iter().fold(sum, |sum, byte| (0..8).fold(sum ^ u16::from(*byte), shift))
}

/// Zeros, some of which become fields.
struct Block(Vec<u8>);

impl Block {
    fn of(bytes: usize) -> Self {
        Self(vec![0; bytes])
    }

    fn put(&mut self, at: usize, field: &[u8]) {
        assert!(at + field.len() <= self.0.len(), "a field beyond its block");
        self.0.iter_mut().skip(at).zip(field).for_each(|(place, byte)| *place = *byte);
    }

    /// A field of 16 bits.
    fn half(&mut self, at: usize, value: u32) {
        self.put(at, &(value as u16).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;

    use super::*;

    /// A sparse file with a file system on it, and what e2fsprogs' own checker says of it.
    fn checked(bytes: u64) -> (File, bool, String) {
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(bytes).unwrap();
        write(&disk, bytes, b"sixteen of bytes").unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), disk.as_raw_fd());
        let output = Command::new("/sbin/e2fsck").args(["-fn", &path]).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (disk, output.status.success(), said)
    }

    #[test]
    fn a_file_system_of_any_size_is_sound() {
        // One group, one and a bit, exactly two, a last one too small, some, and a second block of descriptors.
        for bytes in [60 << 20, 200 << 20, 256 << 20, 257 << 20, (10 << 30) - 4096, 20 << 30, 1 << 40] {
            let (_, sound, said) = checked(bytes);
            assert!(sound, "{bytes}: {said}");
        }
    }

    #[test]
    fn few_blocks_are_written() {
        let (disk, _, _) = checked(10 << 30);
        assert!(disk.metadata().unwrap().blocks() * 512 <= 16 * BLOCK);
    }

    #[test]
    fn the_parts_of_a_group_stand_behind_one_another() {
        let shape = Shape::of(10 << 30).unwrap();
        assert_eq!(shape, Shape { blocks: 2_621_440, groups: 80 });
        assert_eq!((shape.bitmaps(0), shape.root(), shape.bitmaps(79)), (2, 4100, 79 * GROUP_BLOCKS));
    }

    #[test]
    fn a_disk_without_room_is_refused_with_its_size() {
        let disk = tempfile::tempfile().unwrap();
        let error = write(&disk, 1 << 20, &[0; 16]).unwrap_err().to_string();
        assert!(error.contains("1048576"), "{error}");
        // More blocks than 32 bits count.
        assert!(write(&disk, 1 << 45, &[0; 16]).is_err());
        assert_eq!(disk.metadata().unwrap().len(), 0);
    }

    #[test]
    fn a_checksum_is_the_kernels() {
        // The check value of CRC-16/ARC, and of the same with other bits to begin with.
        assert_eq!(crc16(0, b"123456789"), 0xbb3d);
        assert_eq!(crc16(0xffff, b"123456789"), 0x4b37);
    }
}
