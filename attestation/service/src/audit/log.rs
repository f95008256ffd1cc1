//! Writing the log: one line per decision, on disk before the decision is told to anybody.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coffer_attestation::audit::{Chain, Damage, Frontier, Hash, leaf_hash, link_after};
use coffer_attestation::time::UnixTime;
use serde_json::{Value, json};

use super::Checkpoint;

/// The longest entry, in bytes of JSON: that of a guest with the longest records of images, and with reasons.
pub const MAX_ENTRY_BYTES: usize = 48 << 10;

/// An open log.
#[derive(Debug)]
pub struct AuditLog {
    file: File,
    path: PathBuf,
    /// Bytes of whole lines in the file.
    length: u64,
    tree: Frontier,
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
    #[error("the audit log {path:?} is damaged: {first}")]
    Damaged {
        /// Its path.
        path: PathBuf,
        /// The first place.
        first: Box<Damage>,
    },
    /// The write that several entries shared.
    #[error("the audit log could not be written")]
    Shared(#[source] Arc<LogError>),
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
        let file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map_err(failed)?;
        file.try_lock().map_err(|_| LogError::Locked { path: path.to_owned() })?;
        let mut log = Self {
            file,
            path: path.to_owned(),
            length: 0,
            tree: Frontier::default(),
            last_link: Chain::default().last_link(),
        };
        log.follow()?;
        Ok(log)
    }

    /// Reads what is there, line by line.
    fn follow(&mut self) -> Result<(), LogError> {
        let failed = |source| LogError::File { path: self.path.clone(), source };
        let (mut chain, mut line) = (Chain::default(), Vec::new());
        let mut reader = BufReader::with_capacity(64 << 10, &self.file);
        loop {
            line.clear();
            // A line without an end can be as long as the file.
            let read = (&mut reader).take(2 * MAX_ENTRY_BYTES as u64).read_until(b'\n', &mut line);
            if read.map_err(failed)? == 0 {
                return Ok(());
            }
            if !line.ends_with(b"\n") && reader.fill_buf().map_err(failed)?.is_empty() {
                return self.file.set_len(self.length).map_err(failed);
            }
            let leaf = chain
                .follow(&line)
                .map_err(|damage| LogError::Damaged { path: self.path.clone(), first: Box::new(damage) })?;
            self.tree.push(leaf);
            self.last_link = chain.last_link();
            self.length += line.len() as u64;
        }
    }

    /// Adds entries, all or none. They are on disk when this returns. Answers the first one's number.
    pub(super) fn append(&mut self, entries: &[String]) -> Result<u64, LogError> {
        let (first, mut lines) = (self.tree.size(), String::new());
        let (mut tree, mut link) = (self.tree.clone(), self.last_link);
        for entry in entries {
            let leaf = leaf_hash(entry.as_bytes());
            link = link_after(&link, &leaf);
            lines.push_str(&format!("{} {} {entry}\n", tree.size(), hex::encode(link)));
            tree.push(leaf);
        }
        let written = self.file.write_all(lines.as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // Half a line would damage every later one.
            let _ = self.file.set_len(self.length);
            return Err(LogError::File { path: self.path.clone(), source });
        }
        self.length += lines.len() as u64;
        self.tree = tree;
        self.last_link = link;
        Ok(first)
    }

    /// Number of entries.
    pub fn len(&self) -> u64 {
        self.tree.size()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the log is now.
    pub fn checkpoint(&self, at: UnixTime) -> Checkpoint {
        Checkpoint { size: self.tree.size(), root: self.tree.root(), at }
    }

    /// The file's lines as they are now, to read while others are added.
    ///
    /// # Errors
    /// [`LogError::File`]
    pub fn reader(&self) -> Result<impl BufRead + Send + use<>, LogError> {
        let failed = |source| LogError::File { path: self.path.clone(), source };
        let file = File::open(&self.path).map_err(failed)?;
        Ok(BufReader::with_capacity(64 << 10, file.take(self.length)))
    }
}

/// An entry as it is written.
pub(super) fn entry(at: UnixTime, what: &Value) -> Result<String, LogError> {
    let entry = json!({ "at": at.to_string(), "what": what }).to_string();
    if entry.len() > MAX_ENTRY_BYTES { Err(LogError::Entry { found: entry.len() }) } else { Ok(entry) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::verify;

    fn append(log: &mut AuditLog, what: &Value) -> u64 {
        log.append(&[entry(UnixTime(9), what).expect("an entry")]).expect("written")
    }

    fn filled(path: &Path, count: u64) -> AuditLog {
        let mut log = AuditLog::open(path).expect("a log");
        (0..count).for_each(|number| {
            append(&mut log, &json!({ "released": number }));
        });
        log
    }

    #[test]
    fn a_log_goes_on_where_it_was_closed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit");
        drop(filled(&path, 3));
        let mut log = AuditLog::open(&path).expect("a log");
        assert_eq!(append(&mut log, &json!("more")), 3);
        let bytes = std::fs::read(&path).expect("the file");
        assert_eq!(verify(&bytes, Some(&log.checkpoint(UnixTime(9)))).expect("whole").leaves.len(), 4);
    }

    #[test]
    fn what_is_read_ends_where_the_log_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut log = filled(&folder.path().join("audit"), 3);
        let reader = log.reader().expect("a reader");
        append(&mut log, &json!("more"));
        assert_eq!(reader.lines().count(), 3);
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
        let mut log = AuditLog::open(&path).expect("a log");
        assert_eq!((log.len(), append(&mut log, &json!("more"))), (1, 1));
        drop(log);
        assert_eq!(AuditLog::open(&path).expect("a log").len(), 2);
    }

    #[test]
    fn a_damaged_log_is_not_opened() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit");
        drop(filled(&path, 2));
        let text = std::fs::read_to_string(&path).expect("the file");
        std::fs::write(&path, text.replace("\"released\":0", "\"released\":7")).expect("written");
        assert!(matches!(AuditLog::open(&path), Err(LogError::Damaged { .. })));
    }

    #[test]
    fn a_file_without_any_line_is_no_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit");
        std::fs::write(&path, vec![b'x'; 3 * MAX_ENTRY_BYTES]).expect("written");
        assert!(matches!(AuditLog::open(&path), Err(LogError::Damaged { .. })));
    }
}
