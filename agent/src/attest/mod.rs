//! Secrets for the pod, released by a remote verifier because evidence of this guest verified.
//!
//! ```text
//! initdata ── vouched for by the processor (attester) ── wishes: verifier and its authority, files, patience
//! session  ── challenge → evidence bound to a key made here → token → secret, sealed for that key
//!     verifier: HTTP over TLS over vsock; the host passes records on and reads none
//!     host: it is shown a key first, as containers could connect too
//! held     ── files on a tmpfs, environment of containers, what they ask for (asked) ── renew: still ours? ── else wiped
//! shown    ── images that were admitted: part of the evidence, so that a secret can depend on who signed them
//! ```
//! Nothing the host says is believed: initdata must have the digest that is in the processor's report, and the verifier must
//! show a certificate of the authority that the initdata names.
//!
//! Never here: containers, and what evidence is worth.

mod asked;
mod attested;
mod attester;
mod error;
mod grants;
mod held;
mod host;
mod renew;
mod session;
mod shown;
mod tsm;
mod verifier;
mod wishes;

pub(crate) use asked::Denial;
pub(crate) use attested::{Attested, Launched};
pub(crate) use error::AttestError;
pub(crate) use grants::Grant;
pub(crate) use host::HostKey;
#[cfg(test)]
pub(crate) use shown::sample_record;
pub(crate) use shown::{Fetched, Shown};
pub(crate) use tsm::{SecureProcessor, present as processor_present};

/// The tmpfs that secrets are on.
const SECRETS: &str = "/run/coffer/secrets";
