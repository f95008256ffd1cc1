//! One unprivileged user per pod, leased from the configured range.
//!
//! ```text
//! <run root>/.uids/<uid>      one line: namespace/pod          made with O_EXCL, so two shims never share a uid
//! ```
//! A lease whose pod has no run directory any more is stale and is taken over. The lease goes with the pod's
//! record (see [`crate::cleanup`]). The kernel's user database is not asked: the range belongs to Coffer.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::config::UserRange;
use crate::record::{PodRecord, RecordError, Resource};

/// Directory of the leases, below the run root. The dot keeps it apart from containerd's namespaces.
pub const LEASES: &str = ".uids";

/// Why a pod got no user.
#[derive(Debug, thiserror::Error)]
pub enum UidError {
    /// All are taken.
    #[error("all {count} user ids from {first} on are leased to pods; raise users.count, or run `coffer gc`")]
    Exhausted {
        /// Lowest id of the range.
        first: u32,
        /// Its size.
        count: u32,
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
    #[error("cannot write down the pod's user")]
    Record(#[source] RecordError),
}

/// Leases a user for the pod, for as long as its record exists.
pub fn lease(run_root: &Path, range: UserRange, record: &PodRecord) -> Result<u32, UidError> {
    let dir = run_root.join(LEASES);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|source| UidError::Io {
        action: "make directory",
        path: dir.clone(),
        source,
    })?;
    let owner = record.key().to_string();
    let start = spread(&owner) % range.count;
    for step in 0..range.count {
        let uid = range.first + (start + step) % range.count;
        let path = dir.join(uid.to_string());
        if is_free(&path, run_root)? {
            let resource = Resource::UidLease { uid, path: path.clone() };
            record.add(resource.clone()).map_err(UidError::Record)?;
            if take(&path, &owner)? {
                return Ok(uid);
            }
            record.forget(&resource).map_err(UidError::Record)?;
        }
    }
    Err(UidError::Exhausted { first: range.first, count: range.count })
}

/// Gives a lease back if it is `owner`'s (`namespace/pod`); `false` if it is not.
pub fn release(path: &Path, owner: &str) -> io::Result<bool> {
    let removed = fs::read_to_string(path).and_then(|text| match text.trim_end() == owner {
        true => fs::remove_file(path).map(|()| true),
        false => Ok(false),
    });
    match removed {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other,
    }
}

/// The user leased to `owner` (`namespace/pod`), found without its record.
pub fn leased_to(run_root: &Path, owner: &str) -> Option<(u32, PathBuf)> {
    let entries = fs::read_dir(run_root.join(LEASES)).ok()?;
    entries.flatten().find_map(|entry| {
        let uid = entry.file_name().to_str()?.parse().ok()?;
        let text = fs::read_to_string(entry.path()).ok()?;
        (text.trim_end() == owner).then(|| (uid, entry.path()))
    })
}

/// Removes the lease if it is stale; `true` when the uid may be tried.
fn is_free(path: &Path, run_root: &Path) -> Result<bool, UidError> {
    let owner = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(source) => return Err(UidError::Io { action: "read", path: path.to_owned(), source }),
    };
    if run_root.join(owner.trim_end()).is_dir() {
        return Ok(false);
    }
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(source) => Err(UidError::Io { action: "remove", path: path.to_owned(), source }),
    }
}

/// Makes the lease file; `false` when somebody else was faster.
///
/// It appears under its name with its contents, by a hard link, because a reader that saw it empty would take it for
/// stale.
fn take(path: &Path, owner: &str) -> Result<bool, UidError> {
    let io = |action, source| UidError::Io { action, path: path.to_owned(), source };
    let own = path.with_extension(format!("{}", std::process::id()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&own)
        .and_then(|mut file| file.write_all(format!("{owner}\n").as_bytes()));
    let linked = written.and_then(|()| fs::hard_link(&own, path));
    fs::remove_file(&own).map_err(|source| io("remove the draft of", source))?;
    match linked {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(source) => Err(io("make", source)),
    }
}

/// Where in the range to begin, so that pods started at once seldom try the same uid (FNV-1a).
fn spread(owner: &str) -> u32 {
    owner.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
