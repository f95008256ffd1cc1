//! What a publisher does with an image, and whom a node's owner trusts.
//!
//! ```text
//! image  an image in a directory, to be signed, sealed and given to nodes
//! trust  keys, and policies that name them
//! ```

mod image;
mod trust;

pub use image::Published;
pub use trust::{key, policy, policy_of};
