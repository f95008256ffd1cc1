//! Appraises TDX evidence from beginning to end.
//!
//! ```text
//! bytes ─ UnverifiedQuote ─ PCK chain ─ signatures ─ domain ─ expected values
//!       ─ UnverifiedCollateral ─ CRLs ─ statements ─ TCB status
//!       ─ EventLog ─ replay ─ RTMRs
//! ```
//! Fail closed: without collateral nobody knows whether the PCK is revoked or the platform full of known holes, so the
//! verdict is contraindicated then, however right every signature is.

use super::chain::{Pck, Terms};
use super::claims;
use super::collateral::UnverifiedCollateral;
use super::domain;
use super::event_log::EventLog;
use super::expectations::Expectations;
use super::platform_checks::Statements;
use super::quote::UnverifiedQuote;
use super::roots::{Root, TrustedRoots};
use super::signatures;
use crate::time::UnixTime;
use crate::verdict::{Appraisal, Checks, Claims, Outcome};

/// Everything that a guest and its host hand over, and what Intel publishes about the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Evidence<'a> {
    /// The quote.
    pub quote: &'a [u8],
    /// Collateral, as one JSON file (see [`UnverifiedCollateral`]).
    pub collateral: Option<&'a [u8]>,
    /// The event log that the CCEL table points to.
    pub event_log: Option<&'a [u8]>,
}

const RTMR: [&str; 4] = ["event-log-rtmr0", "event-log-rtmr1", "event-log-rtmr2", "event-log-rtmr3"];

/// What runs in a trust domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guest {
    /// The owner's system itself.
    Plain,
    /// A paravisor below the owner's system.
    BehindParavisor,
}

/// Judges `evidence` as of the time `at`.
pub fn appraise(
    evidence: &Evidence<'_>,
    expected: &Expectations,
    trust: &TrustedRoots,
    at: UnixTime,
) -> Appraisal {
    appraise_guest(evidence, expected, (trust, Guest::Plain), at)
}

/// Judges `evidence` of a domain of a certain kind.
pub(crate) fn appraise_guest(
    evidence: &Evidence<'_>,
    expected: &Expectations,
    (trust, guest): (&TrustedRoots, Guest),
    at: UnixTime,
) -> Appraisal {
    let mut found = Found { checks: Checks::default(), claims: Claims::new() };
    let parsed = UnverifiedQuote::parse(evidence.quote);
    let Some(quote) = found.checks.settle("quote-format", "a TDX quote of version 4 or 5", parsed) else {
        return Appraisal::new(found.checks, found.claims);
    };
    let terms = Terms { roots: trust, at };
    let pck = terms.pck(&mut found.checks, &quote.certificates);
    let simulated = pck.as_ref().is_some_and(|pck| pck.root == Root::Simulated);
    claims::put(&mut found.claims, "simulated", simulated);
    claims::of_quote(&mut found.claims, &quote);
    if let Some(platform) = pck.as_ref().and_then(|pck| pck.platform.as_ref()) {
        claims::of_platform(&mut found.claims, platform);
    }
    signatures::check(&mut found.checks, &quote, pck.as_ref());
    domain::check(&mut found.checks, &quote.report, expected);
    if guest == Guest::Plain {
        domain::check_page_faults(&mut found.checks, &quote.report);
    }
    expected.compare(&mut found.checks, &quote.report);
    let own_root = pck.as_ref().map_or_else(|| trust.clone(), |pck| pck.only_root(trust));
    let judged = Judged { quote: &quote, pck: pck.as_ref(), expected };
    found.hold_against_collateral(evidence.collateral, &judged, Terms { roots: &own_root, at });
    found.replay(evidence.event_log, &quote);
    Appraisal::new(found.checks, found.claims)
}

struct Found {
    checks: Checks,
    claims: Claims,
}

/// What collateral is about.
struct Judged<'a> {
    quote: &'a UnverifiedQuote,
    pck: Option<&'a Pck>,
    expected: &'a Expectations,
}

impl Found {
    fn hold_against_collateral(&mut self, collateral: Option<&[u8]>, judged: &Judged<'_>, terms: Terms<'_>) {
        let checks = &mut self.checks;
        let Some(collateral) = collateral else {
            let unknown = "unknown: no collateral was given";
            checks.record("tcb-status", Outcome::Contraindicated, "UpToDate", unknown);
            return;
        };
        let form = "TCB info, QE identity and revocation lists";
        let parsed = UnverifiedCollateral::parse(collateral);
        let Some(collateral) = checks.settle("collateral-format", form, parsed) else { return };
        if let Some(pck) = judged.pck {
            terms.revocation(checks, &collateral, pck);
        }
        let info = terms.tcb_info(checks, &collateral);
        let identity = terms.qe_identity(checks, &collateral);
        let platform = judged.pck.and_then(|pck| pck.platform.as_ref());
        let (Some(info), Some(identity), Some(platform)) = (info, identity, platform) else {
            let unknown = "unknown: the statements or the PCK do not hold";
            checks.record("tcb-status", Outcome::Contraindicated, "UpToDate", unknown);
            return;
        };
        let statements = Statements { info: &info, identity: &identity };
        statements.check_evaluation(checks, judged.expected.tcb_evaluation);
        let status = statements.check(checks, judged.quote, platform);
        claims::of_status(&mut self.claims, &statements, &status, judged.quote.enclave.isv_svn);
    }

    fn replay(&mut self, log: Option<&[u8]>, quote: &UnverifiedQuote) {
        let checks = &mut self.checks;
        let Some(log) = log else {
            checks.not_checked("event-log-format", "a crypto-agile event log", "no event log was given");
            return;
        };
        let parsed = EventLog::parse(log);
        let Some(log) = checks.settle("event-log-format", "a crypto-agile event log", parsed) else { return };
        claims::put(&mut self.claims, "event_log", log.claims());
        let expected = "events for RTMR0 to RTMR3 only";
        let Some(replayed) = checks.settle("event-log-registers", expected, log.replay()) else { return };
        for ((name, found), expected) in RTMR.into_iter().zip(replayed.rtmr).zip(quote.report.rtmr) {
            checks.require(name, expected == found, hex::encode(expected), hex::encode(found));
        }
    }
}
