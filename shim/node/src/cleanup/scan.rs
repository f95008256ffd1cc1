//! Finds the pods of this node by their run directories.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::record::{PodKey, Record, RecordError};

/// A run directory without a record that is younger than this is taken for one of a pod that is being made.
const BEING_MADE: Duration = Duration::from_secs(10);

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

/// All pods below a run root, ordered by key. A directory whose name cannot be a pod's is none.
pub fn scan(run_root: &Path) -> io::Result<Vec<PodOnNode>> {
    let mut pods = Vec::new();
    for (namespace, dir) in directories(run_root)? {
        for (pod, run_dir) in directories(&dir)? {
            let Ok(key) = PodKey::new(&namespace, &pod) else { continue };
            let standing = match Record::load(&run_dir) {
                Err(RecordError::Missing { .. }) if is_new(&run_dir) => continue,
                Ok(record) if record.shim_is_alive() => Standing::Alive(Box::new(record)),
                Ok(record) => Standing::Dead(Box::new(record)),
                Err(err) => Standing::Unreadable(err),
            };
            pods.push(PodOnNode { key, run_dir, standing });
        }
    }
    pods.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(pods)
}

/// Whether a shim may be about to write its first record there.
fn is_new(run_dir: &Path) -> bool {
    let made = fs::metadata(run_dir).and_then(|metadata| metadata.modified());
    made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age < BEING_MADE))
}

fn directories(parent: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(parent) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let (Ok(name), true) = (entry.file_name().into_string(), entry.file_type()?.is_dir()) {
            found.push((name, entry.path()));
        }
    }
    Ok(found)
}
