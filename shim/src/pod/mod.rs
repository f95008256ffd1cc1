//! One pod: its virtual machine, its containers, and what containerd is told about them.
//!
//! ```text
//! task.rs ── driver ── rules (may this call be made?)   state (what follows?)      both pure
//!              ├── boot ── sizing, annotations, spec ── hypervisor, network, record
//!              ├── container ── layers, volumes, agent
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
pub(crate) use state::{Exit, Process};

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

/// A process as containerd names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ProcessKey {
    /// Container id.
    pub(crate) container: String,
    /// Exec id; `None` is the init process.
    pub(crate) exec: Option<String>,
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

/// What containerd's event stream gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A container was created.
    Create {
        /// Container id.
        container: String,
        /// Its bundle.
        bundle: PathBuf,
        /// Its descriptors.
        stdio: StdioPaths,
        /// Host pid.
        pid: u32,
    },
    /// A container's init process was started.
    Start {
        /// Container id.
        container: String,
        /// Host pid.
        pid: u32,
    },
    /// A further process was added.
    ExecAdded {
        /// Container id.
        container: String,
        /// Exec id.
        exec: String,
    },
    /// A further process was started.
    ExecStarted {
        /// Container id.
        container: String,
        /// Exec id.
        exec: String,
        /// Host pid.
        pid: u32,
    },
    /// A process ended.
    Exit {
        /// Which.
        process: ProcessKey,
        /// Host pid.
        pid: u32,
        /// How.
        exit: Exit,
    },
    /// A process was forgotten.
    Delete {
        /// Which.
        process: ProcessKey,
        /// Host pid.
        pid: u32,
        /// How it had ended.
        exit: Exit,
    },
    /// The kernel killed a process of the container for lack of memory.
    Oom {
        /// Container id.
        container: String,
    },
    /// A container was frozen.
    Paused {
        /// Container id.
        container: String,
    },
    /// A container was thawed.
    Resumed {
        /// Container id.
        container: String,
    },
}

impl ProcessKey {
    /// The init process of a container.
    pub(crate) fn init(container: &str) -> Self {
        Self { container: container.to_owned(), exec: None }
    }

    /// From containerd's pair, where an empty exec id is the init process.
    pub(crate) fn new(container: &str, exec: &str) -> Self {
        Self { container: container.to_owned(), exec: (!exec.is_empty()).then(|| exec.to_owned()) }
    }
}

impl std::fmt::Display for ProcessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.exec {
            None => write!(f, "container {}", self.container),
            Some(exec) => write!(f, "exec {exec} of container {}", self.container),
        }
    }
}
