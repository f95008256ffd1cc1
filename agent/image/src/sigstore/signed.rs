//! A signature object in one form, whichever it came in.

use coffer_attestation::handshake::{JsonError, Limits};
use coffer_attestation::x509::{Certificate, CertificateError};

use super::log::Entry;
use crate::artefact::{Attached, Digest};

/// Bounds of every JSON document of a signature.
pub(super) const LIMITS: Limits = Limits { bytes: 1 << 20, depth: 16 };
/// The most log entries, and the most time stamps, of one signature.
pub(super) const MAX_PARTS: usize = 4;

/// A signature and what it claims; nothing of it was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signed {
    pub(super) message: Message,
    pub(super) signature: Vec<u8>,
    pub(super) certificate: Option<Certificate>,
    pub(super) entries: Vec<Entry>,
    pub(super) timestamps: Vec<Vec<u8>>,
    pub(super) claim: Claim,
}

/// What was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// These bytes.
    Bytes(Vec<u8>),
    /// A payload in an envelope: the signature covers its type and its length too.
    Envelope { payload: Vec<u8>, kind: String },
    /// The image's manifest itself, by its digest.
    Manifest(Digest),
}

/// What the signed bytes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) digests: Vec<Digest>,
    pub(super) name: Option<String>,
    /// A statement's predicate type.
    pub(super) predicate: Option<String>,
}

/// Why a signature object cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignedError {
    #[error("{part} of the signature is not JSON that can be taken: {reason}")]
    Json { part: &'static str, reason: JsonError },
    #[error("{part} of the signature is no base64")]
    Base64 { part: &'static str },
    #[error("{part} of the signature is {found:?}, which is not supported")]
    Kind { part: &'static str, found: String },
    #[error("the signature has no {part}, or more than one")]
    Missing { part: &'static str },
    #[error("{part} of the signature has {found} entries, at most {limit} are read")]
    TooMany { part: &'static str, found: usize, limit: usize },
    #[error("the signer's certificate cannot be read")]
    Certificate {
        #[source]
        reason: CertificateError,
    },
}

impl Signed {
    /// Reads a signature object; `None` for one that is none of cosign's.
    pub(crate) fn read(attached: &Attached) -> Option<Result<Self, SignedError>> {
        match attached {
            Attached::SimpleSigning { payload, notes } => Some(super::payload::read(payload, notes)),
            Attached::Bundle(bytes) => Some(super::bundle::read(bytes)),
            _ => None,
        }
    }

    /// Whether it says that it is a statement of another kind than an image's signature, which it then is not.
    pub(crate) fn predicate(&self) -> Option<&str> {
        self.claim.predicate.as_deref()
    }
}

/// Something from strangers, cut for an error.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(128).collect()
}
