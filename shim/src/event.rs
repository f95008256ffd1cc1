//! What happens to a pod's processes, in the words that both the pod and its publisher use.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::stdio::StdioPaths;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Exit status; 128 + n after signal n; 255 when nobody knows.
    pub(crate) status: u32,
    /// When.
    pub(crate) at: SystemTime,
}

/// A process as containerd names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ProcessKey {
    /// Container id.
    pub(crate) container: String,
    /// Exec id; `None` is the init process.
    pub(crate) exec: Option<String>,
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
    /// A container could not be created; an image that may not run is the commonest cause.
    CreateFailed {
        /// Container id.
        container: String,
        /// Name of the class of error, as metrics have it.
        class: &'static str,
        /// The whole error.
        reason: String,
    },
    /// The pod's machine ended by itself, and with it every process.
    MachineEnded {
        /// The pod's id.
        pod: String,
        /// The last lines of its console.
        console: String,
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
