//! How dm-integrity divides a disk, as far as one must know it to ask for no more than there is.
//!
//! ```text
//! superblock, journal (less than FRONT) ── tags of an area ── the area's blocks ── tags ── blocks ── …
//! ```
//! Source: `Documentation/admin-guide/device-mapper/dm-integrity.rst` and `drivers/md/dm-integrity.c` of Linux.

/// Of the device mapper and of disks.
pub(super) const SECTOR: u64 = 512;
/// What is encrypted and authenticated as one.
pub(super) const BLOCK: u64 = 4096;
/// An HMAC-SHA256 and the random start of the cipher.
pub(super) const TAG: u64 = 32 + 16;

/// Sectors kept for the superblock and the journal, which in this mode holds nothing and is as small as it may be: 272.
const FRONT: u64 = (1 << 20) / SECTOR;
/// The kernel's default, in sectors.
const AREA: u64 = 32_768;
/// Sectors of the tags of a whole area; already whole blocks, so that `fix_padding` adds none.
const TAGS: u64 = AREA * SECTOR / BLOCK * TAG / SECTOR;

/// Sectors that a disk of so many has for data, in whole blocks.
pub(super) fn data_sectors(disk: u64) -> u64 {
    let room = disk.saturating_sub(FRONT);
    let last = (room % (AREA + TAGS)).saturating_sub(TAGS);
    let sectors = room / (AREA + TAGS) * AREA + last;
    sectors - sectors % (BLOCK / SECTOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One section of the journal: a sector for its commits in front of eight blocks for each of its 32 entries, of which four
    /// (8 bytes, 8 for each of a block's sectors, and a tag) stand in a sector.
    const JOURNAL: u64 = 8 + 32 * 8;

    /// The last sector that the kernel touches for so many sectors of data, by the rules in `calculate_device_limits`.
    fn end(data: u64) -> u64 {
        let (areas, front) = (data.div_ceil(AREA), 8 + JOURNAL);
        front + areas * TAGS + data
    }

    #[test]
    fn the_tags_of_an_area_are_whole_blocks() {
        assert_eq!((TAGS, TAGS % (BLOCK / SECTOR)), (384, 0));
    }

    #[test]
    fn no_more_is_asked_for_than_there_is() {
        let sizes = [64 << 20, (64 << 20) + 512, 100 << 20, 1 << 30, 10 << 30, (10 << 30) - 4096, 1 << 40];
        let excess = sizes.map(|bytes: u64| end(data_sectors(bytes / SECTOR)) > bytes / SECTOR);
        assert_eq!(excess, [false; 7]);
    }

    #[test]
    fn all_but_little_of_a_disk_is_for_data() {
        // 632 whole areas, and the beginning of another.
        assert_eq!(data_sectors((10 << 30) / SECTOR), 632 * AREA + 17_024);
    }

    #[test]
    fn a_disk_without_room_for_tags_has_none_for_data() {
        assert_eq!(data_sectors(0), 0);
        assert_eq!(data_sectors(FRONT + TAGS + 7), 0);
        assert_eq!(data_sectors(FRONT + TAGS + 8), 8);
    }
}
