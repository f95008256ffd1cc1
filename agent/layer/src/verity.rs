//! dm-verity's hash tree (version 1, SHA-256, blocks of 4096 bytes for data and hashes, no superblock), as `veritysetup format
//! --no-superblock` lays it out: the topmost level first, each block's hash with the salt before it.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};

use sha2::{Digest as _, Sha256};

/// Bytes of a block, of data and of hashes.
pub const BLOCK: u64 = 4096;

const BLOCK_BYTES: usize = 4096;
const HASH_BYTES: usize = 32;
const HASHES_IN_BLOCK: u64 = 128;
const ZEROES: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// The hash that vouches for every byte of the data.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Root(pub [u8; HASH_BYTES]);

/// What is hashed before every block.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Salt(pub [u8; HASH_BYTES]);

impl Salt {
    /// The hash of a block, of data or of hashes, as the block above has it.
    pub fn hash(&self, block: &[u8]) -> [u8; HASH_BYTES] {
        Sha256::new_with_prefix(self.0).chain_update(block).finalize().into()
    }
}

/// A tree in memory, as it lies behind its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Its root.
    pub root: Root,
    /// Its blocks; none for data of one block, whose hash is the root.
    pub bytes: Vec<u8>,
}

impl Tree {
    /// The tree of `data`, whose length is a positive multiple of [`BLOCK`].
    pub fn of(data: &[u8], salt: &Salt) -> io::Result<Self> {
        let mut file = io::Cursor::new(data.to_vec());
        let root = append(&mut file, data.len() as u64, salt)?;
        Ok(Self { root, bytes: file.into_inner().split_off(data.len()) })
    }
}

/// Bytes of the tree of `data_bytes`, which are a multiple of [`BLOCK`].
pub fn tree_bytes(data_bytes: u64) -> u64 {
    levels(data_bytes / BLOCK).iter().sum::<u64>().saturating_mul(BLOCK)
}

