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
    /// What its bytes are.
    pub content: Content,
    /// The blob's length in bytes.
    pub size: u64,
    /// Of the blob: it says the compression, which is not guessed.
    pub media_type: String,
}

/// Which bytes a layer should have. Of a blob that was decrypted one of the two may be all that is known, and either says it all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// By the blob's digest, and by that of the archive in it: its diff id.
    Both {
        /// Of the blob's bytes.
        digest: Digest,
        /// Of the archive in it.
        diff_id: Digest,
    },
    /// By the blob's digest.
    Blob(Digest),
    /// By that of the archive in it.
    Archive(Digest),
}

impl Content {
    fn digest(&self) -> Option<Digest> {
        match self {
            Self::Both { digest, .. } | Self::Blob(digest) => Some(*digest),
            Self::Archive(_) => None,
        }
    }

    fn diff_id(&self) -> Option<Digest> {
        match self {
            Self::Both { diff_id, .. } | Self::Archive(diff_id) => Some(*diff_id),
            Self::Blob(_) => None,
        }
    }
}

/// What a layer held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of the archive.
    pub bytes: u64,
    /// Headers in it.
    pub entries: u64,
}
