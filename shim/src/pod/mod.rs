//! One pod: its virtual machine, its containers, and what containerd is told about them.
//!
//! ```text
//! task.rs ── driver ── rules (may this call be made?)   state (what follows?)      both pure
//!              ├── boot ── sizing, annotations, spec ── hypervisor, network, record
//!              ├── container ── image ── layers, volumes, agent
//!              ├── process ── start, exec, exit, stdio
//!              └── teardown ── power off, kill, clean the record
//! ```
//! No call waits for another container's, and none waits without a limit. Never here: containerd's types.

mod agent;
mod annotations;
mod boot;
mod calls;
mod container;
mod cost;
mod driver;
mod error;
mod forward;
mod guest;
mod hooks;
mod image;
mod quota;
mod registry;
mod rules;
mod seat;
mod sizing;
mod spec;
mod state;
mod teardown;
mod watch;

use std::path::PathBuf;

use coffer_node::layers::RootfsMount;

pub(crate) use driver::{Pod, PodSetup};
pub(crate) use error::{PodError, Reason, chain};
pub(crate) use state::Process;

use crate::event::{Event, Exit, ProcessKey};
use crate::stdio::StdioPaths;

/// What containerd asks for with Create.
#[derive(Debug)]
pub(crate) struct CreateRequest {
    /// Container id.
    pub(crate) id: String,
    /// Bundle directory.
    pub(crate) bundle: PathBuf,
    /// Mounts that make up the root file system.
    pub(crate) rootfs: Vec<RootfsMount>,
    /// Where the init process's descriptors go.
    pub(crate) stdio: StdioPaths,
    /// Path of our configuration, when the runtime options name one.
    pub(crate) config_path: Option<PathBuf>,
}

/// What containerd asks for with Exec.
#[derive(Debug)]
pub(crate) struct ExecRequest {
    /// Container id.
    pub(crate) id: String,
    /// Exec id.
    pub(crate) exec: String,
    /// OCI `process` object, as JSON.
    pub(crate) process: Vec<u8>,
    /// Where its descriptors go.
    pub(crate) stdio: StdioPaths,
}

/// What State answers.
#[derive(Debug)]
pub(crate) struct View {
    /// Bundle of the container.
    pub(crate) bundle: PathBuf,
    /// Host pid.
    pub(crate) pid: u32,
    /// State.
    pub(crate) state: Process,
    /// Descriptors.
    pub(crate) stdio: StdioPaths,
}
