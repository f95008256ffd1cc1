//! Kernels that were built on this machine, each in a directory named by the hash of all that went into it.
//!
//! ```text
//! <root>/kernel/lock            held while anything below is made or removed
//! <root>/kernel/tmp.*           a build under way, or what a killed one left; gone when the next one starts
//! <root>/kernel/<hash>/         a finished kernel; contents.json lists its files and is written last
//! ```
//! An entry comes into being by a rename, so a killed build leaves none; one whose files changed since is made anew.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::error::{KernelError, file};
use crate::digest::Digest;
use crate::manifest::{FileFacts, FileName};
use crate::progress::Progress;

const CONTENTS: &str = "contents.json";
const TEMPORARY: &str = "tmp.";

/// The directory in which built kernels are kept.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
    dir: PathBuf,
}

impl Cache {
    /// The cache that `COFFER_CACHE` names, or `/var/cache/coffer`.
    pub fn from_env() -> Self {
        Self::at(&std::env::var_os("COFFER_CACHE").map_or_else(|| "/var/cache/coffer".into(), PathBuf::from))
    }

    /// The cache below `root`.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), dir: root.join("kernel") }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of the entry `key`. If there is none, `make` fills it: it gets the directory for what is kept
    /// and another one for what is not.
    pub(super) fn entry(
        &self,
        key: &Digest,
        make: impl FnOnce(&Path, &Path) -> Result<(), KernelError>,
    ) -> Result<PathBuf, KernelError> {
        let entry = self.dir.join(key.hex());
        if is_intact(&entry) {
            return Ok(entry);
        }
        fs::create_dir_all(&self.dir).map_err(file(&self.dir))?;
        let _lock = self.lock()?;
        if is_intact(&entry) {
            return Ok(entry);
        }
        self.sweep()?;
        let temporary =
            tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(&self.dir).map_err(file(&self.dir))?;
        let (keep, work) = (temporary.path().join("keep"), temporary.path().join("work"));
        for dir in [&keep, &work] {
            fs::create_dir(dir).map_err(file(dir))?;
        }
        make(&keep, &work)?;
        seal(&keep)?;
        if entry.exists() {
            fs::remove_dir_all(&entry).map_err(file(&entry))?;
        }
        fs::rename(&keep, &entry).map_err(file(&entry))?;
        Ok(entry)
    }

    fn lock(&self) -> Result<File, KernelError> {
        let path = self.dir.join("lock");
        let lock = OpenOptions::new().create(true).append(true).open(&path).map_err(file(&path))?;
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(file(&path)(error)),
        }
        let progress = Progress::begin("waiting for another build of a kernel on this machine");
        lock.lock().map_err(file(&path))?;
        progress.end();
        Ok(lock)
    }

    /// Removes what killed builds left. The lock is held: nobody else is building.
    fn sweep(&self) -> Result<(), KernelError> {
        for found in fs::read_dir(&self.dir).map_err(file(&self.dir))? {
            let found = found.map_err(file(&self.dir))?;
            if found.file_name().to_string_lossy().starts_with(TEMPORARY) {
                let progress = Progress::begin("removing what a killed build of a kernel left");
                fs::remove_dir_all(found.path()).map_err(file(&found.path()))?;
                progress.end();
            }
        }
        Ok(())
    }
}

type Contents = BTreeMap<FileName, FileFacts>;

fn is_intact(entry: &Path) -> bool {
    let contents = fs::read(entry.join(CONTENTS)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    contents.is_some_and(|contents: Contents| {
        contents.iter().all(|(name, facts)| facts_of(&entry.join(name.as_str())).ok().as_ref() == Some(facts))
    })
}

fn facts_of(path: &Path) -> Result<FileFacts, KernelError> {
    let (digest, size) = File::open(path).and_then(Digest::of_reader).map_err(file(path))?;
    Ok(FileFacts { size, digest })
}

/// Writes down what a finished entry consists of.
fn seal(dir: &Path) -> Result<(), KernelError> {
    let mut contents = Contents::new();
    for found in fs::read_dir(dir).map_err(file(dir))? {
        let path = found.map_err(file(dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = FileName::try_from(name).map_err(std::io::Error::other).map_err(file(&path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(file(&path))?;
        contents.insert(name, facts_of(&path)?);
    }
    let path = dir.join(CONTENTS);
    let text = serde_json::to_vec_pretty(&contents).map_err(std::io::Error::other).map_err(file(&path))?;
    fs::write(&path, text).map_err(file(&path))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(file(dir))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn key() -> Digest {
        Digest::of(b"all inputs")
    }

    fn make(keep: &Path, _work: &Path) -> Result<(), KernelError> {
        fs::write(keep.join("vmlinux"), "whole kernel").map_err(file(keep))
    }

    fn must_not_make(_keep: &Path, _work: &Path) -> Result<(), KernelError> {
        panic!("built although the cache has it")
    }

    #[test]
    fn a_kernel_is_built_once() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path());
        let first = cache.entry(&key(), make).unwrap();
        assert_eq!(cache.entry(&key(), must_not_make).unwrap(), first);
        assert_eq!(fs::read(first.join("vmlinux")).unwrap(), b"whole kernel");
    }

    #[test]
    fn what_a_killed_build_left_is_not_used_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let left = root.path().join("kernel/tmp.abc/keep");
        fs::create_dir_all(&left).unwrap();
        fs::write(left.join("vmlinux"), "half a ker").unwrap();
        let entry = Cache::at(root.path()).entry(&key(), make).unwrap();
        assert_eq!(fs::read(entry.join("vmlinux")).unwrap(), b"whole kernel");
        assert!(!root.path().join("kernel/tmp.abc").exists());
    }

    #[test]
    fn a_build_that_fails_leaves_neither_entry_nor_temporary_directory() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path());
        let failed = cache.entry(&key(), |keep, work| {
            make(keep, work)?;
            Err(KernelError::NoPackage { package: "linux-source".into() })
        });
        assert!(failed.is_err());
        let names = fs::read_dir(root.path().join("kernel")).unwrap();
        assert_eq!(names.map(|name| name.unwrap().file_name()).collect::<Vec<_>>(), ["lock"]);
    }

    #[test]
    fn an_entry_whose_file_was_changed_is_built_anew() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path());
        let entry = cache.entry(&key(), make).unwrap();
        fs::write(entry.join("vmlinux"), "whole kernal").unwrap();
        let entry = cache.entry(&key(), make).unwrap();
        assert_eq!(fs::read(entry.join("vmlinux")).unwrap(), b"whole kernel");
    }

    #[test]
    fn an_entry_that_was_never_finished_is_built_anew() {
        let root = tempfile::tempdir().unwrap();
        let entry = root.path().join("kernel").join(key().hex());
        fs::create_dir_all(&entry).unwrap();
        fs::write(entry.join("vmlinux"), "half a ker").unwrap();
        let entry = Cache::at(root.path()).entry(&key(), make).unwrap();
        assert_eq!(fs::read(entry.join("vmlinux")).unwrap(), b"whole kernel");
    }

    #[test]
    fn of_two_builds_at_once_the_second_waits_and_uses_the_first() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path());
        let (builds, barrier) = (AtomicUsize::new(0), std::sync::Barrier::new(2));
        let build = || {
            barrier.wait();
            cache.entry(&key(), |keep, work| {
                builds.fetch_add(1, Ordering::SeqCst);
                make(keep, work)
            })
        };
        std::thread::scope(|scope| {
            let other = scope.spawn(build);
            assert_eq!(build().unwrap(), other.join().unwrap().unwrap());
        });
        assert_eq!(builds.load(Ordering::SeqCst), 1);
    }
}
