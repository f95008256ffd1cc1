//! Carries the steps out.

use std::path::Path;
use std::time::Instant;

use super::Report;
use crate::record::{PodKey, Record};

/// Undoes everything in `record`, the pod's run directory last; `deadline` bounds all waits.
pub fn clean(run_root: &Path, record: &Record, deadline: Instant) -> Report {
    let _ = (run_root, record, deadline);
    Report::default()
}

/// Undoes what can be found without a record (missing or corrupt): processes of the pod's user, the bundle's mounts,
/// the run directory.
pub fn clean_unrecorded(run_root: &Path, key: &PodKey, bundle: Option<&Path>, deadline: Instant) -> Report {
    let _ = (run_root, key, bundle, deadline);
    Report::default()
}
