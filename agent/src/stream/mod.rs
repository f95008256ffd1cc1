//! Byte streams between the shim and what runs in the guest, one vsock connection each.
//!
//! ```text
//! vsock STREAM_PORT ── serve: one header line ──┬─ stdio: a process's pipe or terminal     (Registry)
//!                                               ├─ forward: a TCP port of the pod's loopback
//!                                               ├─ share: handed to the volumes
//!                                               └─ layer: an archive for an admitted image
//! ```
//!
//! Back-pressure is the kernel's: bytes are read only when the other side has taken those before, and no two streams
//! share a buffer. A process's exit never waits for its streams; deleting the process ends them.

mod copy;
mod layer;
mod registry;
mod serve;

pub(crate) use layer::{AwaitLayer, Refusal, TakeLayer};
pub(crate) use registry::Registry;
pub(crate) use serve::{Targets, listen, serve};
