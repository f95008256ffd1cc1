//! What a SCSI command asks for (SPC-4, SBC-3): pure, from the bytes that the guest wrote.

use super::disk::{FORGET_WEIGHT, MAX_FORGET, MAX_SECTORS, SECTOR, TURN};

/// Bytes of a command that are looked at.
pub(super) const COMMAND: usize = 32;

/// A command for one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// Whether it is ready, or a command that changes nothing here.
    Nothing,
    /// What kind of device it is: the standard answer, or a page of vital product data.
    Inquiry { page: Option<u8>, room: usize },
    /// Why the last command failed.
    RequestSense { room: usize },
    /// How long it is, in the short form.
    Capacity10,
    /// How long it is, in the long form.
    Capacity16 { room: usize },
    /// Its parameters: all, or one page.
    ModeSense { long: bool, page: u8, room: usize },
    /// Which disks there are.
    ReportLuns { room: usize },
    /// Read sectors.
    Read { sector: u64, sectors: u64 },
    /// Write sectors.
    Write { sector: u64, sectors: u64 },
    /// Make safe what was written.
    Flush,
    /// Forget the sectors that a list names.
    Unmap,
    /// Write one sector many times: only zeros are taken.
    WriteSame { sector: u64, sectors: u64, unmap: bool },
}

impl Command {
    /// How much of a turn it takes at most, in bytes moved.
    pub(super) fn work(&self) -> u64 {
        match self {
            Command::Read { sectors, .. } | Command::Write { sectors, .. } => {
                sectors.saturating_mul(SECTOR).min(TURN)
            }
            Command::WriteSame { sectors, .. } => (sectors.saturating_mul(SECTOR) / FORGET_WEIGHT).min(TURN),
            Command::Unmap => TURN,
            _ => 0,
        }
    }
}

/// Reads a command; what is not known gives nothing.
pub(super) fn parse(bytes: &[u8; COMMAND]) -> Option<Command> {
    let number = |from: usize, to: usize| {
        bytes.get(from..to).unwrap_or(&[]).iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let room = |from, to| usize::try_from(number(from, to)).unwrap_or(0);
    let [code, second, third, ..] = *bytes;
    Some(match code {
        // TEST UNIT READY, START STOP UNIT, PREVENT ALLOW MEDIUM REMOVAL
        0x00 | 0x1b | 0x1e => Command::Nothing,
        0x03 => Command::RequestSense { room: room(4, 5) },
        0x12 => Command::Inquiry { page: (second & 1 == 1).then_some(third), room: room(3, 5) },
        0x1a => Command::ModeSense { long: false, page: third & 0x3f, room: room(4, 5) },
        0x5a => Command::ModeSense { long: true, page: third & 0x3f, room: room(7, 9) },
        0x25 => Command::Capacity10,
        0x9e if second & 0x1f == 0x10 => Command::Capacity16 { room: room(10, 14) },
        0xa0 => Command::ReportLuns { room: room(6, 10) },
        0x28 => Command::Read { sector: number(2, 6), sectors: number(7, 9) },
        0xa8 => Command::Read { sector: number(2, 6), sectors: number(6, 10) },
        0x88 => Command::Read { sector: number(2, 10), sectors: number(10, 14) },
        0x2a => Command::Write { sector: number(2, 6), sectors: number(7, 9) },
        0xaa => Command::Write { sector: number(2, 6), sectors: number(6, 10) },
        0x8a => Command::Write { sector: number(2, 10), sectors: number(10, 14) },
        0x35 | 0x91 => Command::Flush,
        0x42 => Command::Unmap,
        0x41 => Command::WriteSame { sector: number(2, 6), sectors: number(7, 9), unmap: second & 8 != 0 },
        0x93 => Command::WriteSame { sector: number(2, 10), sectors: number(10, 14), unmap: second & 8 != 0 },
        _ => return None,
    })
}

/// The longest list of ranges that UNMAP takes: as many as the block limits page says.
pub(super) const MAX_RANGES: usize = 64;

/// Header, and bytes of a range, of UNMAP's list.
const LIST_HEADER: usize = 8;
const LIST_RANGE: usize = 16;

/// The longest list of UNMAP's in bytes.
pub(super) const LONGEST_LIST: usize = LIST_HEADER + MAX_RANGES * LIST_RANGE;

/// The ranges of UNMAP's list: first sector and number of sectors.
pub(super) fn ranges(list: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let ranges = list.get(LIST_HEADER..).unwrap_or(&[]).chunks_exact(LIST_RANGE);
    ranges.map(move |range| {
        let (sector, rest) = range.split_at(8);
        (number(sector), number(rest.get(..4).unwrap_or(&[])))
    })
}

/// Answers of the disk `serial`, of `sectors` sectors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answers<'d> {
    pub(super) serial: &'d str,
    pub(super) sectors: u64,
    pub(super) read_only: bool,
}

