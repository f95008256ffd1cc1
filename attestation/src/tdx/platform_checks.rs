//! Holds platform, TDX module and quoting enclave against what Intel says of them, by name.

use super::enclave::EnclaveReport;
use super::pck::Platform;
use super::platform_status::{Appraised, PlatformStatus};
use super::qe_identity::QeIdentity;
use super::quote::UnverifiedQuote;
use super::tcb_info::TcbInfo;
use super::tcb_status::TcbStatus;
use crate::verdict::{Checks, Outcome};

/// The least of Intel's evaluations that is good enough where nobody asked for one: that of the collateral that this program
/// is tested with, of June 2025. Whoever knows a later one asks for it.
const LEAST_EVALUATION: u32 = 17;

/// Intel's two statements, both verified.
pub(super) struct Statements<'a> {
    pub(super) info: &'a TcbInfo,
    pub(super) identity: &'a QeIdentity,
}

impl<'a> Statements<'a> {
    /// Records how everything stands that Intel has a word for, and answers it.
    pub(super) fn check(
        &self,
        checks: &mut Checks,
        quote: &UnverifiedQuote,
        platform: &Platform,
    ) -> PlatformStatus<'a> {
        let Self { info, identity } = *self;
        let same = |checks: &mut Checks, name, expected: &[u8], found: &[u8]| {
            checks.require(name, expected == found, hex::encode(expected), hex::encode(found));
        };
        same(checks, "fmspc", &info.fmspc, &platform.fmspc);
        same(checks, "pce-id", &info.pce_id, &platform.pce_id);
        check_module(checks, info, quote);
        check_enclave(checks, identity, &quote.enclave);
        let enclave = identity.status(quote.enclave.isv_svn);
        let status = info.status(&Appraised { tcb: &platform.tcb, report: &quote.report, enclave });
        part(checks, "qe-tcb", enclave, format!("ISV SVN {}", quote.enclave.isv_svn));
        let svn = hex::encode(quote.report.tee_tcb_svn);
        part(checks, "tdx-module-tcb", status.module, format!("TEE TCB SVN {svn}"));
        let level = status.tdx_level.map_or(TcbStatus::NotSupported, |level| level.tcb_status);
        let pce = platform.tcb.pce_svn;
        let components = hex::encode(platform.tcb.components);
        part(checks, "platform-tcb", level, format!("SGX {components}, PCE {pce}, TDX {svn}"));
        let found = match status.advisories(identity.advisories(quote.enclave.isv_svn)) {
            advisories if advisories.is_empty() => status.whole.to_string(),
            advisories => {
                format!("{}: {}", status.whole, advisories.into_iter().collect::<Vec<_>>().join(" "))
            }
        };
        checks.record("tcb-status", weight(status.whole), TcbStatus::UpToDate, found);
        status
    }
}

impl Statements<'_> {
    /// Whether both statements are of Intel's evaluation `least`, or a later one. Intel signs older evaluations anew for a
    /// year or more, in which holes that are known since count as closed: their dates do not tell them apart.
    pub(super) fn check_evaluation(&self, checks: &mut Checks, least: Option<u32>) {
        let info = self.info.tcb_evaluation_data_number;
        let identity = self.identity.tcb_evaluation_data_number;
        let found = info.min(identity);
        match least {
            Some(least) => {
                checks.require("tcb-evaluation", found >= least, format!("{least} or later"), found);
            }
            None if found < LEAST_EVALUATION => {
                let expected = format!("{LEAST_EVALUATION} or later");
                checks.record("tcb-evaluation", Outcome::Contraindicated, expected, found);
            }
            None => {
                let expected = format!("nothing was expected: {LEAST_EVALUATION} or later passes");
                checks.not_checked("tcb-evaluation", expected, found);
            }
        }
        let outcome = if info == identity { Outcome::Passed } else { Outcome::Warned };
        let found = format!("TCB info {info}, QE identity {identity}");
        checks.record("tcb-evaluations", outcome, "one evaluation for both statements", found);
    }
}

/// Whether the TDX module is one that Intel names: signer, attributes, and an entry for its version.
fn check_module(checks: &mut Checks, info: &TcbInfo, quote: &UnverifiedQuote) {
    let report = &quote.report;
    let version = report.module_version();
    let module = info.module(version);
    let found = if module.is_some() { "one" } else { "none" };
    let expected = format!("an identity of TDX modules of version {version}");
    checks.require("tdx-module", module.is_some(), expected, format!("{found} in TCB info"));
    let Some(module) = module else { return };
    let (expected, found) = (hex::encode(module.mrsigner), hex::encode(report.mr_signer_seam));
    checks.require("tdx-module-signer", expected == found, expected, found);
    // As Intel's library does: equal, and zero, whatever the mask says.
    let holds = report.seam_attributes == module.attributes && report.seam_attributes == [0; 8];
    let (expected, found) = (hex::encode(module.attributes), hex::encode(report.seam_attributes));
    checks.require("tdx-module-attributes", holds, expected, found);
}

fn check_enclave(checks: &mut Checks, identity: &QeIdentity, report: &EnclaveReport) {
    match identity.compare(report) {
        Ok(()) => {
            let signer = format!("mrsigner {}", hex::encode(identity.mrsigner));
            checks.require("qe-identity", true, &signer, &signer);
        }
        Err(mismatch) => {
            checks.require("qe-identity", false, mismatch.expected, mismatch.found);
        }
    }
}

/// A part's status is for people: what becomes of the whole is in `tcb-status`.
fn part(checks: &mut Checks, name: &'static str, status: TcbStatus, of: String) {
    let outcome = if status == TcbStatus::UpToDate { Outcome::Passed } else { Outcome::Warned };
    checks.record(name, outcome, TcbStatus::UpToDate, format!("{status}: {of}"));
}

/// Open holes, and everything that Intel has no good word for, contraindicate.
fn weight(status: TcbStatus) -> Outcome {
    match status {
        TcbStatus::UpToDate => Outcome::Passed,
        TcbStatus::SwHardeningNeeded
        | TcbStatus::ConfigurationNeeded
        | TcbStatus::ConfigurationAndSwHardeningNeeded
        | TcbStatus::TdRelaunchAdvised
        | TcbStatus::TdRelaunchAdvisedConfigurationNeeded => Outcome::Warned,
        TcbStatus::OutOfDate
        | TcbStatus::OutOfDateConfigurationNeeded
        | TcbStatus::Revoked
        | TcbStatus::NotSupported
        | TcbStatus::Unrecognised => Outcome::Contraindicated,
    }
}