/// Writes the tree of the first `data_bytes` of `file` behind them. Memory is a few blocks, whatever the size.
///
/// Fails with `InvalidInput` unless `data_bytes` is a positive multiple of [`BLOCK`], and with what reading and writing fail with.
pub fn append(file: &mut (impl Read + Write + Seek), data_bytes: u64, salt: &Salt) -> io::Result<Root> {
    if data_bytes == 0 || !data_bytes.is_multiple_of(BLOCK) {
        let reason = format!("{data_bytes} bytes are no positive multiple of {BLOCK}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    let mut tree = Growing::new(data_bytes, salt);
    let mut chunk = vec![0; BLOCK_BYTES * 128];
    let mut at = 0;
    while at < data_bytes {
        let count = (data_bytes - at).min(chunk.len() as u64);
        let part = chunk.get_mut(..usize::try_from(count).unwrap_or_default()).unwrap_or_default();
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(part)?;
        for block in part.chunks(BLOCK_BYTES) {
            let hash = salt.hash(block);
            tree.add(file, 0, hash)?;
        }
        at += count;
    }
    tree.finish(file)
}

/// The first block of each level of the tree behind so many blocks of data, from the level above the data up to the topmost,
/// which lies first.
pub fn level_places(data_blocks: u64) -> Vec<u64> {
    let mut at = data_blocks;
    let mut places: Vec<u64> = Vec::new();
    for blocks in levels(data_blocks).into_iter().rev() {
        places.push(at);
        at = at.saturating_add(blocks);
    }
    places.reverse();
    places
}

/// Blocks of each level, from the one above the data up to the one of a single block.
fn levels(data_blocks: u64) -> Vec<u64> {
    let mut levels = Vec::new();
    let mut below = data_blocks;
    while below > 1 {
        below = below.div_ceil(HASHES_IN_BLOCK);
        levels.push(below);
    }
    levels
}

/// A level's next block, and where it goes.
struct Level {
    at: u64,
    block: Vec<u8>,
}

struct Growing {
    salt: Salt,
    levels: Vec<Level>,
    root: Option<Root>,
}

impl Growing {
    fn new(data_bytes: u64, salt: &Salt) -> Self {
        let level = |place: u64| Level { at: place * BLOCK, block: Vec::with_capacity(BLOCK_BYTES) };
        let placed = level_places(data_bytes / BLOCK).into_iter().map(level).collect();
        Self { salt: *salt, levels: placed, root: None }
    }

    /// Adds a hash to the level `number`; above the topmost it is the root.
    fn add(
        &mut self,
        file: &mut (impl Write + Seek),
        number: usize,
        hash: [u8; HASH_BYTES],
    ) -> io::Result<()> {
        let Some(level) = self.levels.get_mut(number) else {
            self.root = Some(Root(hash));
            return Ok(());
        };
        level.block.extend_from_slice(&hash);
        if level.block.len() < BLOCK_BYTES { Ok(()) } else { self.write(file, number) }
    }

    fn write(&mut self, file: &mut (impl Write + Seek), number: usize) -> io::Result<()> {
        let Some(level) = self.levels.get_mut(number) else { return Ok(()) };
        let padding = ZEROES.get(level.block.len()..).unwrap_or_default();
        level.block.extend_from_slice(padding);
        file.seek(SeekFrom::Start(level.at))?;
        file.write_all(&level.block)?;
        level.at += BLOCK;
        let block = std::mem::take(&mut level.block);
        let hash = self.salt.hash(&block);
        self.add(file, number + 1, hash)
    }

    fn finish(mut self, file: &mut (impl Write + Seek)) -> io::Result<Root> {
        for number in 0..self.levels.len() {
            if self.levels.get(number).is_some_and(|level| !level.block.is_empty()) {
                self.write(file, number)?;
            }
        }
        self.root.ok_or_else(|| io::Error::other("a tree without a root"))
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::process::Command;

    use super::*;

    const SALT: Salt = Salt([7; 32]);

    fn data(blocks: usize) -> Vec<u8> {
        (0..blocks * BLOCK_BYTES).map(|at| (at / 97 % 251) as u8).collect()
    }

    #[test]
    fn one_block_has_no_tree_and_its_hash_is_the_root() {
        let data = data(1);
        let tree = Tree::of(&data, &SALT).unwrap();
        assert_eq!(tree.bytes, b"");
        assert_eq!(
            tree.root.0,
            <[u8; 32]>::from(Sha256::new_with_prefix([7; 32]).chain_update(&data).finalize())
        );
    }

    #[test]
    fn the_topmost_level_of_the_tree_comes_first() {
        assert!(level_places(1).is_empty());
        assert_eq!(level_places(128), [128]);
        // 129 blocks need two blocks of hashes, and one above them.
        assert_eq!(level_places(129), [130, 129]);
        assert_eq!(level_places((1 << 30) / BLOCK), [262_161, 262_145, 262_144]);
    }

    #[test]
    fn a_tree_is_as_long_as_it_is_said_to_be() {
        let counts = [1usize, 2, 127, 128, 129, 300];
        let lengths = counts.map(|count| Tree::of(&data(count), &SALT).unwrap().bytes.len() as u64);
        assert_eq!(lengths, counts.map(|count| tree_bytes(count as u64 * BLOCK)));
        assert_eq!(tree_bytes(16384 * BLOCK), (128 + 1) * BLOCK);
        assert_eq!(tree_bytes(16385 * BLOCK), (129 + 2 + 1) * BLOCK);
    }

    #[test]
    fn one_flipped_bit_makes_another_root() {
        let mut data = data(300);
        let before = Tree::of(&data, &SALT).unwrap();
        data[299 * BLOCK_BYTES + 5] ^= 1;
        assert_ne!(Tree::of(&data, &SALT).unwrap().root, before.root);
    }

    #[test]
    fn another_salt_makes_another_root() {
        let data = data(3);
        assert_ne!(Tree::of(&data, &SALT).unwrap().root, Tree::of(&data, &Salt([8; 32])).unwrap().root);
    }

    #[test]
    fn half_a_block_is_refused() {
        let refused = Tree::of(&[0; 4095], &SALT).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        assert!(Tree::of(&[], &SALT).is_err());
    }

    #[test]
    fn data_shorter_than_said_is_an_error() {
        let mut file = io::Cursor::new(data(1));
        assert!(append(&mut file, 2 * BLOCK, &SALT).is_err());
    }

    #[test]
    fn the_tree_is_the_one_that_veritysetup_makes() {
        let sizes = [1usize, 2, 128, 129, 16384, 16400];
        let there = Command::new("veritysetup").arg("--version").output().is_ok();
        if !there {
            eprintln!("skipped: needs veritysetup (cryptsetup-bin)");
            return;
        }
        let same = sizes.map(same_as_veritysetup);
        assert_eq!(same, [true; 6]);
    }

    fn same_as_veritysetup(blocks: usize) -> bool {
        let directory = tempfile::tempdir().unwrap();
        let (ours, theirs) = (directory.path().join("ours"), directory.path().join("theirs"));
        fs::write(&ours, data(blocks)).unwrap();
        fs::write(&theirs, data(blocks)).unwrap();
        let mut file = File::options().read(true).write(true).open(&ours).unwrap();
        let root = append(&mut file, blocks as u64 * BLOCK, &SALT).unwrap();
        let offset = (blocks as u64 * BLOCK).to_string();
        let output = Command::new("veritysetup")
            .args(["format", "--no-superblock", "--format=1", "--hash=sha256", "--data-block-size=4096"])
            .args(["--hash-block-size=4096", "--hash-offset", &offset, "--data-blocks", &blocks.to_string()])
            .args(["--salt", &SALT.to_string()])
            .args([&theirs, &theirs])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let same_tree = fs::read(&ours).unwrap() == fs::read(&theirs).unwrap();
        output.status.success() && said.contains(&root.to_string()) && same_tree
    }
}
