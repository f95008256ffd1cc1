//! What all virtio devices have in common: queues in the guest's memory, and the registers that describe them.
//!
//! ```text
//! buffer     the door to guest memory: one descriptor chain as a list of bounded slices
//! ```
//! The guest writes every descriptor, ring and register; none of it is believed.

mod buffer;

pub use buffer::{Access, BadChain, Buffer};
