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
//! What the server calls (all handles are cheap clones, `Send + Sync`, and no lock is held across an await):
//!
//! ```text
//! // main(), first thing, before any runtime or thread exists:
//! container::run_if_child();                     // returns unless this process is a helper the runtime spawned
//!
//! // once, inside the tokio runtime, on the main thread (the kernel gives orphans to it):
//! Runtime::new(RuntimeConfig { cgroup_root: "/sys/fs/cgroup".into(), parent: "coffer".into() })
//!     -> Result<Runtime, ContainerError>         // enables controllers, starts the reaper
//! runtime.oom_events() -> Option<mpsc::UnboundedReceiver<String>>      // container ids; taken once
//! runtime.shared_pid_namespace().await -> Result<SharedPidNamespace, ContainerError>  // pod-level PID 1 that reaps
//!
//! // the door; unknown values are refused with the field's path, what is ignored is listed in `notes`
//! ContainerSpec::parse(&[u8]) -> Result<ContainerSpec, SpecError>    // config.json
//! ProcessSpec::parse(&[u8]) -> Result<ProcessSpec, SpecError>        // `process` object
//! ResourceUpdate::parse(&[u8]) -> Result<ResourceUpdate, SpecError>  // `linux.resources` object
//! spec.mounts: Vec<Mount>                        // `mount.source: MountSource` may be rewritten before create if `mount.is_bind()`:
//! enum MountSource { Path(PathBuf), Inside { root: PathBuf, path: PathBuf } }  // Inside: resolved within root, safely
//!
//! runtime.create(CreateParams { id: String, spec: ContainerSpec, rootfs: PathBuf,
//!                               pid_namespace: Option<SharedPidNamespace>, stdio: StdioRequest })
//!     .await -> Result<Container, ContainerError>
//! struct StdioRequest { stdin: bool, stdout: bool, stderr: bool, terminal: Option<WindowSize> }
//! struct WindowSize { columns: u16, rows: u16 }
//!
//! container.id() -> &str
//! container.init() -> Process
//! container.exec(exec_id: &str, ProcessSpec, StdioRequest).await -> Result<Process, ContainerError>
//! container.process(exec_id: &str) -> Option<Process>      // "" is the init process
//! container.forget(exec_id: &str) -> Result<Exit, ContainerError>    // an exited exec
//! container.signal_all(signal: i32) -> Result<(), ContainerError>
//! container.pause().await / resume().await / update(&ResourceUpdate).await -> Result<(), ContainerError>
//! container.stats() -> Result<coffer_protocol::agent::Stats, ContainerError>   // also after exit, until delete
//! container.pids() -> Result<Vec<u32>, ContainerError>
//! container.delete().await -> Result<(), ContainerError>   // init must have exited; idempotent; cgroup gone after
//!                                                          // (the root file system is the caller's to unmount)
//! container.destroy().await -> Result<(), ContainerError>  // the same, but kills first
//!
//! process.pid() -> u32
//! process.state() -> ProcessState { Created, Running, Paused, Stopped }
//! process.take_stdio() -> Option<Stdio>                    // once; descriptors are non-blocking and close-on-exec
//! enum Stdio { Pipes { stdin, stdout, stderr: Option<OwnedFd> }, Terminal(OwnedFd) }
//! process.start().await -> Result<(), ContainerError>
//! process.signal(signal: i32) -> Result<(), ContainerError>
//! process.resize(WindowSize) -> Result<(), ContainerError>
//! process.wait().await -> Exit                             // any number of times
//! process.exit() -> Option<Exit>
//! struct Exit { status: u32, at: SystemTime, oom_killed: bool }      // 128 + n for signal n
//!
//! ContainerError::kind() -> ErrorKind { InvalidArgument, NotFound, AlreadyExists, FailedPrecondition, Internal }
//! ```
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
