//! The container runtime: turns an OCI specification and a mounted root file system into running processes.
//!
//! ```text
//! server ── Runtime::create ──► Container ── init(): Process
//!                                  └─ exec() ──► Process        each: created → running → stopped
//!
//! agent (PID 1)                      `/proc/self/exe container-init` (helper)        container's process
//!   spawn helper ─────────────────►  namespaces, then clone(CLONE_PARENT) ────────►  cgroup, mounts, pty, user …
//!   register pid with the reaper ◄── pid + pidfd                                     waits
//!   Process::start ───────────────────────────────────────────────────────────────►  execve (its error comes back)
//! ```
//!
//! What a caller has to know beyond the signatures:
//!
//! - [`run_if_child`] is the first call of `main`; [`Runtime::new`] comes once, on the main thread, which gets orphans.
//! - Handles are cheap clones, `Send` and `Sync`; no lock is held across an await that waits for another container.
//! - [`ContainerSpec::parse`] refuses unknown values by the field's path; what it leaves out is in `notes`. Mounts and
//!   devices may be rewritten between parsing and [`Runtime::create`].
//! - Init and further processes are the same [`Process`]: made first, with their descriptors, and started later.
//! - The exit of init is published after those of all other processes of its container, and a notice of memory shortage
//!   before the exit that it caused. Exits and counters can be asked for until [`Container::delete`].
//! - A root file system is the caller's to mount and to unmount.
//!
//! Never here: RPC types but for `Stats`, mounting of images or volumes, the network, byte copying of streams.

mod bpf;
mod capabilities;
mod cgroup;
mod child;
mod device_filter;
mod devices;
mod error;
mod handle;
#[cfg(test)]
mod harness;
mod identity;
mod init;
#[cfg(test)]
mod inside_tests;
mod launch;
#[cfg(test)]
mod lifecycle_tests;
#[cfg(test)]
mod limits_tests;
mod messages;
mod mount_options;
mod mounts;
mod pid_namespace;
mod pod_init;
mod process;
mod program;
mod reaper;
#[cfg(test)]
mod reaper_tests;
mod report;
mod resources;
mod rootfs;
mod runtime;
mod seccomp;
mod spec;
mod state;
mod stats;
mod stdio;
mod sys;
mod syscalls;
mod terminal;
mod wire;

pub(crate) use child::run_if_child;
pub(crate) use error::{ContainerError, ErrorKind};
pub(crate) use handle::{Container, CreateParams};
pub(crate) use mount_options::MountSource;
pub(crate) use pid_namespace::SharedPidNamespace;
pub(crate) use process::Process;
pub(crate) use reaper::Exit;
pub(crate) use resources::ResourceUpdate;
pub(crate) use runtime::{Runtime, RuntimeConfig};
pub(crate) use spec::{ContainerSpec, ProcessSpec};
pub(crate) use state::ProcessState;
pub(crate) use stdio::{Stdio, StdioRequest, WindowSize};
