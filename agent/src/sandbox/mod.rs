//! What the containers of the pod share: host name, kernel settings, network, `/dev/shm`, scratch space.
//!
//! ```text
//! Settings ── prepare ── host name → /dev/shm → scratch (disk, encrypted or not, or tmpfs) → network → sysctls
//! ```
//!
//! It is prepared once; a guest whose preparation failed is thrown away by the shim, so nothing is undone here.

mod prepare;
mod sysctls;

pub(crate) use prepare::{SandboxError, Settings, Space, prepare};

/// Directory of everything that the agent mounts for the pod. Short, see `image`.
pub(crate) const RUN: &str = "/run/coffer";
/// The pod's scratch file system.
pub(crate) const SCRATCH: &str = "/run/coffer/scratch";
/// The pod's shared `/dev/shm`.
pub(crate) const SHM: &str = "/run/coffer/shm";
/// Pod-level volumes.
pub(crate) const VOLUMES: &str = "/run/coffer/v";
