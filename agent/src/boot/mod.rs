//! Turns a fresh kernel into a guest that can run containers, before the first call is served.
//!
//! ```text
//! console → modules (if the initrd lists any) → root (tmpfs over the initramfs) → mounts →
//! limits → loopback
//! ```
//!
//! Every step that fails is a line on the console; only those without which nothing can run end the boot.
//! It never starts a program and never reads anything that a container could have written.

pub(crate) mod clock;
mod console;
mod error;
mod limits;
mod modules;
mod mounts;
pub(crate) mod reset;
mod root;
mod start;

pub(crate) use error::BootError;
pub(crate) use mounts::CGROUP_ROOT;
pub(crate) use start::start;