impl Answers<'_> {
    /// The standard answer to INQUIRY: a disk that obeys SPC-4.
    pub(super) fn inquiry() -> Vec<u8> {
        let mut answer = vec![0, 0, 6, 2, 31, 0, 0, 2];
        answer.extend(b"COFFER  DISK            1   ");
        answer
    }

    /// The answer of a unit that is not there; unit 0 answers for the target, that others be asked for.
    pub(super) fn inquiry_of_nothing(unit: u8) -> Vec<u8> {
        let mut answer = Self::inquiry();
        if let Some(kind) = answer.first_mut() {
            *kind = if unit == 0 { 0x3f } else { 0x7f };
        }
        answer
    }

    /// A page of vital product data.
    pub(super) fn page(&self, page: u8) -> Option<Vec<u8>> {
        let content = match page {
            0x00 => vec![0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2],
            0x80 => self.serial.as_bytes().to_vec(),
            // One designator: assigned by the vendor, in ASCII.
            0x83 => {
                let length = u8::try_from(self.serial.len()).ok()?;
                [&[0x02, 0x00, 0, length][..], self.serial.as_bytes()].concat()
            }
            0xb0 => {
                let mut limits = vec![0; 60];
                let mut put = |at: usize, number: u32| {
                    for (place, byte) in limits.iter_mut().skip(at).zip(number.to_be_bytes()) {
                        *place = byte;
                    }
                };
                put(4, MAX_SECTORS);
                if !self.read_only {
                    put(16, MAX_FORGET); // sectors of one UNMAP
                    put(20, u32::try_from(MAX_RANGES).ok()?);
                    put(24, 8); // in units of 4 KiB
                    put(36, MAX_FORGET); // sectors of one WRITE SAME: the lower half of eight bytes
                    // A WRITE SAME of no sectors does not mean all that follow, but is refused.
                    if let Some(flags) = limits.first_mut() {
                        *flags = 1;
                    }
                }
                limits
            }
            // It does not rotate.
            0xb1 => [&[0, 1][..], &[0; 58]].concat(),
            // UNMAP and WRITE SAME may forget; what was forgotten reads as zeros; provisioned thinly.
            0xb2 => vec![0, if self.read_only { 0 } else { 0xc4 }, 2, 0],
            _ => return None,
        };
        let length = u16::try_from(content.len()).ok()?.to_be_bytes();
        Some([&[0, page][..], &length, &content].concat())
    }

    pub(super) fn capacity10(&self) -> Vec<u8> {
        let last = u32::try_from(self.sectors.saturating_sub(1)).unwrap_or(u32::MAX);
        [last.to_be_bytes(), u32::try_from(SECTOR).unwrap_or(512).to_be_bytes()].concat()
    }

    pub(super) fn capacity16(&self) -> Vec<u8> {
        let mut answer = self.sectors.saturating_sub(1).to_be_bytes().to_vec();
        answer.extend(u32::try_from(SECTOR).unwrap_or(512).to_be_bytes());
        // Eight sectors to a physical block; thinly provisioned, reading zeros.
        answer.extend([0, 3, if self.read_only { 0 } else { 0xc0 }, 0]);
        answer.resize(32, 0);
        answer
    }

    /// The answer to MODE SENSE: a header, and the caching page that says that writes must be made safe by a flush.
    pub(super) fn mode(&self, long: bool, page: u8) -> Option<Vec<u8>> {
        let protected = if self.read_only { 0x80 } else { 0 };
        let mut caching = vec![0x08, 18, 4];
        caching.resize(20, 0);
        let pages = match page {
            0x08 | 0x3f => caching,
            _ => return None,
        };
        let length = u8::try_from(pages.len()).ok()?;
        let header = if long {
            vec![0, length + 6, 0, protected, 0, 0, 0, 0]
        } else {
            vec![length + 3, 0, protected, 0]
        };
        Some([header, pages].concat())
    }
}

