//! What is on the node: an inventory before, one after, and the names of what is there only after.
//!
//! ```text
//! inventory   processes, links, mounts, cgroups, sockets, loop devices, files
//! processes   which processes belong to a test's containerd
//! sweep       removes what a test that died left
//! ```
//!
//! Only things that carry the tag of the test's own containerd count, or that nobody else can have made: other tests, other
//! containerds and other people may use the machine at the same time.

mod inventory;
mod processes;
mod sweep;

pub use inventory::{Inventory, Kind};
pub use processes::{Process, of_node};
pub use sweep::{remove, stale};
