//! Image trust: what a policy says about an image, given its manifest and whatever signatures somebody brought along.
//!
//! ```text
//! artefact   digests, references, manifests, signature objects: bytes that a registry or a host wrote, parsed and bounded
//! policy     a superset of containers-policy.json: which requirements an image of that name has to meet
//! keys       public keys as policies give them
//! trusted_root  authorities, logs and clocks that keyless signatures lean on
//! sigstore   cosign's signatures, with a key or keyless: payload, bundle, transparency log, certificates
//! signing    what whoever makes a keyless signature looks at before anybody sees it
//! extension  what a certificate's extensions say of names and uses
//! notation   Notation's signatures, in JWS and COSE
//! openpgp    keyrings and signed messages of OpenPGP, which simple_signing holds against policies
//! tlv        walking through DER
//! timestamp  time stamps of RFC 3161
//! work       how many signatures may be verified for one judgement
//! judge      policy x image x signatures at a time -> a verdict that says which rule decided
//! ```
//! The guest's gate and `coffer image verify` are both this code. Never here: a network, a clock, a file, a cache; what is
//! judged are the bytes that the caller holds. What is not understood is refused, never passed over.

pub mod artefact;
mod extension;
pub mod judge;
mod keys;
mod notation;
mod openpgp;
pub mod policy;
pub mod signing;
mod sigstore;
mod simple_signing;
mod timestamp;
mod tlv;
mod trusted_root;
mod work;

pub use coffer_attestation::time::UnixTime;
pub use coffer_attestation::verdict::{Appraisal, Check, Outcome, Verdict};
pub use work::MAX_VERIFICATIONS;
