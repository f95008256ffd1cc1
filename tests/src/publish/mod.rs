//! What a publisher does with an image, and whom a node's owner trusts.
//!
//! ```text
//! image   an image in a directory, to be signed, sealed, encrypted and given to nodes
//! damage  one bit of a file that somebody else has
//! trust   keys, and policies that name them
//! ```

mod damage;
mod image;
mod trust;

pub use damage::flip;
pub use image::Published;
pub use trust::{key, policy, policy_of};
