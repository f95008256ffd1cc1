//! Decides whether a container's image may run, before any of its bytes are taken.
//!
//! ```text
//! initdata's or node's policy ── Gate ┐
//! what the host says ────── Claim ────┴─ judge, as of a time ── Verdict: Admission, or why not
//! Admission ── the digests that the bytes are held against: sealed disks, or blobs that are still to come
//! ```
//! What mounts a root file system takes an [`Admission`]'s bytes, or [`NoPolicy`], which a gate gives where no policy applies.
//!
//! Nothing of a claim is believed: digests are computed of the bytes that are here. Never here: disks, streams, mounts, a clock.

mod admission;
mod claim;
mod configuration;
mod error;
mod policy;
#[cfg(test)]
pub(crate) mod samples;

pub(crate) use admission::{Admission, Blob, Bytes, Identity, SealedImage};
pub(crate) use claim::{Claim, SignatureObject};
pub(crate) use error::GateError;
pub(crate) use policy::{Gate, NoPolicy, NodePolicy, Verdict};

/// The entry of the initdata that holds the policy.
pub(crate) const POLICY_ENTRY: &str = "image-policy.json";
