//! From an Azure SNP machine's evidence to an appraisal: every link from the challenge to AMD's root.

use serde_json::{Value, json};

use super::hcl::{HardwareReport, HclReport};
use super::paravisor;
use super::quote::TpmQuote;
use super::vtpm::{self, VtpmExpectations};
use crate::snp::{self, Evidence, Expectations, TrustedRoots};
use crate::time::UnixTime;
use crate::verdict::{Appraisal, Checks};
use crate::x509::{Certificate, RevocationList};

/// What an SNP machine on Azure hands in.
#[derive(Debug, Clone)]
pub struct SnpEvidence {
    /// The virtual TPM's answer to the challenge.
    pub quote: TpmQuote,
    /// The paravisor's report.
    pub hcl_report: Vec<u8>,
    /// The chip's certificate.
    pub vek: Certificate,
    /// Whether the guest set the paravisor's user data to the challenge too (version 2 on).
    pub has_user_data: bool,
    /// Authorities above the certificate; empty: the ones that this program ships.
    pub authorities: Vec<Certificate>,
    /// Revocation lists, if there are any.
    pub revocation: Vec<RevocationList>,
}

/// Judges `evidence` as of the time `at`. Of `expected`, the report's data and its privilege level are not used: the first
/// is bound to the paravisor's variable data, the second must be 0, where the paravisor runs.
pub fn appraise_snp(
    evidence: &SnpEvidence,
    expected_vtpm: &VtpmExpectations,
    expected: &Expectations,
    trust: &TrustedRoots,
    at: UnixTime,
) -> Appraisal {
    let mut checks = Checks::default();
    let mut claims = serde_json::Map::new();
    let parsed = HclReport::parse(&evidence.hcl_report);
    let hcl = checks.settle("hcl-format", "a paravisor's report", parsed);
    let runtime = hcl.as_ref().and_then(|hcl| vtpm::read_runtime(hcl, &mut checks));
    let quote = vtpm::check_quote(&evidence.quote, runtime.as_ref(), expected_vtpm, &mut checks);
    if let Some(runtime) = &runtime {
        vtpm::check_user_data(runtime, evidence.has_user_data, expected_vtpm, &mut checks);
    }
    if let Some(hcl) = hcl {
        if let HardwareReport::Snp(report) = &hcl.hardware {
            paravisor::check_snp(report, expected, &mut checks);
        }
        let (hardware, of_hardware) = judge_hardware(&hcl, evidence, expected, (trust, at)).into_parts();
        checks.append(hardware);
        claims = of_hardware;
    }
    claims.insert("tee".to_owned(), json!("az-snp-vtpm"));
    claims.insert("vtpm".to_owned(), vtpm::claims(&evidence.quote, quote.as_ref()));
    claims
        .insert("vm_configuration".to_owned(), runtime.map_or(Value::Null, |runtime| runtime.configuration));
    Appraisal::new(checks, claims)
}

/// The report inside, with its data bound to the variable data.
fn judge_hardware(
    hcl: &HclReport,
    evidence: &SnpEvidence,
    expected: &Expectations,
    (trust, at): (&TrustedRoots, UnixTime),
) -> Appraisal {
    let HardwareReport::Snp(report) = &hcl.hardware else {
        let mut checks = Checks::default();
        checks.require("hcl-hardware", false, "an SNP report", "a TDX report");
        return Appraisal::new(checks, serde_json::Map::new());
    };
    let bound = Expectations { report_data: Some(hcl.report_data()), vmpl: Some(0), ..expected.clone() };
    let inside = Evidence {
        report: report.clone(),
        vek: evidence.vek.clone(),
        authorities: evidence.authorities.clone(),
        revocation: evidence.revocation.clone(),
    };
    snp::appraise(&inside, &bound, trust, at)
}
