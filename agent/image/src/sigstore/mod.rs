//! Signatures as cosign makes them: with a key that the policy names, or with a certificate of minutes and a log of them.
//!
//! ```text
//! payload + annotations ┐                    digest, name, type ── against the image and the policy
//!                       ├─ Signed ── verify ┤ signature ────────── by a key, or by a certificate: authority, logs, identity
//! bundle v0.3 ──────────┘                    transparency log, time stamps ── when
//! ```
//! Never here: which requirement is asked, and what follows from its answer.

mod body;
mod bundle;
mod certificate;
mod checkpoint;
mod log;
mod made;
mod merkle;
mod payload;
mod signed;
mod statement;
mod verify;

pub use made::{MadeError, check_made, check_stamp, check_use};
pub(crate) use signed::Signed;
pub(crate) use verify::verify;
