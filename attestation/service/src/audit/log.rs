//! Writing the log: one line per decision, on disk before the decision is told to anybody.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use coffer_attestation::time::UnixTime;
use serde_json::{Value, json};

use super::checkpoint::Checkpoint;
use super::merkle::{Hash, inclusion_proof, leaf_hash, root};
use super::verify::{Damage, Whole, link_after, verify};

/// The longest entry, in bytes of JSON.
pub const MAX_ENTRY_BYTES: usize = 16 << 10;

/// An open log.
#[derive(Debug)]
pub struct AuditLog {
    file: File,
    path: PathBuf,
    leaves: Vec<Hash>,
    last_link: Hash,
}

/// Why the log cannot be used. What is not in the log must not happen.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file.
    #[error("the audit log {path:?} cannot be used")]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process writes it.
    #[error("the audit log {path:?} is written by another process")]
    Locked {
        /// Its path.
        path: PathBuf,
    },
    /// Somebody changed it.
    #[error("the audit log {path:?} is damaged in {count} places, first: {first}")]
    Damaged {
        /// Its path.
        path: PathBuf,
        /// How many places.
        count: usize,
        /// The first.
        first: Box<Damage>,
    },
    /// An entry that is too long.
    #[error("an entry may have {MAX_ENTRY_BYTES} bytes, this one has {found}")]
    Entry {
        /// Length found.
        found: usize,
    },
}

impl AuditLog {
    /// Opens a log, or makes an empty one that only its owner reads. A last line that was cut when the machine stopped is
    /// taken off, as nothing that it speaks of was told to anybody; any other damage is an error.
    ///
    /// # Errors
    /// [`LogError`]
    pub fn open(path: &Path) -> Result<Self, LogError> {
        let failed = |source| LogError::File { path: path.to_owned(), source };
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map_err(failed)?;
        file.try_lock().map_err(|_| LogError::Locked { path: path.to_owned() })?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let ended = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if ended < bytes.len() {
            bytes.truncate(ended);
            file.set_len(ended as u64).map_err(failed)?;
        }
        let whole = verify(&bytes, None).map_err(|damages| LogError::Damaged {
            path: path.to_owned(),
            count: damages.len(),
            first: Box::new(damages.into_iter().next().unwrap_or(Damage::Missing { found: 0, expected: 0 })),
        })?;
        let Whole { leaves, last_link } = whole;
        Ok(Self { file, path: path.to_owned(), leaves, last_link })
    }

    /// Adds an entry: `what` with the time in front. It is on disk when this returns. Answers its number.
    ///
    /// # Errors
    /// [`LogError`]
    pub fn append(&mut self, at: UnixTime, what: &Value) -> Result<u64, LogError> {
        let entry = json!({ "at": at.to_string(), "what": what }).to_string();
        if entry.len() > MAX_ENTRY_BYTES {
            return Err(LogError::Entry { found: entry.len() });
        }
        let leaf = leaf_hash(entry.as_bytes());
        let link = link_after(&self.last_link, &leaf);
        let number = self.leaves.len() as u64;
        let line = format!("{number} {} {entry}\n", hex::encode(link));
        let before = self.file.metadata().map(|found| found.len());
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // Half a line would damage every later one.
            if let Ok(before) = before {
                let _ = self.file.set_len(before);
            }
            return Err(LogError::File { path: self.path.clone(), source });
        }
        self.leaves.push(leaf);
        self.last_link = link;
        Ok(number)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.leaves.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.leaves.is_empty()
    }

    /// What the log is now.
    pub fn checkpoint(&self, at: UnixTime) -> Checkpoint {
        Checkpoint { size: self.leaves.len() as u64, root: root(&self.leaves), at }
    }

    /// A proof that entry `index` is in the log as it is now; `None` if there is no such entry.
    pub fn prove(&self, index: usize) -> Option<Vec<Hash>> {
        inclusion_proof(&self.leaves, index).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::verify_inclusion;

    fn filled(path: &Path, count: u64) -> AuditLog {
        let mut log = AuditLog::open(path).expect("a log");
        (0..count).for_each(|number| {
            log.append(UnixTime(number), &json!({ "released": number })).expect("written");
        });
        log
    }

    #[test]
    fn a_log_goes_on_where_it_was_closed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit");
        drop(filled(&path, 3));
        let mut log = AuditLog::open(&path).expect("a log");
        assert_eq!(log.append(UnixTime(9), &json!("more")).expect("written"), 3);
        let bytes = std::fs::read(&path).expect("the file");
        assert_eq!(verify(&bytes, Some(&log.checkpoint(UnixTime(9)))).expect("whole").leaves.len(), 4);
    }

    #[test]
    fn an_entry_is_proven_without_the_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit");
        let log = filled(&path, 11);
        let text = std::fs::read_to_string(&path).expect("the file");
        let entry = text.lines().nth(6).and_then(|line| line.splitn(3, ' ').nth(2)).expect("an entry");
        let checkpoint = log.checkpoint(UnixTime(20));
        let proof = log.prove(6).expect("a proof");
        let held = verify_inclusion(leaf_hash(entry.as_bytes()), (6, 11), &proof, &checkpoint.root);
        assert_eq!((held, log.prove(11)), (Ok(()), None));
    }

    #[test]
    fn a_second_process_is_kept_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit");
        let _first = filled(&path, 1);
        assert!(matches!(AuditLog::open(&path), Err(LogError::Locked { .. })));
    }

    #[test]
    fn a_line_that_was_cut_when_the_machine_stopped_is_taken_off() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit");
        drop(filled(&path, 2));
        let bytes = std::fs::read(&path).expect("the file");
        std::fs::write(&path, &bytes[..bytes.len() - 5]).expect("written");
        assert_eq!(AuditLog::open(&path).expect("a log").len(), 1);
    }

    #[test]
    fn a_damaged_log_is_not_opened() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit");
        drop(filled(&path, 2));
        let text = std::fs::read_to_string(&path).expect("the file");
        std::fs::write(&path, text.replace("\"released\":0", "\"released\":7")).expect("written");
        assert!(matches!(AuditLog::open(&path), Err(LogError::Damaged { count: 1, .. })));
    }

    #[test]
    fn an_entry_that_is_too_long_is_refused_and_the_log_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut log = filled(&folder.path().join("audit"), 1);
        let long = json!("x".repeat(MAX_ENTRY_BYTES));
        assert!(matches!(log.append(UnixTime(1), &long), Err(LogError::Entry { .. })));
        assert_eq!(log.append(UnixTime(1), &json!("short")).expect("written"), 1);
    }
}
