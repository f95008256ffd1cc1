//! What whoever asks expects of a trust domain. What is left out is named in the verdict as not checked.

use super::body::TdReport;
use crate::verdict::Checks;

/// Values that evidence must have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expectations {
    /// 64 bytes that bind the evidence to a challenge.
    pub report_data: Option<[u8; 64]>,
    /// Measurement of the initial contents.
    pub mr_td: Option<[u8; 48]>,
    /// Run-time measurement registers 0 to 3.
    pub rtmr: [Option<[u8; 48]>; 4],
    /// What the host configured.
    pub mr_config_id: Option<[u8; 48]>,
    /// Owner.
    pub mr_owner: Option<[u8; 48]>,
    /// Configuration by the owner.
    pub mr_owner_config: Option<[u8; 48]>,
    /// Measurement of the TDX module.
    pub mr_seam: Option<[u8; 48]>,
    /// Digest over bound service TDs. A TDX 1.0 report has none, which is held to be zero.
    pub mr_service_td: Option<[u8; 48]>,
    /// Least number of Intel's evaluation that collateral must be of.
    pub tcb_evaluation: Option<u32>,
    /// Attributes of the trust domain, every bit.
    pub td_attributes: Option<u64>,
    /// CPU state that the trust domain may use, every bit.
    pub xfam: Option<u64>,
}

const RTMR: [&str; 4] = ["rtmr0", "rtmr1", "rtmr2", "rtmr3"];

impl Expectations {
    /// Holds a report against these values. `mr_service_td` is not among what is checked here.
    pub(super) fn compare(&self, checks: &mut Checks, report: &TdReport) {
        compare(checks, "report-data", self.report_data.as_ref(), &report.report_data);
        compare(checks, "mr-td", self.mr_td.as_ref(), &report.mr_td);
        for ((name, expected), found) in RTMR.into_iter().zip(&self.rtmr).zip(&report.rtmr) {
            compare(checks, name, expected.as_ref(), found);
        }
        compare(checks, "mr-config-id", self.mr_config_id.as_ref(), &report.mr_config_id);
        compare(checks, "mr-owner", self.mr_owner.as_ref(), &report.mr_owner);
        compare(checks, "mr-owner-config", self.mr_owner_config.as_ref(), &report.mr_owner_config);
        compare(checks, "mr-seam", self.mr_seam.as_ref(), &report.mr_seam);
        compare_bits(checks, "expected-td-attributes", self.td_attributes, report.td_attributes.0);
        compare_bits(checks, "expected-xfam", self.xfam, report.xfam.0);
    }
}

fn compare_bits(checks: &mut Checks, name: &'static str, expected: Option<u64>, found: u64) {
    let text = format!("{found:#x}");
    match expected {
        Some(expected) => {
            checks.require(name, expected == found, format!("{expected:#x}"), text);
        }
        None => checks.not_checked(name, "nothing was expected", text),
    }
}

fn compare<const N: usize>(
    checks: &mut Checks,
    name: &'static str,
    expected: Option<&[u8; N]>,
    found: &[u8; N],
) {
    match expected {
        Some(expected) => {
            checks.require(name, expected == found, hex::encode(expected), hex::encode(found));
        }
        None => checks.not_checked(name, "nothing was expected", hex::encode(found)),
    }
}