/// The list of units that there are.
pub(super) fn units(units: impl Iterator<Item = u8>) -> Vec<u8> {
    let list: Vec<u8> = units.flat_map(|unit| [0, unit, 0, 0, 0, 0, 0, 0]).collect();
    let length = u32::try_from(list.len()).unwrap_or(0).to_be_bytes();
    [&length[..], &[0; 4], &list].concat()
}

/// Sense data in the fixed form: key and additional code.
pub(super) fn sense(key: u8, code: u8) -> [u8; 18] {
    let mut sense = [0; 18];
    [sense[0], sense[2], sense[7], sense[12]] = [0x70, key, 10, code];
    sense
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn command(bytes: &[u8]) -> Option<Command> {
        let mut whole = [0; COMMAND];
        whole[..bytes.len()].copy_from_slice(bytes);
        parse(&whole)
    }

    const DISK: Answers<'static> = Answers { serial: "layer-1", sectors: 8, read_only: true };

    #[test]
    fn reads_of_every_length_are_understood() {
        let read = |sector, sectors| Some(Command::Read { sector, sectors });
        assert_eq!(command(&[0x28, 0, 0, 0, 1, 2, 0, 0, 8]), read(0x102, 8));
        assert_eq!(command(&[0xa8, 0, 0, 0, 1, 2, 0, 0, 1, 8]), read(0x102, 0x108));
        assert_eq!(command(&[0x88, 0, 1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1]), read(1 << 56 | 2, 1));
    }

    #[test]
    fn an_unknown_command_is_none() {
        assert_eq!(command(&[0xa3, 0x0c]), None);
        assert_eq!(command(&[0x9e, 0x11]), None);
    }

    #[test]
    fn the_serial_page_has_four_bytes_before_the_serial() {
        assert_eq!(DISK.page(0x80).unwrap(), b"\x00\x80\x00\x07layer-1");
    }

    #[test]
    fn a_disk_that_may_only_be_read_says_so() {
        assert_eq!(DISK.mode(false, 0x3f).unwrap()[2], 0x80);
        assert_eq!(DISK.mode(true, 0x08).unwrap()[3], 0x80);
    }

    #[test]
    fn the_capacity_is_the_last_sector() {
        assert_eq!(DISK.capacity10(), [0, 0, 0, 7, 0, 0, 2, 0]);
        assert_eq!(DISK.capacity16().len(), 32);
    }

    #[test]
    fn a_disk_that_may_be_written_says_how_much_it_forgets_at_once() {
        let page = Answers { read_only: false, ..DISK }.page(0xb0).unwrap();
        let most = MAX_FORGET.to_be_bytes();
        assert_eq!(
            (page[4], &page[20..24], &page[36..40], &page[40..44]),
            (1, &most[..], &[0; 4][..], &most[..])
        );
    }

    #[test]
    fn the_longest_request_of_each_kind_is_a_turn() {
        let (sector, most) = (0, u64::from(MAX_FORGET));
        assert_eq!(Command::Read { sector, sectors: u64::from(MAX_SECTORS) }.work(), TURN);
        assert_eq!(Command::WriteSame { sector, sectors: most, unmap: true }.work(), TURN);
    }

    #[test]
    fn half_a_range_is_no_range() {
        let list = [&[0; 8][..], &[0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 4, 0, 0, 0, 0], &[1; 15]].concat();
        assert_eq!(ranges(&list).collect::<Vec<_>>(), [(9, 4)]);
    }

    proptest! {
        #[test]
        fn no_command_is_harmful(bytes: [u8; COMMAND], list in proptest::collection::vec(any::<u8>(), 0..100)) {
            parse(&bytes);
            ranges(&list).count();
        }
    }
}
