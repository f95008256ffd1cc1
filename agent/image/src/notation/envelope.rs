//! What an envelope holds, whichever form it came in (Notary Project, signature specification).

use coffer_attestation::handshake::{JsonError, Limits, read_json};
use coffer_attestation::time::UnixTime;
use coffer_attestation::x509::{Certificate, CertificateError};
use serde::Deserialize;

use crate::artefact::{Attached, Digest};

/// The longest envelope.
pub(super) const MAX_BYTES: usize = 1 << 20;
pub(super) const LIMITS: Limits = Limits { bytes: MAX_BYTES, depth: 8 };
pub(super) const MAX_CHAIN: usize = 8;
pub(super) const CONTENT: &str = "application/vnd.cncf.notary.payload.v1+json";
pub(super) const SCHEME: &str = "notary.x509";

/// A signed envelope; nothing of it was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Envelope {
    /// What the signature covers.
    pub(super) message: Vec<u8>,
    pub(super) signature: Vec<u8>,
    /// As JWS names it.
    pub(super) algorithm: String,
    /// From the signer's up.
    pub(super) chain: Vec<Certificate>,
    pub(super) digest: Digest,
    pub(super) expiry: Option<UnixTime>,
    /// A time stamp of the signature (RFC 3161).
    pub(super) stamp: Option<Vec<u8>>,
}

/// Why bytes are no envelope that can be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvelopeError {
    #[error("{part} of the envelope is not JSON that can be taken: {reason}")]
    Json { part: &'static str, reason: JsonError },
    #[error("{part} of the envelope cannot be read")]
    Form { part: &'static str },
    #[error("{part} of the envelope is no base64")]
    Base64 { part: &'static str },
    #[error("{part} of the envelope is {found:?}, which is not supported")]
    Unsupported { part: &'static str, found: String },
    #[error("the envelope marks {found:?} as critical, which is not understood, or leaves out what must be")]
    Critical { found: String },
    #[error("the envelope has {found} certificates, 1 to {MAX_CHAIN} are read")]
    Chain { found: usize },
    #[error("a certificate of the envelope cannot be read")]
    Certificate {
        #[source]
        reason: CertificateError,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    target_artifact: Target,
}

#[derive(Deserialize)]
struct Target {
    digest: Digest,
}

impl Envelope {
    /// Reads a signature object; `None` for one that is none of Notation's.
    pub(crate) fn read(attached: &Attached) -> Option<Result<Self, EnvelopeError>> {
        match attached {
            Attached::NotationJws(bytes) => Some(super::jws::read(bytes)),
            Attached::NotationCose(bytes) => Some(super::cose::read(bytes)),
            _ => None,
        }
    }
}

/// The digest that a payload is about.
pub(super) fn target(payload: &[u8]) -> Result<Digest, EnvelopeError> {
    let payload: Payload =
        read_json(payload, LIMITS).map_err(|reason| EnvelopeError::Json { part: "the payload", reason })?;
    Ok(payload.target_artifact.digest)
}

/// A chain of certificates in DER.
pub(super) fn chain(all: &[Vec<u8>]) -> Result<Vec<Certificate>, EnvelopeError> {
    if all.is_empty() || all.len() > MAX_CHAIN {
        return Err(EnvelopeError::Chain { found: all.len() });
    }
    let read = |der: &Vec<u8>| Certificate::from_der(der);
    all.iter().map(read).collect::<Result<_, _>>().map_err(|reason| EnvelopeError::Certificate { reason })
}
