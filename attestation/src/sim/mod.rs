//! A simulated secure processor: certificates and reports in AMD's formats under a root of its own, for machines without one.
//!
//! ```text
//! seed (32 bytes, one per node) ── keys of ARK, ASK and VCEK ── certificates that name themselves SIMULATED
//! Launch {what was measured, HOST_DATA, policy} + REPORT_DATA ── Processor::report ── a signed report of version 5
//! ```
//! It proves nothing about hardware: whoever has the seed, which is root on the node, makes any report. A verifier believes
//! it only where its operator configured exactly this root, and says so in every verdict.
//!
//! Never here: files, randomness, and what is measured.

mod asn1;
mod certificate;
mod list;
mod processor;

pub use asn1::{element, identifier, named};
pub use certificate::{Recipe, sign};
pub use list::revocation_list;
pub use processor::{Debug, FIRMWARE, Launch, Processor, SEED_BYTES, Vouched, sign_report};
