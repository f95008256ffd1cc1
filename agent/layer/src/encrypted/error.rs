//! Why an encrypted layer is refused. No message says anything of a key.

use std::io;

use coffer_protocol::Digest;

use super::{KEY_ANNOTATION, MAX_BYTES, WRAPPING_KEY_BYTES};

/// Why a layer's annotations do not say how it is decrypted.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Not there.
    #[error(
        "the layer has no annotation {annotation}: it is encrypted for somebody else, or not as `coffer image encrypt` does it"
    )]
    Missing {
        /// Which.
        annotation: &'static str,
    },
    /// Longer than anything that is meant.
    #[error("the annotation {annotation} has {found} bytes, the most are {most}")]
    Long {
        /// Which.
        annotation: &'static str,
        /// Its length.
        found: usize,
        /// The longest.
        most: usize,
    },
    /// Several keys.
    #[error("{KEY_ANNOTATION} holds {found} wrapped keys, one is supported")]
    Several {
        /// How many.
        found: usize,
    },
    /// Not in base64.
    #[error("{what} is not in base64")]
    Base64 {
        /// What.
        what: &'static str,
    },
    /// Not JSON, or a member missing or unknown.
    #[error("{what} is not of its form")]
    Form {
        /// What.
        what: &'static str,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Another number of bytes.
    #[error("{what} has {found} bytes, {expected} are wanted")]
    Length {
        /// What.
        what: &'static str,
        /// Bytes wanted.
        expected: usize,
        /// Bytes found.
        found: usize,
    },
    /// A word that is not the one that is understood.
    #[error("{what} is {found:?}, {expected:?} is supported")]
    Unsupported {
        /// What.
        what: &'static str,
        /// What is understood.
        expected: &'static str,
        /// What was found, cut to 64 characters.
        found: String,
    },
}

/// Why a layer's key is not had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key to unwrap it is none.
    ///
    /// Its length is not told: hosts read this, and may have asked for any secret by the name of a key.
    #[error(
        "the key to unwrap it does not have the {WRAPPING_KEY_BYTES} bytes that are wanted, as they are and not in base64, hex or PEM"
    )]
    Length,
    /// It does not open.
    #[error("it was wrapped under another key, or changed since")]
    Another,
    /// What was wrapped is none.
    #[error("what was wrapped is no key of a layer: {reason}")]
    Form {
        /// What is wrong.
        reason: &'static str,
    },
}

/// Why an encrypted blob is refused.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// More than is kept the hashes of.
    #[error("the layer has {found} bytes, at most {MAX_BYTES} are decrypted")]
    Long {
        /// By the manifest.
        found: u64,
    },
    /// The blob could not be read.
    #[error("cannot read the layer's blob after {read} bytes")]
    Read {
        /// Bytes that had come.
        read: u64,
        /// The reader's answer.
        source: io::Error,
    },
    /// Other bytes than the manifest's.
    #[error("the layer hashes to {found}, the manifest says {expected}; nothing of it was decrypted")]
    Digest {
        /// By the manifest.
        expected: Digest,
        /// Of what came.
        found: Digest,
    },
    /// Not what the key was used for.
    #[error(
        "the layer's HMAC-SHA256 is not the one in its annotations: it was encrypted under another key, or they were changed; \
         nothing of it was decrypted"
    )]
    Hmac,
    /// The second time other bytes came than the first time.
    #[error(
        "MiB {chunk} of the layer came with other bytes the second time than the first; it was not decrypted"
    )]
    Changed {
        /// Which, from 0.
        chunk: u64,
    },
}
