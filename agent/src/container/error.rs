//! What can go wrong with a container, as something its caller can act on.

use std::io;
use std::path::PathBuf;

use super::state::ProcessState;

/// Why an OCI document was refused. Every variant names the field by its path in the document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpecError {
    /// The JSON does not have the specification's shape, or an enumeration's value is unknown.
    #[error("{field}: {problem}")]
    Malformed {
        /// Path of the field; `.` is the document.
        field: String,
        /// What the parser found.
        problem: String,
    },
    /// A value that the kernel or the specification does not allow.
    #[error("{field} has the value {value:?}, but {rule}")]
    Value {
        /// Path of the field.
        field: String,
        /// What it holds.
        value: String,
        /// What it should hold.
        rule: &'static str,
    },
    /// A required field is absent or empty.
    #[error("{field} is missing")]
    Missing {
        /// Path of the field.
        field: String,
    },
    /// Something of the specification that does not work in a pod's guest.
    #[error("{field} is not supported: {why}")]
    Unsupported {
        /// Path of the field.
        field: String,
        /// The reason, and what to do instead.
        why: &'static str,
    },
}

/// Which step of making a process failed inside its namespaces. The text is what runc says where runc has a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub(crate) enum SetupError {
    /// The program is in no directory of `PATH`.
    #[error("exec: {program:?}: executable file not found in $PATH")]
    NotInPath {
        /// First argument of the process.
        program: String,
    },
    /// The program is there and cannot be executed.
    #[error("exec: {program:?}: {errno}")]
    Exec {
        /// Path that was tried.
        program: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A mount of the specification.
    #[error("error mounting {source:?} to rootfs at {target:?}: {action}: {errno}", source = .from)]
    Mount {
        /// Source or file system type.
        from: String,
        /// Destination in the container.
        target: PathBuf,
        /// System call or step.
        action: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A file, directory, device or symbolic link in the container.
    #[error("{action} {path:?}: {errno}")]
    Path {
        /// What was done to it.
        action: String,
        /// Path in the container.
        path: PathBuf,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A property of the process: its user, groups, capabilities, limits, namespaces.
    #[error("{action}: {errno}")]
    Process {
        /// What was being set.
        action: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The instructions did not arrive.
    #[error("the process got no instructions from the agent: {problem}")]
    Instructions {
        /// What arrived instead.
        problem: String,
    },
}

/// An error number that crosses a process border and prints as the C library's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Errno(pub(crate) i32);

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = nix::errno::Errno::from_raw(self.0).desc().to_lowercase();
        write!(f, "{text}")
    }
}

impl From<nix::errno::Errno> for Errno {
    fn from(errno: nix::errno::Errno) -> Self {
        Errno(errno as i32)
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Errno(errno.raw_os_error())
    }
}

impl From<io::Error> for Errno {
    /// An error that came without a number is an I/O error.
    fn from(error: io::Error) -> Self {
        Errno(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// Why a request about a container failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContainerError {
    /// The specification was refused.
    #[error("invalid container specification")]
    Spec(#[source] SpecError),
    /// The id cannot be a directory's name, or is one already.
    #[error("container id {id:?} is not allowed: use letters, digits, `_`, `.` and `-`, at most 128")]
    Id {
        /// The id.
        id: String,
    },
    /// Another process of the container has this id.
    #[error("container {id} already has a process {exec:?}")]
    ExecExists {
        /// Container id.
        id: String,
        /// Exec id.
        exec: String,
    },
    /// No process of the container has this id.
    #[error("container {id} has no process {exec:?}")]
    NoSuchExec {
        /// Container id.
        id: String,
        /// Exec id.
        exec: String,
    },
    /// The process has exited, so it gets no signal.
    #[error("process {pid} of container {id} already finished")]
    Finished {
        /// Container id.
        id: String,
        /// Process id in the guest.
        pid: u32,
    },
    /// The request does not fit the state.
    #[error("cannot {action} a process of container {id} in state {state}")]
    State {
        /// Container id.
        id: String,
        /// The request.
        action: &'static str,
        /// The state.
        state: ProcessState,
    },
    /// The process has no terminal.
    #[error("process {pid} of container {id} has no terminal to resize")]
    NoTerminal {
        /// Container id.
        id: String,
        /// Process id in the guest.
        pid: u32,
    },
    /// The process could not be set up or executed.
    #[error("failed to create container process of {id}")]
    Setup {
        /// Container id.
        id: String,
        /// Which step.
        #[source]
        source: SetupError,
    },
    /// The process died before it reported, with this status.
    #[error("the process of container {id} ended with status {status} before it ran")]
    DiedEarly {
        /// Container id.
        id: String,
        /// 128 + n for signal n.
        status: u32,
    },
    /// A control group file.
    #[error("cannot {action} {path}")]
    Cgroup {
        /// What was being done, with the value that was written.
        action: String,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The agent itself lacks something: descriptors, memory, its own executable.
    #[error("cannot {action}")]
    Agent {
        /// What was being done.
        action: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// What a caller can do about a [`ContainerError`]; a server maps it to its status codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// The request can never work.
    InvalidArgument,
    /// What it is about does not exist, or not any more.
    NotFound,
    /// What it would make is there.
    AlreadyExists,
    /// It may work in another state.
    FailedPrecondition,
    /// Something in the guest or in the container's image.
    Internal,
}

impl ContainerError {
    /// The kind of this error.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            ContainerError::Spec(_) | ContainerError::Id { .. } => ErrorKind::InvalidArgument,
            ContainerError::NoSuchExec { .. } | ContainerError::Finished { .. } => ErrorKind::NotFound,
            ContainerError::ExecExists { .. } => ErrorKind::AlreadyExists,
            ContainerError::State { .. } | ContainerError::NoTerminal { .. } => ErrorKind::FailedPrecondition,
            ContainerError::Setup { .. }
            | ContainerError::DiedEarly { .. }
            | ContainerError::Cgroup { .. }
            | ContainerError::Agent { .. } => ErrorKind::Internal,
        }
    }
}

impl From<SpecError> for ContainerError {
    fn from(error: SpecError) -> Self {
        ContainerError::Spec(error)
    }
}
