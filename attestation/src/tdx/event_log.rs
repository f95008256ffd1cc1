//! The log of what was measured while a guest booted: the TCG crypto-agile format, as a CCEL table points to it.
//!
//! ```text
//! first entry  register u32 | kind u32 = 3 | digest[20] | size u32 | "Spec ID Event03\0" class u32 | version[3]
//!              | uintn u8 | count u32 | (algorithm u16, size u16)* | size u8 | vendor
//! others       register u32 | kind u32 | count u32 | (algorithm u16, digest)* | size u32 | event
//! end          register 0xffffffff, or nothing but zeros, or the end of the bytes
//! ```
//! Source: TCG PC Client Platform Firmware Profile, section 10; for the registers Intel's TDX Virtual Firmware Design Guide,
//! section 8. Digests are what replay proves; an event's own bytes are the host's word unless [`Event::digested`] is true.

use sha2::{Digest, Sha384};

use crate::cursor::{Cursor, Short};

/// Longest log that is looked at, in bytes.
pub const MAX_LOG_BYTES: usize = 1024 * 1024;
/// Most entries that are looked at.
pub const MAX_EVENTS: usize = 8192;

/// An entry that is only informative.
const NO_ACTION: u32 = 3;
const SIGNATURE: &[u8; 16] = b"Spec ID Event03\0";
/// How many registers there are that a guest extends.
const RTMRS: usize = 4;
const MOST_ALGORITHMS: u32 = 8;
const LONGEST_DIGEST: u16 = 64;
const END: u32 = u32::MAX;
const SHA384: u16 = 0x000c;
const SHA384_BYTES: u16 = 48;

/// A log that was read and not compared with anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog {
    /// What was measured, in order; the entry that describes the log itself is not among them.
    pub events: Vec<Event>,
    /// Bytes of the log before its end mark.
    pub used: usize,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Offset in the log, in bytes.
    pub at: usize,
    /// 0 is MRTD, 1 to 4 are RTMR0 to RTMR3.
    pub register: u32,
    /// Kind of event, as TCG numbers them.
    pub kind: u32,
    /// SHA-384 digest that the register was extended with.
    pub digest: [u8; 48],
    /// What the log says was measured.
    pub data: Vec<u8>,
}

/// Why bytes are not a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventLogError {
    /// Longer than any log.
    #[error("an event log has at most {MAX_LOG_BYTES} bytes, these are {found}")]
    Long {
        /// Length found.
        found: usize,
    },
    /// The bytes end within an entry.
    #[error(transparent)]
    Short(#[from] Short),
    /// Not a crypto-agile log.
    #[error("the event log's first entry does not describe a crypto-agile log")]
    Header,
    /// A list of algorithms that cannot be.
    #[error(
        "the event log lists {count} digest algorithms: 1 to {MOST_ALGORITHMS} can be, of at most {LONGEST_DIGEST} bytes each"
    )]
    Algorithms {
        /// Algorithms listed.
        count: u32,
    },
    /// RTMRs hold SHA-384.
    #[error("the event log has no SHA-384 digests, RTMRs are made of them")]
    NoSha384,
    /// A digest of unknown length.
    #[error(
        "the entry at offset {at} has a digest of algorithm {algorithm:#06x}, which the log does not list"
    )]
    UnknownDigest {
        /// Offset of the entry.
        at: usize,
        /// TCG's number of the algorithm.
        algorithm: u16,
    },
    /// Not one digest per listed algorithm.
    #[error("the entry at offset {at} has {found} digests, the log lists {expected} algorithms")]
    DigestCount {
        /// Offset of the entry.
        at: usize,
        /// Digests found.
        found: u32,
        /// Algorithms listed.
        expected: usize,
    },
    /// More entries than are looked at.
    #[error("the event log has more than {MAX_EVENTS} entries")]
    ManyEvents,
    /// Bytes after the end mark that are no filler.
    #[error("{found} bytes follow after the event log's end mark at offset {at} and are not all 0xff")]
    AfterEnd {
        /// Offset of the end mark.
        at: usize,
        /// Bytes that follow.
        found: usize,
    },
}

impl EventLog {
    /// Parses a log, with or without the filler behind it.
    ///
    /// # Errors
    /// [`EventLogError`], with the first thing that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, EventLogError> {
        if bytes.len() > MAX_LOG_BYTES {
            return Err(EventLogError::Long { found: bytes.len() });
        }
        let mut cursor = Cursor::new(bytes);
        let algorithms = read_header(&mut cursor)?;
        let mut events = Vec::new();
        while !ends(&cursor)? {
            if events.len() == MAX_EVENTS {
                return Err(EventLogError::ManyEvents);
            }
            events.push(read_event(&mut cursor, &algorithms)?);
        }
        Ok(Self { events, used: cursor.at() })
    }
}

impl Event {
    /// Whether the event extended its register.
    pub fn extends(&self) -> bool {
        self.kind != NO_ACTION
    }

    /// Which of RTMR0 to RTMR3 the event names, if it names one of them.
    pub fn rtmr(&self) -> Option<usize> {
        let index = usize::try_from(self.register).ok()?.checked_sub(1)?;
        (index < RTMRS).then_some(index)
    }

    /// Whether `part`, which the log says was measured, is what the digest is of.
    pub(super) fn digested(&self, part: &[u8]) -> bool {
        Sha384::digest(part).as_slice() == self.digest
    }
}

/// A digest algorithm and the length of its digests.
struct Listed {
    algorithm: u16,
    size: u16,
}

