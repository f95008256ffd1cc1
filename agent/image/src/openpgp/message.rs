//! Signed messages (RFC 4880, section 11.3), compressed or not, around the payload of simple signing.

use std::borrow::Cow;
use std::io::{BufRead, Read};

use coffer_attestation::handshake::{JsonError, Limits, read_json};
use coffer_attestation::time::UnixTime;
use flate2::bufread::{DeflateDecoder, ZlibDecoder};
use serde::Deserialize;

use super::key::Key;
use super::packet::{Bytes, COMPRESSED, LITERAL, ONE_PASS, SIGNATURE};
use super::signature::Signature;
use crate::artefact::{Attached, Digest};

/// The longest message when it is not compressed.
const MAX_BYTES: usize = 256 << 10;
const LIMITS: Limits = Limits { bytes: MAX_BYTES, depth: 8 };
const KIND: &str = "atomic container signature";
/// A signature over bytes as they are.
const BINARY: u8 = 0;

/// A payload and its signature; nothing of it was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    payload: Vec<u8>,
    signature: Signature,
    digest: Digest,
    name: String,
}

/// Why bytes are no message that can be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MessageError {
    #[error("{part} of the OpenPGP message cannot be read")]
    Form { part: &'static str },
    #[error("{part} of the OpenPGP message is of a kind that is not supported")]
    Unsupported { part: &'static str },
    #[error("the OpenPGP message holds more than {MAX_BYTES} bytes")]
    TooLong,
    #[error("the payload of the OpenPGP message is not JSON that can be taken: {reason}")]
    Json { reason: JsonError },
    #[error("the payload of the OpenPGP message says that it is {found:?}")]
    Kind { found: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    critical: Critical,
    #[serde(rename = "optional")]
    _optional: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Critical {
    #[serde(rename = "type")]
    kind: String,
    image: Image,
    identity: Identity,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Image {
    docker_manifest_digest: Digest,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Identity {
    docker_reference: String,
}

impl Message {
    /// Reads a signature object; `None` for one of another kind.
    pub(crate) fn read(attached: &Attached) -> Option<Result<Self, MessageError>> {
        match attached {
            Attached::OpenPgp(bytes) => Some(read(bytes)),
            _ => None,
        }
    }

    /// The digest that the payload is about.
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    /// The image's name that the payload says.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whose it says that it is: the end of a fingerprint. A hint.
    pub(crate) fn issuer(&self) -> Option<String> {
        self.signature.issuer.map(hex::encode_upper)
    }

    /// Whether it could be signed by `key`, as it says.
    pub(crate) fn may_be_by(&self, key: &Key) -> bool {
        key.may_be(self.signature.issuer)
    }

    /// Whether it is signed by `key`, or why not.
    pub(crate) fn verify(&self, key: &Key) -> Result<(), String> {
        key.verify(&self.signature, &self.payload)
    }

    /// When it was made is the signer's own word, which can only make it worth less.
    pub(crate) fn check_times(&self, key: &Key, at: UnixTime) -> Result<(), String> {
        let made = self.signature.created;
        if made < key.created {
            return Err(format!("it was made at {made}, before its key ({})", key.created));
        }
        match self.signature.expires_after.and_then(|seconds| made.0.checked_add(seconds)) {
            Some(until) if until <= at.0 => Err(format!("it expired at {}", UnixTime(until))),
            _ => Ok(()),
        }
    }
}

fn read(bytes: &[u8]) -> Result<Message, MessageError> {
    let form = |part| MessageError::Form { part };
    let mut whole = Bytes(bytes);
    let first = whole.packet().ok_or(form("the first packet"))?;
    let inner = match first.tag {
        COMPRESSED if whole.is_empty() => uncompressed(&first.body)?,
        COMPRESSED => return Err(form("what stands behind the compressed packet")),
        _ => Cow::Borrowed(bytes),
    };
    if inner.len() > MAX_BYTES {
        return Err(MessageError::TooLong);
    }
    let (payload, signature) = signed(&inner)?;
    let said: Payload = read_json(&payload, LIMITS).map_err(|reason| MessageError::Json { reason })?;
    if said.critical.kind != KIND {
        return Err(MessageError::Kind { found: said.critical.kind.chars().take(128).collect() });
    }
    let (digest, name) =
        (said.critical.image.docker_manifest_digest, said.critical.identity.docker_reference);
    Ok(Message { payload, signature, digest, name })
}

/// The payload, and the one signature of it: behind it, announced before it, or before it (as older programs wrote it).
fn signed(inner: &[u8]) -> Result<(Vec<u8>, Signature), MessageError> {
    let form = |part| MessageError::Form { part };
    let mut bytes = Bytes(inner);
    let mut packets = Vec::new();
    while !bytes.is_empty() {
        packets.push(bytes.packet().filter(|_| packets.len() < 3).ok_or(form("a packet"))?);
    }
    let tags: Vec<u8> = packets.iter().map(|packet| packet.tag).collect();
    let (literal, signature) = match (tags.as_slice(), packets.as_slice()) {
        ([ONE_PASS, LITERAL, SIGNATURE], [_, literal, signature])
        | ([SIGNATURE, LITERAL], [signature, literal]) => (literal, signature),
        _ => return Err(form("the order of packets")),
    };
    let signature =
        Signature::read(&signature.body).ok_or(MessageError::Unsupported { part: "the signature" })?;
    if signature.kind != BINARY {
        return Err(MessageError::Unsupported { part: "the signature over text" });
    }
    // Format, name, date.
    let mut literal = Bytes(&literal.body);
    let mut skip = || {
        literal.byte()?;
        let name = usize::from(literal.byte()?);
        literal.take(name.checked_add(4)?)
    };
    skip().ok_or(form("the payload"))?;
    Ok((literal.0.to_vec(), signature))
}

fn uncompressed(body: &[u8]) -> Result<Cow<'_, [u8]>, MessageError> {
    let (kind, mut data) = body.split_first().ok_or(MessageError::Form { part: "the compression" })?;
    let out = match kind {
        0 => return Ok(Cow::Borrowed(data)),
        1 => all_of(DeflateDecoder::new(&mut data))?,
        2 => all_of(ZlibDecoder::new(&mut data))?,
        _ => return Err(MessageError::Unsupported { part: "the compression" }),
    };
    match data.fill_buf() {
        Ok([]) => Ok(Cow::Owned(out)),
        _ => Err(MessageError::Form { part: "what stands behind the compressed data" }),
    }
}

fn all_of(reader: impl Read) -> Result<Vec<u8>, MessageError> {
    let mut out = Vec::new();
    let read = reader.take(MAX_BYTES as u64 + 1).read_to_end(&mut out);
    read.map_err(|_| MessageError::Form { part: "the compressed data" })?;
    if out.len() > MAX_BYTES { Err(MessageError::TooLong) } else { Ok(out) }
}
