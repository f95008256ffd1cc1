//! Locks between processes: `flock` on files of the cache. The kernel drops a lock with its holder, so a killed
//! conversion holds nobody up.
//!
//! Lock files are never removed (removing one that somebody waits for would split the lock), so there is a fixed
//! number: a key is locked by its first byte. Order: a key's lock first, then a blob's.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::Digest;

/// A held lock.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Takes a lock; waits for its holder.
pub(super) fn take(path: &Path) -> io::Result<Lock> {
    take_telling(path, || ())
}

/// Takes a lock; calls `busy` once if it has to wait.
pub(super) fn take_telling(path: &Path, busy: impl FnOnce()) -> io::Result<Lock> {
    let file = File::options().write(true).create(true).truncate(false).open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => return Ok(Lock { _file: file }),
        Err(Errno::WOULDBLOCK) => busy(),
        Err(err) => return Err(err.into()),
    }
    loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(Lock { _file: file }),
            Err(Errno::INTR) => {}
            Err(err) => return Err(err.into()),
        }
    }
}

/// Lock file for the conversion behind a key.
pub(super) fn of_key(root: &Path, key: &Digest) -> PathBuf {
    root.join("locks").join(format!("key-{:.2}", key.hex()))
}

/// Lock file for a blob's verification and replacement.
pub(super) fn of_blob(root: &Path, digest: &Digest) -> PathBuf {
    root.join("locks").join(format!("blob-{:.2}", digest.hex()))
}
