//! One log for many threads: whoever comes while the disk is busy shares the next write.
//!
//! ```text
//! record ── joins the open batch ── nobody writes: closes it, writes all of it, durably, once; tells all who are in it,
//!                                                  and one of the next batch that it is to write
//!                                   somebody does: waits to be told
//! ```
//! Those who wait, wait for their own batch and not for the log: all of them go on at once when it is written.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use coffer_attestation::time::UnixTime;
use serde_json::Value;

use super::log::{AuditLog, LogError, entry};

/// The log, shared.
#[derive(Debug)]
pub struct Journal {
    queue: Mutex<Queue>,
    log: Mutex<AuditLog>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Entries that are written together, next.
    open: Vec<String>,
    /// What those are told who wait for them.
    told: Arc<Told>,
    /// Whether somebody writes the batch before.
    writing: bool,
}

#[derive(Debug, Default)]
struct Told {
    /// Number of the first entry, once all are on disk.
    written: OnceLock<Result<u64, Arc<LogError>>>,
    /// It was written, or one of its own is to write it.
    news: Condvar,
}

impl Journal {
    /// Takes a log over.
    pub fn new(log: AuditLog) -> Self {
        Self { queue: Mutex::default(), log: Mutex::new(log) }
    }

    /// Adds an entry: `what` with the time in front. It is on disk when this returns. Answers its number.
    ///
    /// # Errors
    /// [`LogError`]. When a shared write fails, it fails for all who share it.
    pub fn record(&self, at: UnixTime, what: &Value) -> Result<u64, LogError> {
        let entry = entry(at, what)?;
        let mut queue = self.queue();
        queue.open.push(entry);
        let (place, told) = (queue.open.len() as u64 - 1, queue.told.clone());
        loop {
            match told.written.get() {
                Some(Ok(first)) => return Ok(first + place),
                Some(Err(error)) => return Err(LogError::Shared(error.clone())),
                // Not written and nobody writes: it is the open batch.
                None if !queue.writing => queue = self.write(queue, &told),
                None => queue = told.news.wait(queue).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Closes the open batch and writes it. Others fill the next one meanwhile.
    fn write<'a>(&'a self, mut queue: MutexGuard<'a, Queue>, told: &Told) -> MutexGuard<'a, Queue> {
        queue.writing = true;
        let entries = std::mem::take(&mut queue.open);
        queue.told = Arc::default();
        drop(queue);
        let written = self.log().append(&entries).map_err(Arc::new);
        let mut queue = self.queue();
        queue.writing = false;
        // Only the one who writes a batch tells of it.
        let _ = told.written.set(written);
        told.news.notify_all();
        queue.told.news.notify_one();
        queue
    }

    /// The log itself, between two writes.
    pub fn log(&self) -> MutexGuard<'_, AuditLog> {
        // The log is whole even if a thread died with it: it changes after a write, at once.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Each change is one step: the queue is whole even if a thread died with it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
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
