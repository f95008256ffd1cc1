//! cosign's older scheme: the payload of simple signing, its signature and the log's promise in annotations.

use base64ct::{Base64, Encoding};
use coffer_attestation::handshake::read_json;
use coffer_attestation::x509::Certificate;
use serde::Deserialize;

use super::log::{Entry, Promise};
use super::signed::{Claim, LIMITS, Message, Signed, SignedError, cut};
use crate::artefact::{Digest, SignatureNotes};

const KIND: &str = "cosign container image signature";

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: Identity,
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Identity {
    docker_reference: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Image {
    docker_manifest_digest: Digest,
}

/// `dev.sigstore.cosign/bundle`.
#[derive(Deserialize)]
struct LogNote {
    #[serde(rename = "SignedEntryTimestamp")]
    promise: String,
    #[serde(rename = "Payload")]
    payload: LogPayload,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogPayload {
    body: String,
    integrated_time: u64,
    log_index: u64,
    #[serde(rename = "logID")]
    log_id: String,
}

/// `dev.sigstore.cosign/rfc3161timestamp`.
#[derive(Deserialize)]
struct TimestampNote {
    #[serde(rename = "SignedRFC3161Timestamp")]
    stamp: String,
}

pub(super) fn read(payload: &[u8], notes: &SignatureNotes) -> Result<Signed, SignedError> {
    let json = |part| move |reason| SignedError::Json { part, reason };
    let parsed: Payload = read_json(payload, LIMITS).map_err(json("the payload"))?;
    if parsed.critical.kind != KIND {
        return Err(SignedError::Kind { part: "the payload's type", found: cut(&parsed.critical.kind) });
    }
    let signature = base64("the annotation", &notes.signature)?;
    let certificate = notes.certificate.as_deref().map(certificate).transpose()?;
    let entries = match &notes.log {
        Some(note) => {
            let note: LogNote = read_json(note.as_bytes(), LIMITS).map_err(json("the log's annotation"))?;
            vec![entry(note)?]
        }
        None => Vec::new(),
    };
    let timestamps = match &notes.timestamp {
        Some(note) => {
            let note: TimestampNote =
                read_json(note.as_bytes(), LIMITS).map_err(json("the time stamp's annotation"))?;
            vec![base64("the time stamp", &note.stamp)?]
        }
        None => Vec::new(),
    };
    let claim = Claim {
        digests: vec![parsed.critical.image.docker_manifest_digest],
        name: Some(parsed.critical.identity.docker_reference),
        predicate: None,
    };
    let message = Message::Bytes(payload.to_vec());
    Ok(Signed { message, signature, certificate, entries, timestamps, claim })
}

fn entry(note: LogNote) -> Result<Entry, SignedError> {
    let log = hex::decode(&note.payload.log_id);
    let log =
        log.map_err(|_| SignedError::Kind { part: "the log's id", found: cut(&note.payload.log_id) })?;
    let promise = Promise {
        signature: base64("the log's promise", &note.promise)?,
        time: note.payload.integrated_time,
        index: note.payload.log_index,
    };
    let body = base64("the log's entry", &note.payload.body)?;
    Ok(Entry { log, body, promise: Some(promise), proof: None })
}

fn certificate(pem: &str) -> Result<Certificate, SignedError> {
    let all = Certificate::from_file(pem.as_bytes());
    let mut all = all.map_err(|reason| SignedError::Certificate { reason })?.into_iter();
    match (all.next(), all.next()) {
        (Some(one), None) => Ok(one),
        _ => Err(SignedError::Missing { part: "certificate" }),
    }
}

pub(super) fn base64(part: &'static str, text: &str) -> Result<Vec<u8>, SignedError> {
    Base64::decode_vec(text).map_err(|_| SignedError::Base64 { part })
}
