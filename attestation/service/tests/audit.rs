//! A log of 10,000 entries, and every way in which one byte of it can change.

use coffer_attestation::time::UnixTime;
use coffer_verifier::audit::{AuditLog, Checkpoint, Damage, Journal, verify};
use serde_json::json;

/// A log as bytes and its checkpoint. A file system without disk keeps 10,000 synchronous writes short.
fn log(tenant: &str, entries: u64) -> (Vec<u8>, Checkpoint) {
    let memory = std::path::Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let folder = folder.expect("a folder");
    let path = folder.path().join("audit");
    let log = Journal::new(AuditLog::open(&path).expect("a log"));
    (0..entries).for_each(|number| {
        let what = json!({ "released": format!("{tenant}/key/{number}"), "measurement": "ab" });
        log.record(UnixTime(1_800_000_000 + number), &what).expect("written");
    });
    (std::fs::read(&path).expect("the file"), log.log().checkpoint(UnixTime(1_900_000_000)))
}

/// The line that holds byte `at`; a line's end belongs to it.
fn line_of(log: &[u8], at: usize) -> u64 {
    log[..at].iter().filter(|byte| **byte == b'\n').count() as u64
}

fn is_at(damages: &[Damage], line: u64) -> bool {
    matches!(damages.first(), Some(Damage::Line { line: found, .. }) if *found == line)
}

#[test]
fn any_flipped_byte_of_10_000_entries_is_found_in_its_line() {
    let (log, checkpoint) = log("acme", 10_000);
    assert_eq!(verify(&log, Some(&checkpoint)).expect("whole").leaves.len(), 10_000);
    // A prime step, so that every part of a line is hit.
    let places = (0..log.len()).step_by((log.len() / 97) | 1);
    let found = places.map(|at| {
        let mut changed = log.clone();
        changed[at] ^= 0x20;
        let damages = verify(&changed, Some(&checkpoint)).expect_err("damaged");
        assert!(is_at(&damages, line_of(&log, at)), "byte {at}: {:?}", damages.first());
    });
    assert!(found.count() >= 97);
}

#[test]
fn every_bit_of_a_short_log_counts() {
    let (log, checkpoint) = log("acme", 4);
    let found = (0..log.len() * 8).filter(|bit| {
        let mut changed = log.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let damages = verify(&changed, Some(&checkpoint)).expect_err("damaged");
        is_at(&damages, line_of(&log, bit / 8))
    });
    assert_eq!(found.count(), log.len() * 8);
}

#[test]
fn one_change_is_reported_once() {
    let (log, checkpoint) = log("acme", 50);
    let text = String::from_utf8(log).expect("text");
    let changed = text.replace("acme/key/20\"", "acme/key/99\"");
    assert_eq!(verify(changed.as_bytes(), Some(&checkpoint)).expect_err("damaged").len(), 1);
}

#[test]
fn a_log_that_ends_too_early_is_missing_entries() {
    let (log, checkpoint) = log("acme", 5);
    let cut = log[..log.len() - 1].iter().rposition(|byte| *byte == b'\n').expect("lines") + 1;
    let damages = verify(&log[..cut], Some(&checkpoint)).expect_err("damaged");
    assert_eq!(damages, [Damage::Missing { found: 4, expected: 5 }]);
}

#[test]
fn a_log_that_was_written_anew_is_not_the_one_of_the_checkpoint() {
    let (_, checkpoint) = log("acme", 5);
    let (other, _) = log("umbrella", 6);
    assert!(verify(&other, None).is_ok());
    assert_eq!(verify(&other, Some(&checkpoint)).expect_err("another"), [Damage::Rewritten { size: 5 }]);
}

#[test]
fn a_log_that_went_on_still_begins_with_its_checkpoint() {
    let (_, checkpoint) = log("acme", 5);
    let (longer, _) = log("acme", 6);
    assert!(verify(&longer, Some(&checkpoint)).is_ok());
}
