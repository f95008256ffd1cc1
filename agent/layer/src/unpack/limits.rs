//! How much a layer may ask for.

/// Bounds on what one layer costs. Each is more than images need, and what a guest or a disk can bear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the archive, and of its files with their holes: whoever reads or copies a sparse file fills them.
    pub bytes: u64,
    /// Headers, among them those that only extend others: each costs time, and each file an inode.
    pub entries: u64,
    /// Bytes of a path or of a link's target: the kernel takes 4095.
    pub path_bytes: u64,
    /// Components of a path: each is an open directory while files are written below it.
    pub depth: u64,
    /// Bytes of the extended attributes of one entry, names and values: a file system keeps few.
    pub xattr_bytes: u64,
    /// The same of all entries together: they are kept in inodes, where no quota counts them.
    pub all_xattr_bytes: u64,
    /// Bytes of a header that extends another: they are held in memory.
    pub extension_bytes: u64,
    /// Pieces of one sparse file: their places are held in memory.
    pub pieces: u64,
    /// Bytes of the archive for each byte of the blob, beyond `ratio_from`. gzip reaches 1032, so its layers may hold anything,
    /// even nothing but zeroes; zstd reaches 30000, and a few KiB of it could fill a disk.
    pub ratio: u64,
    /// Bytes of the archive that are not weighed.
    pub ratio_from: u64,
    /// Bytes of zstd's window, which is held in memory: 8 MiB are what RFC 8878 asks everybody to keep to and what levels up to 19
    /// take; 32 MiB are the most that BuildKit's encoder takes.
    pub window_bytes: u64,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 64 * GIB,
            entries: 1_000_000,
            path_bytes: 4095,
            depth: 128,
            xattr_bytes: 64 * KIB,
            all_xattr_bytes: 64 * MIB,
            extension_bytes: MIB,
            pieces: 65_536,
            ratio: 1100,
            ratio_from: 64 * MIB,
            window_bytes: 32 * MIB,
        }
    }
}
