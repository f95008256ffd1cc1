//! What a trust domain's report says about how well the domain is protected.

use super::body::TdReport;
use super::expectations::Expectations;
use crate::verdict::{Checks, Outcome};

const NO_SERVICE_TD: [u8; 48] = [0; 48];

/// Records what speaks against a domain whose report is genuine.
pub(super) fn check(checks: &mut Checks, report: &TdReport, expected: &Expectations) {
    let attributes = report.td_attributes;
    let names = attributes.names().join(" ");
    unless(checks, "debug", attributes.debug(), "DEBUG is not set", &names);
    let profiling = attributes.profiling();
    unless(checks, "profiling", profiling != 0, "no bit for profiling by the host", bits(profiling));
    let unknown = attributes.unknown();
    unless(checks, "td-attributes", unknown != 0, "no bit without a known meaning", bits(unknown));
    let (missing, odd) = (report.xfam.missing(), report.xfam.unknown());
    let found = format!("{:#x}, missing {}, unknown {}", report.xfam.0, bits(missing), bits(odd));
    unless(checks, "xfam", missing | odd != 0, "x87 and SSE, and known features only", found);
    let seam = report.seam_attributes;
    unless(checks, "seam-attributes", seam != [0; 8], "0000000000000000", hex::encode(seam));
    let migration = if attributes.migratable() { Outcome::Warned } else { Outcome::Passed };
    checks.record("migration", migration, "MIGRATABLE is not set", names);
    check_service_td(checks, report, expected);
}

/// Without SEPT_VE_DISABLE the host can raise an exception at any access to memory, also within the guest's entry code; Linux
/// refuses to run so. A paravisor of its own may handle them.
pub(super) fn check_page_faults(checks: &mut Checks, report: &TdReport) {
    let set = report.td_attributes.sept_ve_disabled();
    let outcome = if set { Outcome::Passed } else { Outcome::Warned };
    let found = if set { "set" } else { "not set: the host can raise exceptions within the guest" };
    checks.record("sept-ve-disable", outcome, "set", found);
}

/// A service TD, such as one that migrates domains, can read and replace the domain's state.
fn check_service_td(checks: &mut Checks, report: &TdReport, expected: &Expectations) {
    let found = report.service_td.as_ref().map_or(NO_SERVICE_TD, |service| service.mr_service_td);
    let hex = hex::encode(found);
    match expected.mr_service_td {
        Some(expected) => {
            checks.require("service-td", expected == found, hex::encode(expected), hex);
        }
        None if found == NO_SERVICE_TD => {
            checks.record("service-td", Outcome::Passed, "no service TD is bound", "no service TD is bound");
        }
        None => checks.record(
            "service-td",
            Outcome::Warned,
            "no service TD is bound, or one whose digest was given",
            format!("a service TD with digest {hex} is bound"),
        ),
    }
}

fn unless(checks: &mut Checks, name: &'static str, bad: bool, expected: &str, found: impl std::fmt::Display) {
    let outcome = if bad { Outcome::Contraindicated } else { Outcome::Passed };
    checks.record(name, outcome, expected, found);
}

fn bits(bits: u64) -> String {
    if bits == 0 { "none".to_owned() } else { format!("{bits:#x}") }
}
