//! Documents that somebody signed: a DSSE envelope (secure-systems-lab, protocol version 1) around bytes and their type.
//!
//! ```text
//! {"payloadType", "payload": base64, "signatures": [{"keyid", "sig": base64}]}
//! signed: "DSSEv1" SP length of type SP type SP length of payload SP payload     lengths in decimal, before base64
//! ```
//! Signatures are ECDSA on P-256 with SHA-256 or on P-384 with SHA-384, as a DER sequence. A key is known by the SHA-256 of its
//! SubjectPublicKeyInfo; `keyid` holds that in hexadecimal, and is a hint that nothing depends on.
//!
//! Never here: what a document says, whom to believe, files.

mod envelope;
mod key;

pub use envelope::{Envelope, EnvelopeError, MAX_ENVELOPE, REFERENCES, signed_bytes};
pub use key::{PrivateKey, SignerKey, SignerKeyError};
