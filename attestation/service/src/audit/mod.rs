//! What was decided, for whoever asks later: the file whose form and whose checking are in [`coffer_attestation::audit`].
//!
//! ```text
//! decision ── Journal: all that wait, in one durable write ── AuditLog: lines, links, the tree's frontier
//! ```
//! A decision is told to nobody before its entry is on disk, and one that cannot be written does not happen.
//!
//! Never here: secrets. An entry says who got what by which rule, not what it was. Nor the whole log: what is kept in
//! memory is the same at any length.

mod journal;
mod log;

pub use coffer_attestation::audit::{
    Checkpoint, Damage, Hash, ProofError, inclusion_proof, leaf_hash, root, verify, verify_inclusion,
};
pub use journal::Journal;
pub use log::{AuditLog, LogError, MAX_ENTRY_BYTES};
