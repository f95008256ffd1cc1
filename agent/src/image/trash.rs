//! Removes directory trees bit by bit, so that a container with a million files does not hold up its neighbours.
//!
//! ```text
//! throw_away: rename(tree, trash/<n>) ── task: for each directory in trash: files unlinked, directories moved up
//!             into trash, then the empty directory removed; until trash is empty
//! ```
//!
//! Moving directories up keeps the depth at two, however deep the container made them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Entries removed before other tasks get their turn.
const AT_ONCE: usize = 32;

/// A directory whose contents vanish.
#[derive(Debug, Clone)]
pub(super) struct Trash {
    directory: PathBuf,
    next: Arc<AtomicU64>,
    at_work: Arc<AtomicBool>,
}

impl Trash {
    /// The trash is at `directory`, on the same file system as what is thrown away.
    pub(super) fn below(directory: &Path) -> Self {
        Trash { directory: directory.to_owned(), next: Arc::default(), at_work: Arc::default() }
    }

    /// Moves the tree at `path` away at once, and removes it in a task of its own.
    pub(super) fn throw_away(&self, path: &Path) {
        if let Err(error) = self.take(path) {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "stays on scratch");
            }
            return;
        }
        // One task at a time; outside a runtime (in a test, or while the guest ends) the tree just stays there.
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && !self.at_work.swap(true, Ordering::Relaxed)
        {
            let trash = self.clone();
            runtime.spawn(async move { trash.empty().await });
        }
    }

    fn take(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        fs::rename(path, self.place())
    }

    fn place(&self) -> PathBuf {
        self.directory.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    async fn empty(&self) {
        let emptied = self.remove_all().await;
        self.at_work.store(false, Ordering::Relaxed);
        if let Err(error) = emptied {
            tracing::warn!(%error, "thrown away files stay on scratch");
        }
    }

    async fn remove_all(&self) -> io::Result<()> {
        // The list is made anew each round, since a round moves directories up into it.
        loop {
            let trees: Vec<PathBuf> =
                fs::read_dir(&self.directory)?.flatten().map(|entry| entry.path()).collect();
            if trees.is_empty() {
                return Ok(());
            }
            for tree in trees {
                self.remove_flat(&tree).await?;
            }
        }
    }

    async fn remove_flat(&self, tree: &Path) -> io::Result<()> {
        let mut done = 0;
        for entry in fs::read_dir(tree)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::rename(entry.path(), self.place())?;
            } else {
                fs::remove_file(entry.path())?;
            }
            done += 1;
            if done % AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
        }
        match fs::remove_dir(tree) {
            // A directory that changes while it is read may hide an entry until the next round.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tree_of_any_depth_vanishes() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("tree");
        let deep = (0..60).fold(tree.clone(), |path, _| path.join("d"));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("file"), "x").unwrap();
        std::os::unix::fs::symlink("/", tree.join("link")).unwrap();
        let trash = Trash::below(&root.path().join("trash"));
        trash.take(&tree).unwrap();
        trash.remove_all().await.unwrap();
        assert!(!tree.exists());
        assert_eq!(fs::read_dir(root.path().join("trash")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn throwing_away_what_is_not_there_is_no_error() {
        let root = tempfile::tempdir().unwrap();
        Trash::below(&root.path().join("trash")).throw_away(&root.path().join("none"));
        assert!(!root.path().join("none").exists());
    }
}
