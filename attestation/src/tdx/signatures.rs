//! The quote's own two signatures and what ties them together.

use sha2::{Digest, Sha256};

use super::chain::Pck;
use super::quote::UnverifiedQuote;
use crate::verdict::Checks;
use crate::x509::PublicKey;

/// A point in SEC 1 form begins with this, if both coordinates follow.
const UNCOMPRESSED: u8 = 4;

/// Checks both signatures, the hash between them, and that the quoting enclave is no debug enclave. A PCK whose chain does
/// not hold verifies nothing.
pub(super) fn check(checks: &mut Checks, quote: &UnverifiedQuote, pck: Option<&Pck>) {
    if let Some(pck) = pck.and_then(Pck::certificate) {
        let verified = pck.key().verify_raw_ecdsa(&quote.enclave_signed, &quote.enclave_signature);
        checks.settle("qe-report-signature", "signed by the PCK", verified);
    } else {
        checks.require("qe-report-signature", false, "signed by the PCK", "the PCK's chain does not hold");
    }
    let found = if quote.enclave.debug() { "a debug enclave" } else { "a production enclave" };
    checks.require("qe-debug", !quote.enclave.debug(), "a production enclave", found);
    let (expected, found) = (hex::encode(bound(quote)), hex::encode(quote.enclave.report_data));
    checks.require("attestation-key-binding", expected == found, expected, found);
    let key = [&[UNCOMPRESSED], quote.attestation_key.as_slice()].concat();
    if let Some(key) = checks.settle("attestation-key", "a point on P-256", PublicKey::p256(&key)) {
        let verified = key.verify_raw_ecdsa(&quote.signed, &quote.signature);
        checks.settle("quote-signature", "signed by the attestation key", verified);
    }
}

/// What the quoting enclave's report data must be: a hash over attestation key and authentication data, then zeros.
fn bound(quote: &UnverifiedQuote) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(quote.attestation_key);
    hash.update(&quote.authentication_data);
    let mut bytes = hash.finalize().to_vec();
    bytes.resize(quote.enclave.report_data.len(), 0);
    bytes
}
