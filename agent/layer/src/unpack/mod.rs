//! From a layer's blob to a directory that overlayfs can stack: decompressed, held against size, digest and diff id, and written
//! in one pass, in less than a MiB of memory and the window of its compression.
//!
//! ```text
//! blob ── compression ── stream ── archive (header, pax, sparse) ── extract ── tree ──► files below one descriptor
//! size, digest           diff id, bytes, ratio   what an entry is     limits
//! ```
//! What containerd accepts and what it makes of it is the model; where this differs, it refuses. Everything comes from a stranger:
//! no link is followed, and no length is believed. Until [`unpack`] has returned `Ok`, what lies in the target is of unknown
//! origin, and its caller removes it.
//!
//! Never here: reading what was written, and cleaning up.

mod archive;
mod blob;
mod compression;
mod error;
mod extract;
mod header;
mod limits;
mod name;
mod pax;
mod sparse;
mod stream;
mod tree;
mod zstd;

use coffer_protocol::Digest;

pub use compression::Compression;
pub use error::{ArchiveFault, Bound, EntryFault, UnpackError};
pub use extract::unpack;
pub use limits::Limits;

/// What the manifest and the image's configuration say of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Of the blob's bytes.
    pub digest: Digest,
    /// The blob's length in bytes.
    pub size: u64,
    /// Of the archive in it.
    pub diff_id: Digest,
    /// Of the blob: it says the compression, which is not guessed.
    pub media_type: String,
}

/// What a layer held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of the archive.
    pub bytes: u64,
    /// Headers in it.
    pub entries: u64,
}
