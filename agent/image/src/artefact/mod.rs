//! What lies in registries: names, digests, manifests and the objects that are attached to images. All of it was written by
//! strangers and is bounded before it is kept; a document that could be read in two ways is refused.
//!
//! Never here: fetching, and whether a signature holds.

mod attached;
mod manifest;
pub mod media_type;
mod reference;
mod subject;

pub use attached::{
    Attached, AttachedError, Evidence, MAX_ATTACHED, MAX_EVIDENCE_BYTES, MAX_OBJECT_BYTES, OPEN_PGP,
    SignatureNotes,
};
pub use coffer_protocol::{Digest, DigestError};
pub use manifest::{
    Annotations, Descriptor, Document, Index, MAX_ENTRIES, MAX_MANIFEST_BYTES, Manifest, ManifestError,
    Platform,
};
pub use reference::{Reference, ReferenceError};
pub use subject::{Subject, SubjectError};
