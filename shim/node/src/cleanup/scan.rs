//! Finds the pods of this node by their run directories.

use std::io;
use std::path::{Path, PathBuf};

use crate::record::{PodKey, Record, RecordError};

/// How a pod stands.
#[derive(Debug)]
pub enum Standing {
    /// Its shim runs.
    Alive(Box<Record>),
    /// Its shim is gone: `coffer gc` may clean it.
    Dead(Box<Record>),
    /// Its record cannot be read: only what can be found without it may be cleaned.
    Unreadable(RecordError),
}

/// A pod's run directory on this node.
#[derive(Debug)]
pub struct PodOnNode {
    /// Which pod.
    pub key: PodKey,
    /// Its run directory.
    pub run_dir: PathBuf,
    /// How it stands.
    pub standing: Standing,
}

/// All pods below a run root, ordered by key.
pub fn scan(run_root: &Path) -> io::Result<Vec<PodOnNode>> {
    let _ = run_root;
    Ok(Vec::new())
}
