//! What the verifier does with each message, and what it says: the protocol without a network.
//!
//! ```text
//! auth      Request             -> Challenge                                nothing is stored
//! attest    Attestation         -> token    nonce taken once, evidence judged, written to the audit log, then told
//! resource  path and token      -> Sealed   revoked? tenant before policy, policy before existence, audit log before the secret
//! standing  token               -> whether the guest may keep what it was given
//! the rest  operator            -> permitted by role, written to the audit log, then done
//! ```
//! Every refusal is one of [`Refusal`] with its own status code; a guest is told which check failed and not what was
//! expected, the audit log is told all. What cannot be written to the log does not happen.
//!
//! Never here: sockets, TLS, rates. Whoever serves this must bound how often strangers may ask.

mod admin;
mod attest;
mod counters;
mod guest;
mod inspect;
mod refusal;
mod release;
mod replicas;
mod rules;
mod standing;
mod verifier;

pub use admin::By;
pub use counters::Counters;
pub use inspect::Wanted;
pub use refusal::{Refusal, Told};
pub use verifier::{Parts, Verifier};
