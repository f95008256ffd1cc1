//! Small OCI images, made here byte by byte, so that no test needs a registry.
//!
//! ```text
//! layer     entries of a layer, with whiteouts, as a tar
//! archive   an image as an OCI layout in one tar, for `ctr images import`
//! standard  the images that the tests share
//! ```

mod archive;
mod layer;
mod standard;

pub use archive::Image;
pub use layer::Layer;
pub use standard::{BUSYBOX, PAUSE, busybox, pause};
