//! Changes of a real event log.

use coffer_attestation::tdx::{EventLog, Evidence, Expectations, TrustedRoots};
use coffer_attestation::verdict::{Appraisal, Verdict};

use crate::case::{AT, Case};
use crate::quote_cases::case;

const QUOTE: &[u8] = include_bytes!("../../testdata/tdx/quote4-gcp-cos113/quote.bin");
const LOG: &[u8] = include_bytes!("../../testdata/tdx/quote4-gcp-cos113/ccel.bin");
const FIRST: usize = 65;
const USED: usize = 18101;

pub(crate) fn appraise(change: fn(&mut Vec<u8>)) -> Appraisal {
    let mut log = LOG.to_vec();
    change(&mut log);
    appraise_log(&log)
}

fn appraise_log(log: &[u8]) -> Appraisal {
    let evidence = Evidence { quote: QUOTE, collateral: None, event_log: Some(log) };
    let at = AT.parse().expect("a time");
    coffer_attestation::tdx::appraise(&evidence, &Expectations::default(), &TrustedRoots::intel(), at)
}

/// Nothing but the missing collateral speaks against the log as it is.
pub(crate) fn assert_authentic() {
    let appraisal = appraise(|_| ());
    let reasons: Vec<&str> = appraisal.reasons().map(|check| check.name).collect();
    assert_eq!((appraisal.verdict(), reasons), (Verdict::Contraindicated, vec!["tcb-status"]));
}

/// Flips one bit in each event's digest, one after the other.
pub(crate) fn every_digest_counts() {
    let names = ["event-log-rtmr0", "event-log-rtmr1", "event-log-rtmr2", "event-log-rtmr3"];
    let events = EventLog::parse(LOG).expect("a log").events;
    assert_eq!(events.len(), 43);
    for event in events {
        let mut log = LOG.to_vec();
        log[event.at + 14 + event.at % 48] ^= 1;
        let appraisal = appraise_log(&log);
        let reasons: Vec<&str> = appraisal.reasons().map(|check| check.name).collect();
        let expected = vec!["tcb-status", names[event.register as usize - 1]];
        assert_eq!((appraisal.verdict(), reasons), (Verdict::Invalid, expected), "event at {}", event.at);
    }
}

/// Bytes of entry `index`.
fn entry(log: &[u8], index: usize) -> std::ops::Range<usize> {
    let events = EventLog::parse(log).expect("a log").events;
    events[index].at..events.get(index + 1).map_or(USED, |next| next.at)
}

fn fill_from(log: &mut [u8], index: usize, with: u8) {
    let start = entry(log, index).start;
    log[start..].fill(with);
}

pub(crate) static REAL: &[Case<Vec<u8>>] = &[
    case!("no log at all", |log| log.clear(), ["tcb-status", "event-log-format"]),
    case!("another signature", |log| log[32] ^= 1, ["tcb-status", "event-log-format"]),
    case!("a first entry that is an event", |log| log[4] = 4, ["tcb-status", "event-log-format"]),
    case!("no algorithm", |log| log[56] = 0, ["tcb-status", "event-log-format"]),
    case!("nine algorithms", |log| log[56] = 9, ["tcb-status", "event-log-format"]),
    case!("SHA-256 instead of SHA-384", |log| log[60] = 0x0b, ["tcb-status", "event-log-format"]),
    case!("SHA-384 of 32 bytes", |log| log[62] = 32, ["tcb-status", "event-log-format"]),
    case!("a vendor's name beyond the description", |log| log[64] = 1, ["tcb-status", "event-log-format"]),
    case!("an event for MRTD", |log| log[FIRST] = 0, ["tcb-status", "event-log-registers"]),
    case!("an event for a fifth register", |log| log[FIRST] = 5, ["tcb-status", "event-log-registers"]),
    case!(
        "an event for the next register",
        |log| log[FIRST] = 2,
        ["tcb-status", "event-log-rtmr0", "event-log-rtmr1"]
    ),
    case!("an event for RTMR3", |log| log[FIRST] = 4, ["tcb-status", "event-log-rtmr0", "event-log-rtmr3"]),
    case!(
        "an event that extends nothing any more",
        |log| log[FIRST + 4..FIRST + 8].copy_from_slice(&[3, 0, 0, 0]),
        ["tcb-status", "event-log-rtmr0"]
    ),
    case!("an event with two digests", |log| log[FIRST + 8] = 2, ["tcb-status", "event-log-format"]),
    case!("an event without digest", |log| log[FIRST + 8] = 0, ["tcb-status", "event-log-format"]),
    case!(
        "an event with a digest of another kind",
        |log| log[FIRST + 12] = 0x0b,
        ["tcb-status", "event-log-format"]
    ),
    case!(
        "an event longer than the log",
        |log| log[FIRST + 62..FIRST + 66].fill(255),
        ["tcb-status", "event-log-format"]
    ),
    case!("the first event missing", |log| drop(log.drain(entry(log, 0))), ["tcb-status", "event-log-rtmr0"]),
    case!("the last event missing", |log| drop(log.drain(entry(log, 42))), ["tcb-status", "event-log-rtmr1"]),
    case!("a command line missing", |log| drop(log.drain(entry(log, 40))), ["tcb-status", "event-log-rtmr2"]),
    case!(
        "an event twice",
        |log| {
            let again = log[entry(log, 0)].to_vec();
            log.splice(FIRST..FIRST, again);
        },
        ["tcb-status", "event-log-rtmr0"]
    ),
    case!(
        "two events in the other order",
        |log| {
            let (first, second) = (entry(log, 0), entry(log, 1));
            let swapped = [&log[second.clone()], &log[first.clone()]].concat();
            log.splice(first.start..second.end, swapped);
        },
        ["tcb-status", "event-log-rtmr0"]
    ),
    case!(
        "an end mark in the middle",
        |log| fill_from(log, 20, 255),
        ["tcb-status", "event-log-rtmr0", "event-log-rtmr1", "event-log-rtmr2"]
    ),
    case!(
        "zeros from the middle on",
        |log| fill_from(log, 20, 0),
        ["tcb-status", "event-log-rtmr0", "event-log-rtmr1", "event-log-rtmr2"]
    ),
    case!("something after the end mark", |log| log[USED + 100] = 0, ["tcb-status", "event-log-format"]),
    case!("a log cut within an event", |log| log.truncate(9000), ["tcb-status", "event-log-format"]),
    case!(
        "a log longer than any",
        |log| log.resize(1024 * 1024 + 1, 255),
        ["tcb-status", "event-log-format"]
    ),
];
