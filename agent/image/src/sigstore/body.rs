//! What an entry of Rekor says was logged, and whether that is this signature: `hashedrekord` of versions 0.0.1 and 0.0.2, and
//! `dsse` of version 0.0.1. Rekor 2 has no other kind than `hashedrekord`, for envelopes too.

use base64ct::{Base64, Encoding};
use coffer_attestation::handshake::parse_json;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::signed::{LIMITS, Message, Signed};
use crate::keys::der_of_pem;

/// Checks that `body` is the entry of `signed`, made by the holder of `verifier` (DER of a certificate, or of a key), with
/// `bytes` as what was signed.
pub(super) fn check(body: &[u8], signed: &Signed, bytes: &[u8], verifier: &[u8]) -> Result<(), String> {
    let body = parse_json(body, LIMITS).map_err(|error| error.to_string())?;
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    let spec = body.get("spec").ok_or("the entry has no spec")?;
    let parts = match (text("kind"), text("apiVersion")) {
        ("hashedrekord", "0.0.1") => Parts::hashed_v1(spec),
        ("hashedrekord", "0.0.2") => Parts::hashed_v2(spec),
        ("dsse", "0.0.1") => Parts::envelope_v1(spec),
        (kind, version) => {
            let cut = |text: &str| text.chars().take(32).collect::<String>();
            return Err(format!("entries of kind {:?} {:?} are not supported", cut(kind), cut(version)));
        }
    };
    let parts = parts.ok_or("the entry lacks a member of its kind")?;
    let covered: &[u8] = match (&signed.message, parts.of_envelope) {
        (Message::Envelope { payload, .. }, true) => payload,
        // What was signed, also of an envelope: the second version of the log has them so.
        (_, false) => bytes,
        _ => return Err("the entry is of another kind of signature".to_owned()),
    };
    if parts.digest != Sha256::digest(covered).as_slice() {
        return Err("the entry is of other bytes".to_owned());
    }
    if parts.signature != signed.signature {
        return Err("the entry has another signature".to_owned());
    }
    if parts.verifier != verifier {
        return Err("the entry has another key".to_owned());
    }
    Ok(())
}

struct Parts {
    of_envelope: bool,
    digest: Vec<u8>,
    signature: Vec<u8>,
    verifier: Vec<u8>,
}

impl Parts {
    fn hashed_v1(spec: &Value) -> Option<Self> {
        let (hash, signature) = (spec.pointer("/data/hash")?, spec.get("signature")?);
        Some(Self {
            of_envelope: false,
            digest: hex_digest(hash)?,
            signature: base64(signature.get("content")?)?,
            verifier: pem(signature.pointer("/publicKey/content")?)?,
        })
    }

    fn hashed_v2(spec: &Value) -> Option<Self> {
        let spec = spec.get("hashedRekordV002")?;
        let (data, signature) = (spec.get("data")?, spec.get("signature")?);
        Some(Self {
            of_envelope: false,
            digest: named_digest(data)?,
            signature: base64(signature.get("content")?)?,
            verifier: raw(signature.get("verifier")?)?,
        })
    }

    fn envelope_v1(spec: &Value) -> Option<Self> {
        let signature = only(spec.get("signatures")?)?;
        Some(Self {
            of_envelope: true,
            digest: hex_digest(spec.get("payloadHash")?)?,
            signature: base64(signature.get("signature")?)?,
            verifier: pem(signature.get("verifier")?)?,
        })
    }
}

fn only(list: &Value) -> Option<&Value> {
    match list.as_array()?.as_slice() {
        [one] => Some(one),
        _ => None,
    }
}

fn base64(value: &Value) -> Option<Vec<u8>> {
    Base64::decode_vec(value.as_str()?).ok()
}

fn hex_digest(hash: &Value) -> Option<Vec<u8>> {
    let is_sha256 = hash.get("algorithm")?.as_str()? == "sha256";
    is_sha256.then(|| hex::decode(hash.get("value")?.as_str()?).ok()).flatten()
}

fn named_digest(hash: &Value) -> Option<Vec<u8>> {
    let is_sha256 = hash.get("algorithm")?.as_str()? == "SHA2_256";
    is_sha256.then(|| base64(hash.get("digest")?)).flatten()
}

/// Base64 of PEM.
fn pem(value: &Value) -> Option<Vec<u8>> {
    let text = String::from_utf8(base64(value)?).ok()?;
    der_of_pem(&text)
}

/// A certificate or a key.
fn raw(verifier: &Value) -> Option<Vec<u8>> {
    let holder = verifier.get("x509Certificate").or_else(|| verifier.get("publicKey"))?;
    base64(holder.get("rawBytes")?)
}
