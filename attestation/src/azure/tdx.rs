//! From an Azure TDX machine's evidence to an appraisal: every link from the challenge to Intel's root.
//!
//! ```json
//! {"version": 1, "tpm_quote": {"signature": hex, "message": hex, "pcrs": [hex, ..]}, "hcl_report": base64url, "td_quote": base64url}
//! {"tpm_quote": {"signature": [..], "message": [..], "pcrs": [[..], ..]}, "hcl_report": [..], "td_quote": [..]}
//! ```
//! The second form has no version and is the oldest. The paravisor's report holds a TDX report that only the same machine
//! could verify: the quote that comes along vouches for the variable data instead.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::evidence::{ByteQuote, EvidenceError, HexQuote, MAX_JSON_BYTES, encoded, has_user_data};
use super::hcl::{HardwareReport, HclReport};
use super::paravisor;
use super::quote::TpmQuote;
use super::vtpm::{self, VtpmExpectations};
use crate::tdx::{self, Evidence, Expectations, Guest, TrustedRoots};
use crate::time::UnixTime;
use crate::verdict::{Appraisal, Checks};

/// What a TDX machine on Azure hands in, and what Intel publishes about its host.
#[derive(Debug, Clone)]
pub struct TdxEvidence {
    /// The virtual TPM's answer to the challenge.
    pub quote: TpmQuote,
    /// The paravisor's report.
    pub hcl_report: Vec<u8>,
    /// The TD's quote.
    pub td_quote: Vec<u8>,
    /// Whether the guest set the paravisor's user data to the challenge too (version 2 on).
    pub has_user_data: bool,
    /// Intel's collateral, if there is any.
    pub collateral: Option<Vec<u8>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Wire {
    Versioned(Versioned),
    Oldest(Oldest),
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
    tpm_quote: HexQuote,
    hcl_report: String,
    td_quote: String,
}

#[derive(Deserialize)]
struct Oldest {
    tpm_quote: ByteQuote,
    hcl_report: Vec<u8>,
    td_quote: Vec<u8>,
}

/// Reads evidence of a TDX machine; collateral is never part of it.
pub fn parse_tdx(json: &[u8]) -> Result<TdxEvidence, EvidenceError> {
    if json.len() > MAX_JSON_BYTES {
        return Err(EvidenceError::TooLong { found: json.len() });
    }
    match serde_json::from_slice(json).map_err(EvidenceError::Json)? {
        Wire::Versioned(wire) => Ok(TdxEvidence {
            has_user_data: has_user_data(wire.version)?,
            quote: wire.tpm_quote.read()?,
            hcl_report: encoded(&wire.hcl_report, "hcl_report")?,
            td_quote: encoded(&wire.td_quote, "td_quote")?,
            collateral: None,
        }),
        Wire::Oldest(wire) => Ok(TdxEvidence {
            has_user_data: false,
            quote: wire.tpm_quote.read()?,
            hcl_report: wire.hcl_report,
            td_quote: wire.td_quote,
            collateral: None,
        }),
    }
}

/// Judges `evidence` as of the time `at`. Of `expected`, the report's data is not used: it is bound to the paravisor's
/// variable data.
pub fn appraise_tdx(
    evidence: &TdxEvidence,
    expected_vtpm: &VtpmExpectations,
    expected: &Expectations,
    trust: &TrustedRoots,
    at: UnixTime,
) -> Appraisal {
    let mut checks = Checks::default();
    let mut claims = Map::new();
    let parsed = HclReport::parse(&evidence.hcl_report);
    let hcl = checks.settle("hcl-format", "a paravisor's report", parsed);
    let runtime = hcl.as_ref().and_then(|hcl| vtpm::read_runtime(hcl, &mut checks));
    let quote = vtpm::check_quote(&evidence.quote, runtime.as_ref(), expected_vtpm, &mut checks);
    if let Some(runtime) = &runtime {
        vtpm::check_user_data(runtime, evidence.has_user_data, expected_vtpm, &mut checks);
    }
    paravisor::check_tdx(&evidence.td_quote, expected, &mut checks);
    if let Some(hcl) = hcl {
        let is_tdx = matches!(hcl.hardware, HardwareReport::Tdx(_));
        let found = if is_tdx { "a TDX report" } else { "an SNP report" };
        checks.require("hcl-hardware", is_tdx, "a TDX report", found);
        let bound = Expectations { report_data: Some(hcl.report_data()), ..expected.clone() };
        let collateral = evidence.collateral.as_deref();
        let inside = Evidence { quote: &evidence.td_quote, collateral, event_log: None };
        let behind = (trust, Guest::BehindParavisor);
        let (hardware, of_hardware) = tdx::appraise_guest(&inside, &bound, behind, at).into_parts();
        checks.append(hardware);
        claims = of_hardware;
    }
    claims.insert("tee".to_owned(), json!("az-tdx-vtpm"));
    claims.insert("vtpm".to_owned(), vtpm::claims(&evidence.quote, quote.as_ref()));
    let configuration = runtime.map_or(Value::Null, |runtime| runtime.configuration);
    claims.insert("vm_configuration".to_owned(), configuration);
    Appraisal::new(checks, claims)
}
