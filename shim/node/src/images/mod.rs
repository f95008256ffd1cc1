//! Images and what is attached to them, as files of this node, shared by the shim and the operator's command.
//!
//! ```text
//! attached ─── what belongs to an image of what such a directory, or a registry, has, within a budget
//! config ───── the table `[image]` of the node's configuration
//! layout ───── a directory of images (OCI image layout 1.0)
//! policy ───── the node's image policy
//! told ─────── what a guest said of an image, for records and traces
//! write ────── puts manifests and blobs into such a directory, each whole or not at all
//! signatures ─ the node's signature objects: one such directory for each image
//! ```
//! Never here: whether a signature holds, a registry, a file that is longer than it may be.

mod attached;
pub mod config;
mod layout;
mod policy;
mod read;
mod signatures;
mod told;
mod write;

use std::io;
use std::path::PathBuf;

use coffer_image::artefact::{ManifestError, SubjectError};

pub use attached::{BlobReader, Budget, MAX_ARTEFACT_BYTES, Objects, collect};
pub use layout::{Layout, REFERENCE_NAME, Stored};
pub use policy::{PolicyFileError, read_policy};
pub use signatures::{Found, SignatureStore};
pub use told::{EncryptedLayer, Outcome, ToldImage};
pub use write::Added;

/// Why a directory of images cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A file cannot be read.
    #[error("cannot read {path} of a directory of images (OCI image layout)")]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path} of a directory of images (OCI image layout)")]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A file is longer than any real one.
    #[error("{path} is longer than {limit} bytes: it cannot be what it should be")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Most bytes that are read.
        limit: usize,
    },
    /// A file is no manifest, or has other bytes than its name says.
    #[error("{path} cannot be taken")]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ManifestError,
    },
    /// `index.json` is something else.
    #[error("{path} is no index")]
    NoIndex {
        /// The file.
        path: PathBuf,
    },
    /// Nobody said which.
    #[error("the directory names {found} manifests: say a tag or a digest of it")]
    NoChoice {
        /// How many.
        found: usize,
    },
    /// No entry of that name.
    #[error("the directory has no {wanted:?}")]
    Unknown {
        /// Tag or digest.
        wanted: String,
    },
    /// Two entries of that name that differ.
    #[error("{wanted:?} is there twice: say a digest")]
    Twice {
        /// The tag.
        wanted: String,
    },
    /// Nothing for machines of this kind.
    #[error("the image is not there for {platform}")]
    Platform {
        /// Operating system and architecture.
        platform: String,
    },
    /// The bytes are not the image that the name stands for.
    #[error("the image cannot be taken")]
    Subject(#[source] SubjectError),
}
