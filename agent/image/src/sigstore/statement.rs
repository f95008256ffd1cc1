//! in-toto statements: a predicate of some type about artefacts that are named by their digests.

use std::collections::BTreeMap;

use coffer_attestation::handshake::read_json;
use serde::Deserialize;

use super::signed::{Claim, LIMITS, SignedError, cut};
use crate::artefact::Digest;

const PAYLOAD: &str = "application/vnd.in-toto+json";
const TYPES: [&str; 2] = ["https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"];
/// The most artefacts that a statement is about.
const MAX_SUBJECTS: usize = 64;

/// The predicate type of an image's signature.
pub(super) const SIGNATURE: &str = "https://sigstore.dev/cosign/sign/v1";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    predicate_type: String,
}

#[derive(Deserialize)]
struct Subject {
    digest: BTreeMap<String, String>,
}

pub(super) fn read(payload: &[u8], kind: &str) -> Result<Claim, SignedError> {
    if kind != PAYLOAD {
        return Err(SignedError::Kind { part: "the payload's type", found: cut(kind) });
    }
    let statement: Statement =
        read_json(payload, LIMITS).map_err(|reason| SignedError::Json { part: "the statement", reason })?;
    if !TYPES.contains(&statement.kind.as_str()) {
        return Err(SignedError::Kind { part: "the statement's type", found: cut(&statement.kind) });
    }
    if statement.subject.len() > MAX_SUBJECTS {
        let found = statement.subject.len();
        return Err(SignedError::TooMany { part: "the statement", found, limit: MAX_SUBJECTS });
    }
    // A name beside a digest is the signer's own and not normalised: it counts for nothing.
    let digests = statement.subject.iter().filter_map(|subject| subject.digest.get("sha256"));
    let digests = digests.filter_map(|hex| format!("sha256:{hex}").parse::<Digest>().ok()).collect();
    Ok(Claim { digests, name: None, predicate: Some(statement.predicate_type) })
}