fn read_header(cursor: &mut Cursor<'_>) -> Result<Vec<Listed>, EventLogError> {
    cursor.u32_le("register")?;
    let kind = cursor.u32_le("kind")?;
    cursor.bytes("SHA-1 digest", 20)?;
    let described = cursor.u32_prefixed("log description")?;
    let mut inside = Cursor::new(described);
    if kind != NO_ACTION || inside.bytes("signature", SIGNATURE.len())? != SIGNATURE {
        return Err(EventLogError::Header);
    }
    inside.bytes("platform class and version", 8)?;
    let count = inside.u32_le("algorithm count")?;
    if !(1..=MOST_ALGORITHMS).contains(&count) {
        return Err(EventLogError::Algorithms { count });
    }
    let mut algorithms = Vec::new();
    for _ in 0..count {
        let listed = Listed { algorithm: inside.u16_le("algorithm")?, size: inside.u16_le("digest size")? };
        if listed.size > LONGEST_DIGEST {
            return Err(EventLogError::Algorithms { count });
        }
        algorithms.push(listed);
    }
    let vendor = inside.u8("vendor size")?;
    inside.bytes("vendor", vendor.into())?;
    if !inside.rest().is_empty() {
        return Err(EventLogError::Header);
    }
    let sha384 = |listed: &Listed| listed.algorithm == SHA384 && listed.size == SHA384_BYTES;
    if !algorithms.iter().any(sha384) {
        return Err(EventLogError::NoSha384);
    }
    Ok(algorithms)
}

/// Whether no entry follows.
fn ends(cursor: &Cursor<'_>) -> Result<bool, EventLogError> {
    let rest = cursor.rest();
    if rest.iter().all(|byte| *byte == 0) {
        return Ok(true);
    }
    let mark = Cursor::new(rest).u32_le("register");
    if mark != Ok(END) {
        return Ok(false);
    }
    if rest.iter().any(|byte| *byte != 0xff) {
        return Err(EventLogError::AfterEnd { at: cursor.at(), found: rest.len() });
    }
    Ok(true)
}

fn read_event(cursor: &mut Cursor<'_>, algorithms: &[Listed]) -> Result<Event, EventLogError> {
    let at = cursor.at();
    let register = cursor.u32_le("register")?;
    let kind = cursor.u32_le("kind")?;
    let count = cursor.u32_le("digest count")?;
    if usize::try_from(count) != Ok(algorithms.len()) {
        return Err(EventLogError::DigestCount { at, found: count, expected: algorithms.len() });
    }
    let mut digest = None;
    for _ in 0..count {
        let algorithm = cursor.u16_le("algorithm")?;
        let listed = algorithms.iter().find(|listed| listed.algorithm == algorithm);
        let listed = listed.ok_or(EventLogError::UnknownDigest { at, algorithm })?;
        if algorithm == SHA384 {
            digest = Some(cursor.array("SHA-384 digest")?);
        } else {
            cursor.bytes("digest", listed.size.into())?;
        }
    }
    let digest = digest.ok_or(EventLogError::NoSha384)?;
    let data = cursor.u32_prefixed("event")?.to_vec();
    Ok(Event { at, register, kind, digest, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GCP: &[u8] = include_bytes!("../../testdata/tdx/quote4-gcp-cos113/ccel.bin");

    fn parse(bytes: &[u8]) -> EventLog {
        EventLog::parse(bytes).expect("a log")
    }

    #[test]
    fn a_log_of_real_firmware_is_read_up_to_its_end_mark() {
        let log = parse(GCP);
        assert_eq!((log.events.len(), log.used), (43, 18101));
        assert_eq!(log, parse(GCP.get(..18101).expect("the used bytes")));
    }

    #[test]
    fn logs_of_other_firmware_are_read() {
        let shim = parse(include_bytes!("../../testdata/tdx/quote4-debug/ccel-unrelated.bin"));
        let alibaba = parse(include_bytes!("../../testdata/tdx/misc/ccel-aael-alibaba.bin"));
        let grub = parse(include_bytes!("../../testdata/tdx/misc/ccel-grub.bin"));
        let ovmf = parse(include_bytes!("../../testdata/tdx/misc/ccel-ovmf.bin"));
        let counts = [&shim, &alibaba, &grub, &ovmf].map(|log| (log.events.len(), log.used));
        assert_eq!(counts, [(5, 9822), (87, 11707), (37, 15130), (20, 2120)]);
    }

    #[test]
    fn a_log_cut_anywhere_within_an_entry_is_refused() {
        let ends: Vec<usize> = parse(GCP).events.iter().map(|event| event.at).collect();
        let read = (1..18101).filter(|length| EventLog::parse(&GCP[..*length]).is_ok()).collect::<Vec<_>>();
        assert_eq!(read, ends);
    }

    #[test]
    fn bytes_after_the_end_mark_are_refused() {
        let mut log = GCP.to_vec();
        *log.last_mut().expect("bytes") = 0;
        assert_eq!(EventLog::parse(&log), Err(EventLogError::AfterEnd { at: 18101, found: 331 }));
    }

    #[test]
    fn an_algorithm_that_is_not_listed_is_refused() {
        let mut log = GCP.to_vec();
        log[65 + 12] = 0x0b;
        assert_eq!(EventLog::parse(&log), Err(EventLogError::UnknownDigest { at: 65, algorithm: 0x0b }));
    }

    #[test]
    fn a_log_of_another_format_is_refused() {
        let mut log = GCP.to_vec();
        log[32] = b's';
        assert_eq!(EventLog::parse(&log), Err(EventLogError::Header));
    }

    #[test]
    fn a_thousand_million_digests_are_refused_before_they_are_read() {
        let mut log = GCP.to_vec();
        log[65 + 8..65 + 12].copy_from_slice(&1_000_000_000_u32.to_le_bytes());
        let refused = EventLogError::DigestCount { at: 65, found: 1_000_000_000, expected: 1 };
        assert_eq!(EventLog::parse(&log), Err(refused));
    }
}
