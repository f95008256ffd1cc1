//! One containerd of our own: its versions, its configuration, its process, and `ctr`.
//!
//! Everything that it writes is below two directories of its own; it shares nothing with a containerd of the machine but the
//! kernel and `/run/containerd/s`, where every containerd has its shims' sockets.

mod config;
mod daemon;
mod version;

pub use config::{Layout, PODS, TAG, write_config};
pub use daemon::Daemon;
pub use version::{Programs, Runtime, Version};
