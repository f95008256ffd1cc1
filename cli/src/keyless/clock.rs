//! Time stamps (RFC 3161): an authority says when it saw a signature.

use anyhow::Context;
use coffer_attestation::x509::Certificate;
use coffer_image::signing::check_stamp;
use sha2::{Digest, Sha256};

use super::ask::{Asker, Question};

/// TimeStampReq, version 1, of a hash by SHA-256, which stands behind this and before [`TAIL`].
const HEAD: [u8; 24] = [
    0x30, 0x39, 0x02, 1, 1, 0x30, 0x31, 0x30, 0x0d, 0x06, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 0x05, 0,
    0x04, 0x20,
];
/// That the authority's certificates are wanted too. Without a nonce: a signature by a new key was never stamped before.
const TAIL: [u8; 3] = [0x01, 1, 0xff];

/// TimeStampResp for `signature` by the key of `leaf`. Whether its signer is trusted is found where the whole signature is confirmed.
pub(super) fn stamp(
    asker: &Asker<'_>,
    address: &str,
    signature: &[u8],
    leaf: &Certificate,
) -> anyhow::Result<Vec<u8>> {
    let request = [&HEAD[..], &Sha256::digest(signature), &TAIL].concat();
    let answer = asker.post(Question {
        service: "the time-stamping authority",
        address: address.to_owned(),
        what: "a time stamp",
        media_type: "application/timestamp-query",
        body: &request,
    })?;
    // Here, because a refusal comes as an answer, and a log would already have been asked when the whole is confirmed.
    check_stamp(&answer, signature, leaf).with_context(|| {
        format!("the answer of the time-stamping authority at {address} is not taken: nothing was attached")
    })?;
    Ok(answer)
}
