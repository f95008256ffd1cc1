//! What a test starts with: a node of its own, with a containerd, images, a network, and a look at what is left at the end.
//!
//! ```text
//! alone    one node at a time on a machine, and what a machine must have for it
//! begin    starts a node, hands it to a test, ends it, and fails the test for whatever is left
//! events   what containerd tells those who watch it
//! kept     where it is wanted, the node of one test is that of the next
//! numbers  a pod's own numbers, as its shim gives them to a metrics scraper
//! pod      a pod and its containers through the CRI
//! ```

mod alone;
mod begin;
mod cgroup;
mod events;
mod kept;
mod numbers;
mod pod;

pub use begin::{Failure, Node, on_node, quoted, with_node};
pub use events::Events;
pub use numbers::{number_of, numbers, numbers_of_all};
pub use pod::{Pod, container, sandbox};
