//! The host's part in judging images: what containerd says of a container's image is told to the guest, with the signatures that
//! the node has, and then the image's bytes go there, in the way that the guest's answer asks for.
//!
//! ```text
//! gate ── the node's policy, the store of signatures      said ── name, index, manifest, configuration of one image
//! way ─── which way the bytes go (pure)                   send ── blobs from containerd to the guest
//! containerd ── grpc ── containerd's own API
//! ```
//! A pod whose guest judges nothing has no gate, and connects to nobody. Never here: a verdict. The guest believes none of it.

mod containerd;
#[cfg(test)]
mod containerd_tests;
mod gate;
mod grpc;
mod said;
mod send;
mod way;

use std::error::Error;
use std::time::Duration;

use async_trait::async_trait;
use coffer_image::artefact::{Digest, ManifestError};
use coffer_layer::sealed::SealedError;
use coffer_protocol::StreamHeader;
use tokio::net::UnixStream;

pub(crate) use containerd::ContainerdError;
pub(crate) use gate::{Asked, Gate};
pub(crate) use said::Said;
pub(crate) use send::SendError;
pub(crate) use way::{Boot, Way, answered, before_boot};

/// Somebody else's error.
pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// Who opens streams to the guest.
#[async_trait]
pub(crate) trait Streams: Send + Sync {
    /// Opens a stream that the guest has accepted.
    async fn open(&self, header: &StreamHeader) -> Result<UnixStream, BoxError>;
}

/// Why an image's bytes do not come to the guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// containerd does not say.
    #[error("cannot learn of containerd what the container's image is")]
    Containerd(#[source] ContainerdError),
    /// A container of no image.
    #[error(
        "container {id} was made without an image (ctr run --rootfs does that): its pod runs only images that a policy admits"
    )]
    None {
        /// Container id.
        id: String,
    },
    /// An image that is gone.
    #[error("containerd has no image {name}, of which container {id} was made: pull it again")]
    Unknown {
        /// Container id.
        id: String,
        /// The image's name.
        name: String,
    },
    /// Nothing for this node.
    #[error("the image {name} is not there for {platform}: pull one that is")]
    Platform {
        /// The image's name.
        name: String,
        /// Operating system and architecture.
        platform: String,
    },
    /// Bytes that are no manifest.
    #[error("{digest} of the image cannot be used")]
    Manifest {
        /// The manifest or index.
        digest: Digest,
        /// What is wrong.
        source: ManifestError,
    },
    /// An index in an index.
    #[error(
        "the index {index} names for this machine {found}, which is an index again: such images are not supported"
    )]
    Nested {
        /// The outer one.
        index: Digest,
        /// The inner one.
        found: Digest,
    },
    /// More than fits a message.
    #[error(
        "index, manifest and configuration of {name} have {found} bytes, at most {limit} can be shown to the guest"
    )]
    TooLong {
        /// The image's name.
        name: String,
        /// Their bytes.
        found: usize,
        /// Most bytes.
        limit: usize,
    },
    /// A seal that says nothing.
    #[error("{name} says that it is a sealed image, and not what its files are")]
    Sealed {
        /// The image's name.
        name: String,
        /// What is wrong.
        source: SealedError,
    },
    /// Nobody decrypts it.
    #[error(
        "{name} has encrypted layers, which are decrypted in guests that judge images and have a verifier to ask for keys: in a \
         guest without a policy, or in a dry run, it cannot run"
    )]
    Encrypted {
        /// The image's name.
        name: String,
    },
    /// The guest asks for something that there is not.
    #[error("the guest's answer about the image {name} cannot be followed: {reason}")]
    Answer {
        /// The image's name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A blob did not get there.
    #[error("the layer {digest} does not come into the guest")]
    Send {
        /// The blob.
        digest: Digest,
        /// Why not.
        source: SendError,
    },
    /// The image takes too long.
    #[error("the layers of {name} did not come into the guest within {} s", limit.as_secs())]
    Late {
        /// The image's name.
        name: String,
        /// The limit.
        limit: Duration,
    },
}
