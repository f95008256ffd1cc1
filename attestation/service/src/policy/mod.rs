//! What an operator asks for beyond what is always asked: policies in Rego, for appraisal and for the release of secrets.
//!
//! ```text
//! text ── Rules::compile, once ── Policies: one for appraisal; for release one of every tenant and one of each
//! request ── built-in checks, tenant ── Policies::decide: every policy that applies must say yes ── Recorded
//! ```
//! A policy narrows and never widens: it is asked only about what the built-in rules would allow. Where there is none, they
//! alone decide. A policy that fails, runs too long or says anything but `true` says no.
//!
//! Never here: who may change them, and where they are kept.

mod current;
mod recorded;
mod rules;

pub use current::{Decision, Policies};
pub use recorded::{Recorded, Replayed};
pub use rules::{PolicyError, Purpose, Rules};
