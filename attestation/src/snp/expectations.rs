//! What whoever asks for a verdict expects of a report beyond being genuine.

use super::endorsement::Endorsement;
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
    /// The oldest firmware, now and at launch. A processor that has an FMC needs a least version of it too.
    pub minimum_tcb: Option<Tcb>,
    /// The privilege level that asked for the report. Where none is given, any but 0 is a warning.
    pub vmpl: Option<u32>,
    /// The least security version that the owner gave the image.
    pub minimum_guest_svn: Option<u32>,
    /// Family of the image, as its owner named it.
    pub family_id: Option<[u8; 16]>,
    /// The image, as its owner named it.
    pub image_id: Option<[u8; 16]>,
    /// The cloud provider that a VLEK was made for; a VCEK is of none.
    pub cloud_provider: Option<String>,
    /// Whether a revocation list must speak for the intermediate, also for one that this program ships.
    pub revocation_list: bool,
}

/// Records every comparison.
pub(crate) fn check(
    report: &UnverifiedReport,
    endorsement: Option<&Endorsement>,
    expected: &Expectations,
    checks: &mut Checks,
) {
    compare("report-data", expected.report_data.as_ref(), &report.report_data, checks);
    compare("measurement", expected.measurement.as_ref(), &report.measurement, checks);
    compare("host-data", expected.host_data.as_ref(), &report.host_data, checks);
    compare("id-key-digest", expected.id_key_digest.as_ref(), &report.id_key_digest, checks);
    compare("author-key-digest", expected.author_key_digest.as_ref(), &report.author_key_digest, checks);
    compare("family-id", expected.family_id.as_ref(), &report.family_id, checks);
    compare("image-id", expected.image_id.as_ref(), &report.image_id, checks);
    check_guest_svn(report.guest_svn, expected, checks);
    if let Some(endorsement) = endorsement {
        check_provider(endorsement, expected.cloud_provider.as_deref(), checks);
    }
    check_minimum(report, expected.minimum_tcb.as_ref(), checks);
    check_vmpl(report.vmpl, expected.vmpl, checks);
}

/// A key vouches for every image that it ever signed, those with known holes too, until a version or a digest says which.
fn check_guest_svn(found: u32, expected: &Expectations, checks: &mut Checks) {
    let pinned = expected.id_key_digest.or(expected.author_key_digest).is_some();
    match expected.minimum_guest_svn {
        Some(least) => {
            checks.require("guest-svn", found >= least, format!("at least {least}"), found);
        }
        None if pinned && expected.measurement.is_none() => {
            let found = format!("{found}, nothing was expected: any image that the key ever signed passes");
            let wanted = "a least version or a measurement beside the key";
            checks.record("guest-svn", Outcome::Warned, wanted, found);
        }
        None => checks.not_checked("guest-svn", "nothing was expected", found),
    }
}

fn check_provider(endorsement: &Endorsement, expected: Option<&str>, checks: &mut Checks) {
    let found = endorsement.cloud_provider.as_deref();
    let text = found.unwrap_or("none");
    match expected {
        Some(expected) => {
            checks.require("cloud-provider", found == Some(expected), expected, text);
        }
        None => checks.not_checked("cloud-provider", "nothing was expected", text),
    }
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
        // The firmware that a key is derived from may be years old and full of known holes: nothing else would say so.
        let nothing = "nothing was expected: firmware of any age passes";
        checks.not_checked("minimum-tcb", nothing, report.reported_tcb);
        checks.not_checked("minimum-launch-tcb", nothing, report.launch_tcb);
        return;
    };
    if report.reported_tcb.fmc.is_some() && minimum.fmc.is_none() {
        let expected = format!("at least {minimum}, and a least fmc: this processor has one");
        checks.require("minimum-tcb", false, expected, report.reported_tcb);
        return;
    }
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
