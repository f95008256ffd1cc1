//! Image layers as read-only block devices: each becomes one EROFS file, made once per node, shared by all pods.
//!
//! ```text
//! containerd's rootfs mounts ── sources ──► what the layers are
//!    directory ── key ──► index/<key> ──► blobs/sha256-<hex>.erofs        (hit)
//!                              └──► convert (mkfs.erofs, once) ──► blob    (miss)
//!    layer.erofs of containerd's EROFS snapshotter, block device, image file: passed through
//!    non-empty upper directory: converted for this pod alone, never cached
//!    files of a sealed image: opened as they are
//! ```
//! Never here: mounting anything, writing into containerd's directories, trusting a blob that was not hashed since
//! boot or that changed since it was.

mod blob;
mod convert;
mod digest;
mod index;
mod key;
mod locks;
mod scratch;
mod sealed;
mod sources;
mod store;
mod upkeep;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

pub use coffer_protocol::{Digest, DigestError};
pub use convert::convert;
pub use scratch::{Scratch, ScratchError};
pub use sealed::sealed;
pub use store::LayerStore;

/// One mount of a container's root file system, as containerd hands it to the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsMount {
    /// `overlay`, `bind`, `erofs`, `ext4`, …
    pub fs_type: String,
    /// Source of the mount.
    pub source: String,
    /// Mount options.
    pub options: Vec<String>,
}

/// One layer, ready to be given to a guest as a read-only disk.
#[derive(Debug)]
pub struct Layer {
    /// Serial of the disk: `l-` and 16 hex digits, or `v-` and 18 of a sealed layer's root hash. The same bytes have the same serial, so a layer that a pod has
    /// already is recognised by it.
    pub serial: String,
    /// File system on it: `erofs`, `ext4`, …
    pub fs_type: String,
    /// The file or block device, opened read-only.
    pub file: OwnedFd,
    /// Digest of its bytes, where this node vouches for them.
    pub digest: Option<Digest>,
}

/// What a longer step is doing, for progress lines and the start's trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerProgress {
    /// The layer was in the cache.
    Cached(Digest),
    /// Another process converts the same layer; this one waits for it.
    WaitingForOther(PathBuf),
    /// A directory is being made into an EROFS file.
    Converting(PathBuf),
    /// A blob is being hashed in full.
    Verifying(Digest),
    /// A conversion ended: bytes of the blob.
    Converted(Digest, u64),
}

/// One blob of the cache.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct CachedLayer {
    /// Digest, which is also its name.
    pub digest: Digest,
    /// Size in bytes.
    pub bytes: u64,
    /// Directories that it was made from and that lead to it.
    pub sources: Vec<PathBuf>,
    /// When it was last handed to a pod, in seconds since the epoch.
    pub last_used_unix: u64,
}

/// What a full check of one blob found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    /// Digest by name.
    pub expected: Digest,
    /// Digest of the bytes.
    pub found: Digest,
}

/// What a pruning removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Pruned {
    /// Removed blobs.
    pub layers: Vec<Digest>,
    /// Bytes that they held.
    pub bytes: u64,
    /// Blobs kept because a pod uses them.
    pub in_use: usize,
    /// Blobs kept because they were used lately.
    pub recent: usize,
}

/// Why a root file system's layers could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// There is no mount that could be a root file system.
    #[error(
        "the container has no root file system: containerd passed no mount and the bundle names no directory"
    )]
    NoRootfs,
    /// A kind of mount that cannot become a disk.
    #[error("root file system mount of type {fs_type:?} from {fs_source:?} is not supported: {reason}")]
    Unsupported {
        /// Its type.
        fs_type: String,
        /// Its source.
        fs_source: String,
        /// Why, and what would be.
        reason: String,
    },
    /// A layer's directory or file is missing or unreadable.
    #[error("cannot read layer {path}")]
    Source {
        /// The layer.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The node has a placeholder where the layer's files should be.
    #[error(
        "layer {path} is encrypted, and the node has a placeholder in its place: an encrypted image runs in a guest that judges images \
         by the policy of its initdata and has a verifier to ask for keys"
    )]
    Encrypted {
        /// The placeholder's directory.
        path: PathBuf,
    },
    /// What should be a sealed image's layer is laid out in another way.
    #[error("{path} cannot be the layer of a sealed image: {reason}")]
    Seal {
        /// The layer or file.
        path: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
    /// `mkfs.erofs` could not be started.
    #[error("cannot run {program}; install erofs-utils 1.5 or later")]
    NoMkfs {
        /// The program.
        program: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// `mkfs.erofs` failed.
    #[error("{program} could not convert {layer}: {reason}")]
    Mkfs {
        /// The program.
        program: PathBuf,
        /// The directory that it read.
        layer: PathBuf,
        /// Exit status and its last lines.
        reason: String,
    },
    /// The cache's file system is full.
    #[error(
        "no space to convert layer {layer}: it holds {needed} bytes, {available} are free below {cache}; free some, or run `coffer layers prune`"
    )]
    NoSpace {
        /// The directory.
        layer: PathBuf,
        /// Bytes of its files.
        needed: u64,
        /// Bytes free in the cache's file system.
        available: u64,
        /// The cache.
        cache: PathBuf,
    },
    /// A blob's bytes are not the ones that were made; it has been moved away.
    #[error(
        "cached layer {path} hashes to {found}, expected {expected}; it was moved to {quarantine}, and the next start converts the layer again"
    )]
    Altered {
        /// The blob.
        path: PathBuf,
        /// Digest by name.
        expected: Digest,
        /// Digest of the bytes.
        found: Digest,
        /// Where it is now.
        quarantine: PathBuf,
    },
    /// The pod's record could not be written.
    #[error("cannot write down which layers the pod uses")]
    Record(#[source] crate::record::RecordError),
    /// The cache itself cannot be used.
    #[error("cannot {action} {path} in the layer cache")]
    Cache {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
}
