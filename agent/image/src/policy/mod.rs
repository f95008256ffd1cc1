//! What an image has to show before it may run: containers-policy.json, and requirements of our own in the same form.
//!
//! ```text
//! {"default": [REQUIREMENT …], "transports": {"docker": {"SCOPE": [REQUIREMENT …]}}, "requirements": {"NAME": REQUIREMENT}}
//! ```
//! The narrowest scope that fits the image's name decides alone, and every requirement of its list must be met. Without any
//! that fits, `default` decides. A member that is not known is an error, and so is a requirement that this version cannot
//! check: a policy is taken as a whole or not at all. There is no policy that is not written down.
//!
//! Ours are `notation` (trust stores, trusted identities, a level and when a time stamp is asked for, as in Notation's trust
//! policies; revocation lists as bytes), `keyless` (who signed, by whose word, under which trusted root), `attestation` (a statement
//! of a predicate type about the image), `kOfN` over the named `requirements`, `notBefore`, and the identity `matchDigest`.
//!
//! Never here: whether a signature holds.

mod distinguished;
mod document;
mod identity;
mod pattern;
mod read;
mod requirement;

pub use identity::SignedIdentity;
pub use pattern::{Pattern, PatternError};
pub use read::{KeyFiles, MAX_POLICY_BYTES, NoFiles, PolicyError};
pub(crate) use requirement::{
    KeySigned, Keyless, Kind, Level, Notation, Predicate, SignedBy, Sigstore, Trust,
};
pub use requirement::{Policy, Requirement, Rule};
