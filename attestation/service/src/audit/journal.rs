//! One log for many threads: whoever comes while the disk is busy shares the next write.
//!
//! ```text
//! record ── joins the open batch ── waits for the log ── first of its batch: closes it, writes all of it, durably, once
//!                                                       others: find the batch written
//! ```

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use coffer_attestation::time::UnixTime;
use serde_json::Value;

use super::log::{AuditLog, LogError, entry};

/// The log, shared.
#[derive(Debug)]
pub struct Journal {
    open: Mutex<Batch>,
    log: Mutex<AuditLog>,
}

/// Entries that are written together.
#[derive(Debug, Default)]
struct Batch {
    entries: Vec<String>,
    /// Number of the first one, once all are on disk.
    written: Arc<OnceLock<Result<u64, Arc<LogError>>>>,
}

impl Journal {
    /// Takes a log over.
    pub fn new(log: AuditLog) -> Self {
        Self { open: Mutex::default(), log: Mutex::new(log) }
    }

    /// Adds an entry: `what` with the time in front. It is on disk when this returns. Answers its number.
    ///
    /// # Errors
    /// [`LogError`]. When a shared write fails, it fails for all who share it.
    pub fn record(&self, at: UnixTime, what: &Value) -> Result<u64, LogError> {
        let entry = entry(at, what)?;
        let (place, written) = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.entries.push(entry);
            (open.entries.len() as u64 - 1, open.written.clone())
        };
        let mut log = self.log();
        let first = written.get_or_init(|| {
            let batch = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
            log.append(&batch.entries).map_err(Arc::new)
        });
        match first {
            Ok(first) => Ok(first + place),
            Err(error) => Err(LogError::Shared(error.clone())),
        }
    }

    /// The log itself, between two writes.
    pub fn log(&self) -> MutexGuard<'_, AuditLog> {
        // The log is whole even if a thread died with it: it changes after a write, at once.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::verify;
    use serde_json::json;
    use std::collections::BTreeSet;

    #[test]
    fn entries_of_many_threads_are_all_there_each_under_its_number() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit");
        let journal = Journal::new(AuditLog::open(&path).expect("a log"));
        let one = |thread: u64| {
            let journal = &journal;
            move || {
                let each = (0..25).map(|entry| {
                    let name = thread * 100 + entry;
                    (journal.record(UnixTime(1), &json!({ "name": name })).expect("written"), name)
                });
                each.collect::<Vec<_>>()
            }
        };
        let told: BTreeSet<(u64, u64)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|thread| scope.spawn(one(thread))).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("a thread")).collect()
        });
        let text = std::fs::read_to_string(&path).expect("the file");
        assert_eq!(verify(text.as_bytes(), None).expect("whole").leaves.len(), 200);
        let found = text.lines().enumerate().map(|(number, line)| {
            let entry = line.splitn(3, ' ').nth(2).expect("an entry");
            let entry: Value = serde_json::from_str(entry).expect("JSON");
            (number as u64, entry["what"]["name"].as_u64().expect("a name"))
        });
        assert_eq!(found.collect::<BTreeSet<_>>(), told);
    }

    #[test]
    fn an_entry_that_is_too_long_is_refused_and_holds_up_nobody() {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = Journal::new(AuditLog::open(&folder.path().join("audit")).expect("a log"));
        let long = json!("x".repeat(crate::audit::MAX_ENTRY_BYTES));
        assert!(matches!(journal.record(UnixTime(1), &long), Err(LogError::Entry { .. })));
        assert_eq!(journal.record(UnixTime(1), &json!("short")).expect("written"), 0);
    }
}
