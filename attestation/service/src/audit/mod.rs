//! What was decided, for whoever asks later: a file that only grows and whose every byte is vouched for.
//!
//! ```text
//! line = number ' ' link ' ' entry in JSON '\n'          link = H(2 ‖ link before ‖ leaf)        leaf = H(0 ‖ entry)
//! tree over all leaves (RFC 6962, section 2.1) ── root ── checkpoint, signed: size, root, last link
//! ```
//! H is SHA-256. The links say where a byte was changed; the signed checkpoint says that lines were not removed at the end
//! or all written anew; the tree proves to a third person that one entry is in it without showing the others.
//!
//! Never here: secrets. An entry says who got what by which rule, not what it was.

mod checkpoint;
mod log;
mod merkle;
mod verify;

pub use checkpoint::{Checkpoint, CheckpointError};
pub use log::{AuditLog, LogError, MAX_ENTRY_BYTES};
pub use merkle::{Hash, ProofError, inclusion_proof, leaf_hash, root, verify_inclusion};
pub use verify::{Damage, Whole, verify};
