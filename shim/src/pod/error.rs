//! Why a call failed, and which of containerd's reasons that is.

use std::error::Error;
use std::time::Duration;

use super::ProcessKey;
use super::rules::{Call, Refusal};
use super::state::Process;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodError {
    /// There is no such container or process.
    #[error("{key} does not exist")]
    Unknown {
        /// Which.
        key: ProcessKey,
    },
    /// There is one by that name already.
    #[error("{key} exists already")]
    Exists {
        /// Which.
        key: ProcessKey,
    },
    /// The process has ended.
    #[error("{key} has ended already")]
    Finished {
        /// Which.
        key: ProcessKey,
    },
    /// Not in this state.
    #[error("{call:?} is not possible: {key} is {state:?}")]
    NotNow {
        /// The call.
        call: Call,
        /// On what.
        key: ProcessKey,
        /// Its state.
        state: Process,
    },
    /// The pod's machine is not in the state for it.
    #[error("container {id} cannot be created: the pod's virtual machine is {found}")]
    NoMachine {
        /// Container id.
        id: String,
        /// What the machine is.
        found: String,
    },
    /// Something that a virtual machine cannot do, or this one does not.
    #[error("{what}")]
    Refused {
        /// What, and what to do instead.
        what: String,
    },
    /// The request cannot be understood.
    #[error("{what} is not understood")]
    Malformed {
        /// What part.
        what: String,
        /// Where it breaks.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The agent refused.
    #[error("{doing}: {message}")]
    Agent {
        /// What was tried.
        doing: &'static str,
        /// Its code.
        reason: Reason,
        /// Its words.
        message: String,
    },
    /// It took too long.
    #[error("{doing} took longer than {} s", limit.as_secs())]
    Late {
        /// What.
        doing: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// The guest died.
    #[error("{doing}: the virtual machine is gone{console}")]
    GuestGone {
        /// What was tried.
        doing: &'static str,
        /// The console's last lines, or nothing.
        console: String,
    },
    /// The host could not do its part.
    #[error("cannot {doing}")]
    Host {
        /// What.
        doing: &'static str,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// containerd deleted the container while it was being made.
    #[error("container {id} was deleted before it was made")]
    Cancelled {
        /// Container id.
        id: String,
    },
}

/// The reasons that containerd tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// No such thing, or not any more.
    NotFound,
    /// There already.
    AlreadyExists,
    /// Not in this state.
    FailedPrecondition,
    /// The request is wrong.
    InvalidArgument,
    /// Nobody does that here.
    Unimplemented,
    /// Too late.
    DeadlineExceeded,
    /// Nobody there.
    Unavailable,
    /// An image that may not run.
    PermissionDenied,
    /// Given up.
    Cancelled,
    /// Anything else.
    Unknown,
}

impl Reason {
    /// Its name in logs and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::FailedPrecondition => "failed_precondition",
            Self::InvalidArgument => "invalid_argument",
            Self::Unimplemented => "unimplemented",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Unavailable => "unavailable",
            Self::PermissionDenied => "permission_denied",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }
}

impl PodError {
    /// A failure of the host.
    pub(crate) fn host(doing: &'static str, source: impl Error + Send + Sync + 'static) -> Self {
        Self::Host { doing, source: Box::new(source) }
    }

    /// A refusal of [`super::rules::admit`].
    pub(super) fn refusal(refusal: Refusal, call: Call, key: &ProcessKey, state: Process) -> Self {
        match refusal {
            Refusal::Finished => Self::Finished { key: key.clone() },
            Refusal::NotNow => Self::NotNow { call, key: key.clone(), state },
            Refusal::NotForPause => Self::NotNow { call, key: key.clone(), state },
        }
    }

    /// Which of containerd's reasons it is.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Unknown { .. } | Self::Finished { .. } => Reason::NotFound,
            Self::Exists { .. } => Reason::AlreadyExists,
            Self::NotNow { .. } | Self::NoMachine { .. } => Reason::FailedPrecondition,
            Self::Refused { .. } | Self::Malformed { .. } => Reason::InvalidArgument,
            Self::Agent { reason, .. } => *reason,
            Self::Late { .. } => Reason::DeadlineExceeded,
            Self::GuestGone { .. } => Reason::Unavailable,
            Self::Host { .. } => Reason::Unknown,
            Self::Cancelled { .. } => Reason::Cancelled,
        }
    }
}

/// An error and all its causes in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
