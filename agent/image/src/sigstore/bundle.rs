//! Sigstore's bundle, version 0.3 (JSON form of its protocol buffer). Members that are not known are refused.

use coffer_attestation::handshake::read_json;
use coffer_attestation::x509::Certificate;
use serde::{Deserialize, Deserializer};

use super::log::{Entry, Promise, Proof};
use super::payload::base64;
use super::signed::{Claim, LIMITS, MAX_PARTS, Message, Signed, SignedError, cut};
use super::statement;
use crate::artefact::Digest;

const MEDIA_TYPES: [&str; 2] =
    ["application/vnd.dev.sigstore.bundle.v0.3+json", "application/vnd.dev.sigstore.bundle+json;version=0.3"];

/// The longest way through a tree whose entries 64 bits can count.
const MAX_HASHES: usize = 64;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Bundle {
    media_type: String,
    verification_material: Material,
    message_signature: Option<MessageSignature>,
    dsse_envelope: Option<Envelope>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Material {
    certificate: Option<RawBytes>,
    // A hint is nobody's word: the policy's keys are tried.
    #[serde(rename = "publicKey")]
    _public_key: Option<Hint>,
    #[serde(default)]
    tlog_entries: Vec<LogEntry>,
    timestamp_verification_data: Option<Timestamps>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawBytes {
    raw_bytes: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hint {
    #[serde(rename = "hint")]
    _hint: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Timestamps {
    #[serde(default, rename = "rfc3161Timestamps")]
    stamps: Vec<Stamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Stamp {
    signed_timestamp: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LogEntry {
    #[serde(default)]
    log_index: Number,
    log_id: LogId,
    // What the body says of itself counts.
    #[serde(rename = "kindVersion")]
    _kind_version: Option<KindVersion>,
    #[serde(default)]
    integrated_time: Number,
    inclusion_promise: Option<InclusionPromise>,
    inclusion_proof: Option<InclusionProof>,
    canonicalized_body: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LogId {
    key_id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KindVersion {
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(rename = "version")]
    _version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct InclusionPromise {
    signed_entry_timestamp: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct InclusionProof {
    #[serde(default)]
    log_index: Number,
    root_hash: String,
    #[serde(default)]
    tree_size: Number,
    #[serde(default)]
    hashes: Vec<String>,
    checkpoint: Checkpoint,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Checkpoint {
    envelope: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MessageSignature {
    message_digest: MessageDigest,
    signature: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MessageDigest {
    algorithm: String,
    digest: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    sig: String,
    #[serde(default, rename = "keyid")]
    _keyid: Option<String>,
}

/// A number of 64 bits, which JSON of protocol buffers writes as text.
#[derive(Clone, Copy, Default)]
struct Number(u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u64),
            Text(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Number(number) => Ok(Self(number)),
            Either::Text(text) => text.parse().map(Self).map_err(serde::de::Error::custom),
        }
    }
}

pub(super) fn read(bytes: &[u8]) -> Result<Signed, SignedError> {
    let bundle: Bundle =
        read_json(bytes, LIMITS).map_err(|reason| SignedError::Json { part: "the bundle", reason })?;
    if !MEDIA_TYPES.contains(&bundle.media_type.as_str()) {
        return Err(SignedError::Kind { part: "the media type", found: cut(&bundle.media_type) });
    }
    let (message, signature, claim) = match (bundle.dsse_envelope, bundle.message_signature) {
        (Some(envelope), None) => in_envelope(envelope)?,
        (None, Some(plain)) => of_manifest(&plain)?,
        _ => return Err(SignedError::Missing { part: "envelope or message" }),
    };
    let material = bundle.verification_material;
    let stamps = material.timestamp_verification_data.unwrap_or_default().stamps;
    let most = material.tlog_entries.len().max(stamps.len());
    if most > MAX_PARTS {
        let part = "the verification material";
        return Err(SignedError::TooMany { part, found: most, limit: MAX_PARTS });
    }
    let certificate = material.certificate.map(|raw| certificate(&raw.raw_bytes)).transpose()?;
    let entries = material.tlog_entries.into_iter().map(entry).collect::<Result<_, _>>()?;
    let stamps = stamps.iter().map(|stamp| base64("a time stamp", &stamp.signed_timestamp));
    Ok(Signed {
        message,
        signature,
        certificate,
        entries,
        timestamps: stamps.collect::<Result<_, _>>()?,
        claim,
    })
}

fn in_envelope(envelope: Envelope) -> Result<(Message, Vec<u8>, Claim), SignedError> {
    let [signature] = envelope.signatures.as_slice() else {
        return Err(SignedError::Missing { part: "signature in its envelope" });
    };
    let signature = base64("the signature", &signature.sig)?;
    let payload = base64("the payload", &envelope.payload)?;
    let claim = statement::read(&payload, &envelope.payload_type)?;
    Ok((Message::Envelope { payload, kind: envelope.payload_type }, signature, claim))
}

fn of_manifest(plain: &MessageSignature) -> Result<(Message, Vec<u8>, Claim), SignedError> {
    let kind = &plain.message_digest.algorithm;
    if kind != "SHA2_256" {
        return Err(SignedError::Kind { part: "the message's hash", found: cut(kind) });
    }
    let digest = base64("the message's digest", &plain.message_digest.digest)?;
    let digest =
        <[u8; 32]>::try_from(digest).map_err(|_| SignedError::Missing { part: "digest of 32 bytes" })?;
    let digest = Digest::from_bytes(digest);
    let claim = Claim { digests: vec![digest], name: None, predicate: None };
    Ok((Message::Manifest(digest), base64("the signature", &plain.signature)?, claim))
}

fn certificate(text: &str) -> Result<Certificate, SignedError> {
    let der = base64("the certificate", text)?;
    Certificate::from_der(&der).map_err(|reason| SignedError::Certificate { reason })
}

fn entry(raw: LogEntry) -> Result<Entry, SignedError> {
    let promise = match &raw.inclusion_promise {
        Some(promise) => Some(Promise {
            signature: base64("the log's promise", &promise.signed_entry_timestamp)?,
            time: raw.integrated_time.0,
            index: raw.log_index.0,
        }),
        None => None,
    };
    let proof = raw.inclusion_proof.map(|proof| {
        let found = proof.hashes.len();
        if found > MAX_HASHES {
            return Err(SignedError::TooMany { part: "the log's proof", found, limit: MAX_HASHES });
        }
        let hashes = proof.hashes.iter().map(|hash| base64("the log's proof", hash));
        Ok(Proof {
            index: proof.log_index.0,
            size: proof.tree_size.0,
            root: base64("the log's root", &proof.root_hash)?,
            hashes: hashes.collect::<Result<_, _>>()?,
            checkpoint: proof.checkpoint.envelope,
        })
    });
    Ok(Entry {
        log: base64("the log's id", &raw.log_id.key_id)?,
        body: base64("the log's entry", &raw.canonicalized_body)?,
        promise,
        proof: proof.transpose()?,
    })
}
