//! Attestation: what a guest's evidence says, and, later, the service that judges it and keeps the secrets.
//!
//! Today: evidence formats, parsed and bounded. A parsed report is a claim, not a verdict: nothing in this crate
//! checks a signature yet, and no type here is named as if it did (`docs/limits.md`).
#![forbid(unsafe_code)]

pub mod snp;
