//! Which files have been hashed before: a pod's start need not read the kernel and the initrd once more.
//!
//! A file is taken for the same while device, inode, size and change time are the same. The change time is set by the
//! kernel alone, at the granularity of its tick, so a file that changed a moment ago is not remembered: it could
//! change again within that tick.

use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

const FILE: &str = "guest-image-verified.json";

/// An image has two files that matter. This leaves room for some versions of it.
const MAX_ENTRIES: usize = 16;

/// Longer than any kernel's clock tick, and than the fraction of a second that is dropped.
const SETTLED: Duration = Duration::from_secs(2);

/// What tells one state of a file from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    changed_secs: i64,
    changed_nanos: i64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    file: Fingerprint,
    digest: Digest,
}

/// The files that were hashed, the latest last.
#[derive(Debug)]
pub(super) struct Seen {
    path: PathBuf,
    entries: Vec<Entry>,
    changed: bool,
}

impl Fingerprint {
    pub(super) fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            changed_secs: file.ctime(),
            changed_nanos: file.ctime_nsec(),
        }
    }

    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let changed = Duration::from_secs(u64::try_from(self.changed_secs).unwrap_or(u64::MAX));
        changed.checked_add(SETTLED).is_some_and(|settled| settled < now)
    }
}

impl Seen {
    /// Reads what is known. What cannot be read is not known.
    pub(super) fn open(state_dir: &Path) -> Self {
        let path = state_dir.join(FILE);
        let text = fs::read(&path).unwrap_or_default();
        Self { entries: serde_json::from_slice(&text).unwrap_or_default(), path, changed: false }
    }

    pub(super) fn knows(&self, file: &Fingerprint, digest: &Digest) -> bool {
        self.entries.iter().any(|entry| entry.file == *file && entry.digest == *digest)
    }

    pub(super) fn remember(&mut self, file: Fingerprint, digest: Digest) {
        if !file.is_settled() {
            return;
        }
        self.entries.retain(|entry| (entry.file.device, entry.file.inode) != (file.device, file.inode));
        self.entries.push(Entry { file, digest });
        let surplus = self.entries.len().saturating_sub(MAX_ENTRIES);
        self.entries.drain(..surplus);
        self.changed = true;
    }

    /// Writes what is known, all or nothing. It is only a cache: a failure costs the next caller a hash.
    pub(super) fn save(&self) {
        if self.changed {
            let _ = self.try_save();
        }
    }

    fn try_save(&self) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(&serde_json::to_vec(&self.entries)?)?;
        file.persist(&self.path)?;
        Ok(())
    }
}
