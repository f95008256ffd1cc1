//! From an Azure machine's evidence to an appraisal: every link from the challenge to AMD's root.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::hcl::{HardwareReport, HclReport, RuntimeData};
use super::quote::{Quote, TpmQuote};
use crate::snp::{self, Evidence, Expectations, TrustedRoots};
use crate::time::UnixTime;
use crate::verdict::{Appraisal, Checks};
use crate::x509::{Algorithm, Certificate, RevocationList};

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

/// What is expected of the virtual TPM. What is not given is not compared, and the verdict says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VtpmExpectations {
    /// The challenge, as the quote must carry it: any length, compared whole.
    pub quote_data: Option<Vec<u8>>,
    /// PCR values by number.
    pub pcrs: BTreeMap<usize, [u8; 32]>,
}

/// Judges `evidence` as of the time `at`. Of `expected`, the report's data and its privilege level are not used: the first
/// is bound to the paravisor's variable data, the second must be 0, where the paravisor runs.
pub fn appraise_snp(
    evidence: &SnpEvidence,
    vtpm: &VtpmExpectations,
    expected: &Expectations,
    trust: &TrustedRoots,
    at: UnixTime,
) -> Appraisal {
    let mut checks = Checks::default();
    let mut claims = serde_json::Map::new();
    let parsed = HclReport::parse(&evidence.hcl_report);
    let hcl = checks.settle("hcl-format", "a paravisor's report", parsed);
    let runtime = hcl.as_ref().and_then(|hcl| {
        let found = hcl.runtime_data().map_err(|error| chain_of(&error));
        checks.settle("runtime-data", "variable data with one attestation key", found)
    });
    let quote = check_quote(&evidence.quote, runtime.as_ref(), vtpm, &mut checks);
    if let (Some(runtime), true) = (&runtime, evidence.has_user_data) {
        check_user_data(runtime, vtpm, &mut checks);
    }
    if let Some(hcl) = hcl {
        let (hardware, of_hardware) = judge_hardware(&hcl, evidence, expected, (trust, at)).into_parts();
        checks.append(hardware);
        claims = of_hardware;
    }
    claims.insert("tee".to_owned(), json!("az-snp-vtpm"));
    claims.insert("vtpm".to_owned(), vtpm_claims(&evidence.quote, quote.as_ref()));
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

/// Signature, challenge, and the PCRs that the quote covers. Answers what the quote says.
fn check_quote(
    quote: &TpmQuote,
    runtime: Option<&RuntimeData>,
    expected: &VtpmExpectations,
    checks: &mut Checks,
) -> Option<Quote> {
    if let Some(runtime) = runtime {
        let key = &runtime.attestation_key;
        let verified = key.verify(Algorithm::Pkcs1Sha256, &quote.message, &quote.signature);
        checks.settle("quote-signature", "a signature by the attestation key of the variable data", verified);
    }
    let parsed =
        checks.settle("quote-format", "a TPM quote of SHA-256 PCRs", Quote::parse(&quote.message))?;
    let found = hex::encode(&parsed.extra_data);
    match &expected.quote_data {
        Some(data) => {
            checks.require("quote-data", *data == parsed.extra_data, hex::encode(data), found);
        }
        None => checks.not_checked("quote-data", "nothing was expected", found),
    }
    let all: Vec<usize> = (0..quote.pcrs.len()).collect();
    let list = |numbers: &[usize]| numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(" ");
    checks.require("pcr-selection", parsed.selection == all, list(&all), list(&parsed.selection));
    let digest = parsed.digest_of(&quote.pcrs).map_or_else(|| "a PCR is missing".to_owned(), hex::encode);
    checks.require(
        "pcr-digest",
        digest == hex::encode(&parsed.pcr_digest),
        hex::encode(&parsed.pcr_digest),
        &digest,
    );
    for (number, value) in &expected.pcrs {
        let found = quote.pcrs.get(*number);
        let text = found.map_or_else(|| "none".to_owned(), hex::encode);
        checks.require("pcr", found == Some(value), format!("PCR {number} {}", hex::encode(value)), text);
    }
    Some(parsed)
}

/// The challenge once more, in what the paravisor was told; zeros follow it.
fn check_user_data(runtime: &RuntimeData, expected: &VtpmExpectations, checks: &mut Checks) {
    let found = hex::encode(&runtime.user_data);
    match &expected.quote_data {
        Some(data) => {
            let rest = runtime.user_data.strip_prefix(data.as_slice());
            let same = rest.is_some_and(|rest| rest.iter().all(|byte| *byte == 0));
            checks.require("user-data", same, format!("{} and zeros", hex::encode(data)), found);
        }
        None => checks.not_checked("user-data", "nothing was expected", found),
    }
}

fn vtpm_claims(quote: &TpmQuote, parsed: Option<&Quote>) -> Value {
    let pcrs: serde_json::Map<String, Value> = quote
        .pcrs
        .iter()
        .enumerate()
        .map(|(number, pcr)| (format!("pcr{number:02}"), json!(hex::encode(pcr))))
        .collect();
    json!({
        "pcrs": pcrs,
        "quote_data": parsed.map(|quote| hex::encode(&quote.extra_data)),
        "resets": parsed.map(|quote| quote.resets),
        "restarts": parsed.map(|quote| quote.restarts),
        "firmware": parsed.map(|quote| format!("{:016x}", quote.firmware)),
    })
}

/// An error with what caused it, in one line.
fn chain_of(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
