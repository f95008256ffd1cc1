//! Whether the guest that wrote the evidence is Microsoft's paravisor. What it says of its virtual TPM is worth nothing
//! otherwise: anybody can launch a guest that writes the same bytes with a key of its own.

use crate::snp::{self, UnverifiedReport, digest};
use crate::tdx::{self, UnverifiedQuote};
use crate::verdict::{Checks, Outcome};

const NAME: &str = "paravisor";

/// SHA-384 of the keys that Microsoft signs its paravisor's id block with. Firmware reports such a digest only where it
/// verified an id block by that key, and the block names the launch digest; zeros where a guest had none.
const MICROSOFT_ID_KEYS: [[u8; 48]; 2] = [
    digest(
        b"942fd93ebde6ea7a96efadeafc60f1c6b3d10e703b1dafd7555b92f7f3d32d0e006767648cba5b102af3d65756af4177",
    ),
    digest(
        b"0356215882a825279a85b300b0b742931d113bf7e32dde2e50ffde7ec743ca491ecdd7f336dc28a6e0b2bb57af7a44a3",
    ),
];

const ID_KEY: &str = "an id key of Microsoft's, or the measurement or id key that was expected";
const MR_TD: &str = "the mr-td that was expected: no other value names Microsoft's paravisor";

/// Holds an SNP report against the keys that are known, or what the verifier expects.
pub(super) fn check_snp(report: &[u8], expected: &snp::Expectations, checks: &mut Checks) {
    let Ok(report) = UnverifiedReport::parse(report) else { return };
    let id_key = report.id_key_digest;
    let (outcome, found) = if expected.measurement == Some(report.measurement) {
        (Outcome::Passed, "the measurement that was expected".to_owned())
    } else if id_key == [0; 48] {
        (Outcome::Contraindicated, "no id key vouches for the guest".to_owned())
    } else if expected.id_key_digest == Some(id_key) {
        (Outcome::Passed, "the id key that was expected".to_owned())
    } else if MICROSOFT_ID_KEYS.contains(&id_key) {
        (Outcome::Passed, format!("Microsoft's id key {}", hex::encode(id_key)))
    } else {
        (Outcome::Contraindicated, format!("id key {}", hex::encode(id_key)))
    };
    checks.record(NAME, outcome, ID_KEY, found);
}

/// Holds a TDX quote against what the verifier expects.
pub(super) fn check_tdx(quote: &[u8], expected: &tdx::Expectations, checks: &mut Checks) {
    let Ok(quote) = UnverifiedQuote::parse(quote) else { return };
    let known = expected.mr_td == Some(quote.report.mr_td);
    let outcome = if known { Outcome::Passed } else { Outcome::Contraindicated };
    checks.record(NAME, outcome, MR_TD, hex::encode(quote.report.mr_td));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snp::{Expectations, REPORT_BYTES};

    /// What becomes of a report with this id key.
    fn outcome(id_key: [u8; 48], expected: &Expectations) -> Outcome {
        let mut report = vec![0; REPORT_BYTES];
        report[0] = 2;
        report[0x34] = 1;
        report[0x90..0xc0].fill(7);
        report[0xe0..0x110].copy_from_slice(&id_key);
        let mut checks = Checks::default();
        check_snp(&report, expected, &mut checks);
        let appraisal = crate::verdict::Appraisal::new(checks, crate::verdict::Claims::new());
        appraisal.checks().first().expect("one check").result
    }

    #[test]
    fn microsofts_id_keys_are_known() {
        let nothing = Expectations::default();
        assert_eq!(MICROSOFT_ID_KEYS.map(|key| outcome(key, &nothing)), [Outcome::Passed; 2]);
    }

    #[test]
    fn a_guest_that_anybody_launched_is_no_paravisor() {
        let nothing = Expectations::default();
        assert_eq!(outcome([0; 48], &nothing), Outcome::Contraindicated);
        assert_eq!(outcome([1; 48], &nothing), Outcome::Contraindicated);
    }

    #[test]
    fn what_was_expected_stands_in_for_microsofts_keys() {
        let key = Expectations { id_key_digest: Some([1; 48]), ..Expectations::default() };
        assert_eq!(outcome([1; 48], &key), Outcome::Passed);
        let measurement = Expectations { measurement: Some([7; 48]), ..Expectations::default() };
        assert_eq!(outcome([0; 48], &measurement), Outcome::Passed);
    }

    #[test]
    fn no_id_key_is_not_made_one_by_expecting_zeros() {
        let zeros = Expectations { id_key_digest: Some([0; 48]), ..Expectations::default() };
        assert_eq!(outcome([0; 48], &zeros), Outcome::Contraindicated);
    }

    #[test]
    fn another_measurement_than_expected_names_no_paravisor() {
        let other = Expectations { measurement: Some([8; 48]), ..Expectations::default() };
        assert_eq!(outcome([0; 48], &other), Outcome::Contraindicated);
    }
}
