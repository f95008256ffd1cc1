//! Small OCI images, made here byte by byte, so that no test needs a registry.
//!
//! ```text
//! layer      entries of a layer, with whiteouts, as a tar
//! archive    an image as an OCI layout in one tar, for `ctr images import`
//! published  an image in a directory, to be signed, sealed and given to nodes
//! standard   the images that the tests share
//! trust      keys, and policies that name them
//! ```

mod archive;
mod layer;
mod published;
mod standard;
mod trust;

pub use archive::Image;
pub use layer::Layer;
pub use published::Published;
pub use standard::{BUSYBOX, PAUSE, busybox, pause};
pub use trust::{key, policy};
