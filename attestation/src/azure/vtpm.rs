//! The virtual TPM's part of the evidence, which SNP and TDX machines of Azure have alike.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::hcl::{HclReport, RuntimeData};
use super::quote::{Quote, TpmQuote};
use crate::verdict::Checks;
use crate::x509::Algorithm;

/// What is expected of the virtual TPM. What is not given is not compared, and the verdict says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VtpmExpectations {
    /// The challenge, as the quote must carry it: any length, compared whole.
    pub quote_data: Option<Vec<u8>>,
    /// PCR values by number.
    pub pcrs: BTreeMap<usize, [u8; 32]>,
}

/// Reads the variable data, which names the key that quotes are signed with.
pub(super) fn read_runtime(hcl: &HclReport, checks: &mut Checks) -> Option<RuntimeData> {
    let found = hcl.runtime_data().map_err(|error| chain_of(&error));
    checks.settle("runtime-data", "variable data with one attestation key", found)
}

/// Signature, challenge, and the PCRs that the quote covers. Answers what the quote says.
pub(super) fn check_quote(
    quote: &TpmQuote,
    runtime: Option<&RuntimeData>,
    expected: &VtpmExpectations,
    checks: &mut Checks,
) -> Option<Quote> {
    if let Some(runtime) = runtime {
        let key = &runtime.attestation_key;
        let verified = key.verify(Algorithm::Pkcs1Sha256, &quote.message, &quote.signature);
        checks.settle(
            "tpm-quote-signature",
            "a signature by the attestation key of the variable data",
            verified,
        );
    }
    let parsed =
        checks.settle("tpm-quote-format", "a TPM quote of SHA-256 PCRs", Quote::parse(&quote.message))?;
    let found = hex::encode(&parsed.extra_data);
    match &expected.quote_data {
        Some(data) => {
            checks.require("tpm-quote-data", *data == parsed.extra_data, hex::encode(data), found);
        }
        None => checks.not_checked("tpm-quote-data", "nothing was expected", found),
    }
    let all: Vec<usize> = (0..quote.pcrs.len()).collect();
    let list = |numbers: &[usize]| numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(" ");
    let covered = !all.is_empty() && parsed.selection == all;
    let wanted = if all.is_empty() { "at least one PCR".to_owned() } else { list(&all) };
    checks.require("pcr-selection", covered, wanted, list(&parsed.selection));
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

/// The challenge once more, in what the paravisor was told; zeros follow it. Evidence whose version says that the guest sets
/// none is held to it if there is one: the version is not signed by anything.
pub(super) fn check_user_data(
    runtime: &RuntimeData,
    promised: bool,
    expected: &VtpmExpectations,
    checks: &mut Checks,
) {
    let found = hex::encode(&runtime.user_data);
    if !promised && runtime.user_data.iter().all(|byte| *byte == 0) {
        checks.not_checked("user-data", "the challenge", "none, evidence of this version has none");
        return;
    }
    match &expected.quote_data {
        Some(data) => {
            let rest = runtime.user_data.strip_prefix(data.as_slice());
            let same = rest.is_some_and(|rest| rest.iter().all(|byte| *byte == 0));
            checks.require("user-data", same, format!("{} and zeros", hex::encode(data)), found);
        }
        None => checks.not_checked("user-data", "nothing was expected", found),
    }
}

/// What the virtual TPM says.
pub(super) fn claims(quote: &TpmQuote, parsed: Option<&Quote>) -> Value {
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

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::verdict::{Appraisal, Claims, Outcome};

    /// A quote of no PCR at all, with the digest of nothing.
    fn quote_of_nothing() -> TpmQuote {
        let nothing = Sha256::digest([]);
        let parts: [&[u8]; 6] = [
            &[0xff, 0x54, 0x43, 0x47, 0x80, 0x18],
            &[0, 0, 0, 0],
            &[0; 25],
            &[0, 0, 0, 1, 0, 0x0b, 3, 0, 0, 0],
            &[0, 32],
            &nothing,
        ];
        TpmQuote { signature: Vec::new(), message: parts.concat(), pcrs: Vec::new() }
    }

    #[test]
    fn a_quote_that_covers_no_pcr_is_refused() {
        let mut checks = Checks::default();
        check_quote(&quote_of_nothing(), None, &VtpmExpectations::default(), &mut checks);
        let appraisal = Appraisal::new(checks, Claims::new());
        let failed: Vec<&str> = appraisal.reasons().map(|check| check.name).collect();
        assert_eq!(failed, ["pcr-selection"]);
        assert_eq!(appraisal.reasons().map(|check| check.result).next(), Some(Outcome::Failed));
    }
}
