//! Why a call about a volume was refused.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::image::DiskError;
use coffer_protocol::{MAX_SNAPSHOT_BYTES, MAX_SNAPSHOT_ENTRIES};

/// Why a call about a volume was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error(
        "volume id {id:?} is not 1 to 128 characters of a-z, A-Z, 0-9, '.', '_' and '-', or it begins with '.'"
    )]
    Id { id: String },
    #[error("path {path:?} in volume {id} is not relative, plain and at most {depth} components deep")]
    Path { id: String, path: String, depth: usize },
    #[error("the pod has no volume {id}")]
    Unknown { id: String },
    #[error("the pod has a volume {id} already")]
    Exists { id: String },
    #[error("volume {id} cannot do this: {reason}")]
    Unfit { id: String, reason: &'static str },
    #[error("the snapshot for volume {id} is broken at {path:?}: {reason}")]
    Snapshot { id: String, path: String, reason: &'static str },
    #[error(
        "the snapshot for volume {id} is over {MAX_SNAPSHOT_ENTRIES} entries or {MAX_SNAPSHOT_BYTES} bytes"
    )]
    TooLarge { id: String },
    #[error("no {what} for volume {id} came within {waited:?}")]
    Late { id: String, what: &'static str, waited: Duration },
    #[error("{path:?} in volume {id} does not exist or leads out of it")]
    NotInside { id: String, path: String, source: io::Error },
    #[error("mounting {what} at {target} for volume {id} failed")]
    Mount { id: String, what: String, target: PathBuf, source: io::Error },
    #[error("volume {id} has no disk")]
    Disk { id: String, source: DiskError },
    #[error("cannot {action} volume {id}")]
    Io { id: String, action: &'static str, source: io::Error },
}

/// What a server answers for a [`VolumeError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    InvalidArgument,
    NotFound,
    AlreadyExists,
    FailedPrecondition,
    DeadlineExceeded,
    Internal,
}

impl VolumeError {
    /// The class of this error.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            VolumeError::Id { .. }
            | VolumeError::Path { .. }
            | VolumeError::Snapshot { .. }
            | VolumeError::TooLarge { .. } => ErrorKind::InvalidArgument,
            VolumeError::Unknown { .. } | VolumeError::NotInside { .. } => ErrorKind::NotFound,
            VolumeError::Exists { .. } => ErrorKind::AlreadyExists,
            VolumeError::Unfit { .. } => ErrorKind::FailedPrecondition,
            VolumeError::Late { .. } | VolumeError::Disk { .. } => ErrorKind::DeadlineExceeded,
            VolumeError::Mount { .. } | VolumeError::Io { .. } => ErrorKind::Internal,
        }
    }

    /// For `map_err`: an I/O error while doing `action` to volume `id`.
    pub(crate) fn io<E: Into<io::Error>>(id: &str, action: &'static str) -> impl FnOnce(E) -> VolumeError {
        let id = id.to_owned();
        move |source| VolumeError::Io { id, action, source: source.into() }
    }
}
