//! The small files of the cache: which key leads to which blob, and when a blob was last hashed.
//!
//! ```text
//! index/<key>.json     {"digest": "sha256:…", "source": "/…/snapshots/7/fs"}
//! stamps/<hex>.json    {"boot_id": …, "ino": …, "size": …, "mtime": …, "ctime": …}   its own mtime: last use
//! ```
//! Both are hints: a missing or unreadable one costs a conversion or a hashing, never a wrong layer.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Digest;
use crate::process::boot_id;

/// What a key leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The blob.
    pub(super) digest: Digest,
    /// The directory that it was made of.
    pub(super) source: PathBuf,
}

/// What a blob's file was like when all of it was hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    boot_id: String,
    ino: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    /// What the open file is like now, in this boot.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Stamp {
            boot_id: boot_id()?,
            ino: metadata.ino(),
            size: metadata.size(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// The last hashing of a blob.
    pub(super) fn read(root: &Path, digest: &Digest) -> Option<Self> {
        read_json(&stamp_path(root, digest))
    }

    /// Notes a hashing.
    pub(super) fn write(&self, root: &Path, digest: &Digest) -> io::Result<()> {
        write_json(&stamp_path(root, digest), self)
    }
}

/// Looks a key up.
pub(super) fn lookup(root: &Path, key: &Digest) -> Option<Entry> {
    read_json(&entry_path(root, key))
}

/// Enters a key.
pub(super) fn enter(root: &Path, key: &Digest, entry: &Entry) -> io::Result<()> {
    write_json(&entry_path(root, key), entry)
}

/// All entries with their files.
pub(super) fn entries(root: &Path) -> io::Result<Vec<(PathBuf, Option<Entry>)>> {
    let mut found = Vec::new();
    for file in fs::read_dir(root.join("index"))? {
        let path = file?.path();
        let entry = read_json(&path);
        found.push((path, entry));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Notes that a blob is used now. One that lost its stamp meanwhile is being verified or pruned: fine.
pub(super) fn touch(root: &Path, digest: &Digest) -> io::Result<()> {
    match File::options().write(true).open(stamp_path(root, digest)) {
        Ok(file) => file.set_modified(SystemTime::now()),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(err) => Err(err),
    }
}

/// When a blob was last used; one without a stamp, never.
pub(super) fn last_used(root: &Path, digest: &Digest) -> SystemTime {
    fs::metadata(stamp_path(root, digest))
        .and_then(|stamp| stamp.modified())
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Forgets a blob's last hashing and use.
pub(super) fn forget_stamp(root: &Path, digest: &Digest) -> io::Result<()> {
    match fs::remove_file(stamp_path(root, digest)) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}

fn entry_path(root: &Path, key: &Digest) -> PathBuf {
    root.join("index").join(format!("{}.json", key.hex()))
}

fn stamp_path(root: &Path, digest: &Digest) -> PathBuf {
    root.join("stamps").join(format!("{}.json", digest.hex()))
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Writers of one file hold the same lock, so they may share the draft's name.
fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let draft = path.with_extension("new");
    fs::write(&draft, serde_json::to_vec(value)?)?;
    fs::rename(&draft, path)
}
