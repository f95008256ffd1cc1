//! What whoever trusts nobody needs to check a verifier's audit log: a file that only grows and whose every byte is vouched
//! for.
//!
//! ```text
//! line = number ' ' link ' ' entry in JSON '\n'          link = H(2 ‖ link before ‖ leaf)        leaf = H(0 ‖ entry)
//! tree over all leaves (RFC 6962, section 2.1) ── root ── checkpoint, signed: size, root, time
//! ```
//! H is SHA-256. The links say where a byte was changed; the signed checkpoint says that lines were not removed at the end
//! or all written anew; the tree proves to a third person that one entry is in it without showing the others.
//!
//! Never here: files. Lines and proofs are given by the caller, and writing is the verifier's.

mod checkpoint;
mod merkle;
mod verify;

pub use checkpoint::{Checkpoint, CheckpointError};
pub use merkle::{
    Frontier, Hash, ProofError, inclusion_proof, inclusion_root, leaf_hash, root, verify_inclusion,
};
pub use verify::{Chain, Damage, Whole, link_after, verify};
