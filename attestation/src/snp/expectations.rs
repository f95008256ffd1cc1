//! What whoever asks for a verdict expects of a report beyond being genuine.

use super::report::UnverifiedReport;
use super::tcb::Tcb;
use crate::verdict::{Checks, Outcome};

/// Values that a report is compared with. What is not given is not compared, and the verdict says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expectations {
    /// What the guest put into the report: its binding to a challenge.
    pub report_data: Option<[u8; 64]>,
    /// The launch digest.
    pub measurement: Option<[u8; 48]>,
    /// What the host gave at launch: the digest of the initdata.
    pub host_data: Option<[u8; 32]>,
    /// SHA-384 of the key that signed the id block.
    pub id_key_digest: Option<[u8; 48]>,
    /// SHA-384 of the key that signed the id key.
    pub author_key_digest: Option<[u8; 48]>,
    /// The oldest firmware, now and at launch.
    pub minimum_tcb: Option<Tcb>,
    /// The privilege level that asked for the report. Where none is given, any but 0 is a warning.
    pub vmpl: Option<u32>,
}

/// Records every comparison.
pub(crate) fn check(report: &UnverifiedReport, expected: &Expectations, checks: &mut Checks) {
    compare("report-data", expected.report_data.as_ref(), &report.report_data, checks);
    compare("measurement", expected.measurement.as_ref(), &report.measurement, checks);
    compare("host-data", expected.host_data.as_ref(), &report.host_data, checks);
    compare("id-key-digest", expected.id_key_digest.as_ref(), &report.id_key_digest, checks);
    compare("author-key-digest", expected.author_key_digest.as_ref(), &report.author_key_digest, checks);
    check_minimum(report, expected.minimum_tcb.as_ref(), checks);
    check_vmpl(report.vmpl, expected.vmpl, checks);
}

fn compare<const N: usize>(
    name: &'static str,
    expected: Option<&[u8; N]>,
    found: &[u8; N],
    checks: &mut Checks,
) {
    match expected {
        Some(expected) => {
            checks.require(name, expected == found, hex::encode(expected), hex::encode(found));
        }
        None => checks.not_checked(name, "nothing was expected", hex::encode(found)),
    }
}

fn check_minimum(report: &UnverifiedReport, minimum: Option<&Tcb>, checks: &mut Checks) {
    let Some(minimum) = minimum else {
        checks.not_checked("minimum-tcb", "nothing was expected", report.reported_tcb);
        return;
    };
    let expected = format!("at least {minimum}");
    let reported = report.reported_tcb.is_at_least(minimum);
    checks.require("minimum-tcb", reported, &expected, report.reported_tcb);
    let launch = report.launch_tcb.is_at_least(minimum);
    checks.require("minimum-launch-tcb", launch, &expected, report.launch_tcb);
}

fn check_vmpl(found: u32, expected: Option<u32>, checks: &mut Checks) {
    match expected {
        Some(expected) => {
            checks.require("vmpl", found == expected, expected, found);
        }
        None => {
            let outcome = if found == 0 { Outcome::Passed } else { Outcome::Warned };
            checks.record("vmpl", outcome, 0, found);
        }
    }
}
