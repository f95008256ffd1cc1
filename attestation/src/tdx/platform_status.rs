//! Intel's algorithm for the TCB status of a TDX platform, as a pure function of what was verified before.
//!
//! ```text
//! PCK certificate ≥ level's SGX components, PCE SVN ───────── SGX level
//!   and TD report ≥ level's TDX components ────────────────── TDX level ┐
//! TD report's module version ── module identity ── its level ───────────┼─ platform ─┐
//! TD report 1.5: what runs now ── relaunch advised? ────────────────────┘            ├─ whole
//! QE report ── QE identity ── its level ─────────────────────────────────────────────┘
//! ```
//! Source: Intel's quote verification library, sections 4.1.2.4.15 to 4.1.2.4.17 (`checkTcbLevel` and what it calls).

use std::collections::BTreeSet;

use super::body::TdReport;
use super::pck::PlatformTcb;
use super::tcb_info::{Component, IsvLevel, TcbInfo, TcbLevel, TdxModule};
use super::tcb_status::TcbStatus;

/// Offset in a TEE TCB SVN of the first part that is no TDX module.
const AFTER_MODULE: usize = 2;

/// What Intel says of each part, and of the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlatformStatus<'a> {
    /// The level that the PCK certificate reaches.
    pub(super) sgx_level: Option<&'a TcbLevel>,
    /// The level that PCK certificate and TD report reach.
    pub(super) tdx_level: Option<&'a TcbLevel>,
    /// The level that the TDX module reaches; `None` too for modules of version 0, which have none.
    pub(super) module_level: Option<&'a IsvLevel>,
    /// What Intel says of the TDX module.
    pub(super) module: TcbStatus,
    /// What Intel says of all of it, quoting enclave included.
    pub(super) whole: TcbStatus,
}

/// What is appraised: all of it verified before.
pub(super) struct Appraised<'a> {
    pub(super) tcb: &'a PlatformTcb,
    pub(super) report: &'a TdReport,
    pub(super) enclave: TcbStatus,
}

impl TcbInfo {
    /// What a TDX module of the report's version must be: `None` if Intel has no word for it.
    pub(super) fn module(&self, version: u8) -> Option<&TdxModule> {
        if version == 0 {
            return Some(&self.tdx_module);
        }
        self.identity(version).map(|identity| &identity.module)
    }

    /// Appraises a platform.
    pub(super) fn status(&self, of: &Appraised<'_>) -> PlatformStatus<'_> {
        let reached = || self.tcb_levels.iter().filter(|level| level.reached_by(of.tcb));
        let sgx_level = reached().next();
        let tdx_level = reached().find(|level| level.reached_by_domain(&of.report.tee_tcb_svn));
        let (module, module_level) = self.module_status(of.report);
        let status =
            |level: Option<&TcbLevel>| level.map_or(TcbStatus::NotSupported, |level| level.tcb_status);
        let sgx = status(sgx_level);
        let platform = match status(tdx_level) {
            TcbStatus::NotSupported => TcbStatus::NotSupported,
            tdx => tdx.beside(module),
        };
        let relaunch = Relaunch { sgx, platform, module, enclave: of.enclave };
        let platform = self.after_relaunch(of.report, &relaunch).unwrap_or(platform);
        PlatformStatus { sgx_level, tdx_level, module_level, module, whole: platform.beside(of.enclave) }
    }

    fn module_status(&self, report: &TdReport) -> (TcbStatus, Option<&IsvLevel>) {
        if report.module_version() == 0 {
            return (TcbStatus::UpToDate, None);
        }
        let levels = self.identity(report.module_version()).map(|identity| &identity.tcb_levels);
        let svn = u16::from(report.module_isv_svn());
        let level = levels.into_iter().flatten().find(|level| level.tcb.isvsvn <= svn);
        (level.map_or(TcbStatus::NotSupported, |level| level.tcb_status), level)
    }

    /// The status of a platform that was updated after the trust domain started, if that is what makes it out of date.
    fn after_relaunch(&self, report: &TdReport, parts: &Relaunch) -> Option<TcbStatus> {
        let now = report.service_td.as_ref()?.tee_tcb_svn_2;
        let enclave_current = parts.enclave == TcbStatus::UpToDate;
        let old_only_by_module = parts.platform.out_of_date() && parts.module == TcbStatus::OutOfDate;
        if !(enclave_current && parts.sgx.current() && old_only_by_module) {
            return None;
        }
        let latest = self.tcb_levels.first()?;
        let [module_svn, version, microcode, ..] = now;
        let [latest_module, _, latest_microcode, ..] = latest.tcb.tdx;
        let required = match version {
            0 => u16::from(latest_module.svn),
            version => self.identity(version)?.tcb_levels.first()?.tcb.isvsvn,
        };
        if u16::from(module_svn) < required || microcode < latest_microcode.svn {
            return None;
        }
        let configuration = parts.sgx.configuration_needed() || parts.platform.configuration_needed();
        Some(if configuration {
            TcbStatus::TdRelaunchAdvisedConfigurationNeeded
        } else {
            TcbStatus::TdRelaunchAdvised
        })
    }
}

/// What the question whether a relaunch helps depends on.
struct Relaunch {
    sgx: TcbStatus,
    platform: TcbStatus,
    module: TcbStatus,
    enclave: TcbStatus,
}

impl TcbLevel {
    fn reached_by(&self, tcb: &PlatformTcb) -> bool {
        reaches(&tcb.components, &self.tcb.sgx) && tcb.pce_svn >= self.tcb.pcesvn
    }

    /// The TDX module's own two parts do not count when the module has an identity of its own.
    fn reached_by_domain(&self, tee_tcb_svn: &[u8; 16]) -> bool {
        let [_, version, ..] = *tee_tcb_svn;
        let from = if version == 0 { 0 } else { AFTER_MODULE };
        let found = tee_tcb_svn.get(from..).unwrap_or_default();
        reaches(found, self.tcb.tdx.get(from..).unwrap_or_default())
    }
}

fn reaches(found: &[u8], required: &[Component]) -> bool {
    found.iter().zip(required).all(|(found, required)| *found >= required.svn)
}

impl PlatformStatus<'_> {
    /// Advisories that any of the levels names, and those of the quoting enclave, each once.
    pub(super) fn advisories<'s>(&'s self, enclave: &'s [String]) -> BTreeSet<&'s str> {
        let levels = [self.sgx_level, self.tdx_level];
        let platform = levels.into_iter().flatten().flat_map(|level| &level.advisory_ids);
        let module = self.module_level.into_iter().flat_map(|level| &level.advisory_ids);
        platform.chain(module).chain(enclave).map(String::as_str).collect()
    }
}
