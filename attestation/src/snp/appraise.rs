//! From a report and a certificate to an appraisal. Every check that can be made is made, so that a reader sees all that
//! is wrong and not only what was wrong first.

use super::endorsement::Endorsement;
use super::expectations::{self, Expectations};
use super::report::{UnverifiedReport, sized};
use super::roots::TrustedRoots;
use super::{binding, chain, claims, platform};
use crate::time::UnixTime;
use crate::verdict::{Appraisal, Checks};
use crate::x509::{Certificate, RevocationList};

/// What a guest, or whoever speaks for it, hands in.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// The report's bytes.
    pub report: Vec<u8>,
    /// The certificate of the key that signed it: VCEK or VLEK.
    pub vek: Certificate,
    /// Authorities above it: ASK or ASVK, and ARK. Empty: the ones that this program ships. Wherever they come from, the
    /// chain must end in a root that is trusted.
    pub authorities: Vec<Certificate>,
    /// Revocation lists, if there are any.
    pub revocation: Vec<RevocationList>,
}

/// Judges `evidence` as of the time `at`.
pub fn appraise(
    evidence: &Evidence,
    expected: &Expectations,
    trust: &TrustedRoots,
    at: UnixTime,
) -> Appraisal {
    let mut checks = Checks::default();
    let read = Endorsement::read(&evidence.vek);
    // A version 2 report does not say how it is to be read; the chip that its key is of does.
    let of_key = read.as_ref().ok().map(|endorsement| endorsement.generation);
    let parsed = sized(&evidence.report).and_then(|bytes| UnverifiedReport::parse_of(bytes, of_key));
    let report = checks.settle("report-format", "an attestation report of version 2 to 5", parsed);
    if let Ok(bytes) = sized(&evidence.report) {
        binding::check_signature(bytes, &evidence.vek, &mut checks);
    }
    let endorsement = checks.settle("vek-format", "the extensions of a VCEK or VLEK", read);
    let chain = chain::Chain {
        vek: &evidence.vek,
        endorsement: endorsement.as_ref(),
        given: &evidence.authorities,
        lists: &evidence.revocation,
        list_needed: expected.revocation_list,
    };
    let root = chain::check(&chain, trust, at, &mut checks);
    if let (Some(report), Some(endorsement)) = (&report, &endorsement) {
        binding::check(report, endorsement, &mut checks);
    }
    if let Some(report) = &report {
        platform::check(report, &mut checks);
        expectations::check(report, endorsement.as_ref(), expected, &mut checks);
    }
    let claims = claims::claims(report.as_ref(), endorsement.as_ref(), root);
    Appraisal::new(checks, claims)
}
