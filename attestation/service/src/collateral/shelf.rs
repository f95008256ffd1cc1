//! Where files of the cache lie: what somebody brought, and, apart from it, what was fetched and may go again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::item::Item;
use crate::durable;

/// Where what was fetched lies, below the directory.
const FETCHED: &str = "fetched";

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shelf {
    /// Never removed here.
    Brought,
    /// Removed when there is no room.
    Fetched,
}

/// A file that cannot be used.
pub(super) struct Broken {
    pub(super) path: PathBuf,
    pub(super) source: io::Error,
}

/// Both.
#[derive(Debug)]
pub(super) struct Shelves(PathBuf);

impl Shelves {
    pub(super) fn open(directory: &Path) -> Result<Self, Broken> {
        let at = |source| Broken { path: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(at)?;
        Ok(Self(directory.to_owned()))
    }

    /// Where `item` would be.
    pub(super) fn place(&self, shelf: Shelf, item: &Item) -> PathBuf {
        self.of(shelf).join(item.path())
    }

    /// Where `item` is: what somebody brought goes first.
    pub(super) fn find(&self, item: &Item) -> Option<(Shelf, PathBuf)> {
        let both = [Shelf::Brought, Shelf::Fetched].map(|shelf| (shelf, self.place(shelf, item)));
        both.into_iter().find(|(_, path)| path.is_file())
    }

    /// When what was fetched was last read from here.
    pub(super) fn used(&self, item: &Item) -> Option<SystemTime> {
        fs::metadata(self.place(Shelf::Fetched, item)).and_then(|file| file.modified()).ok()
    }

    /// Whole or not at all.
    pub(super) fn write(&self, shelf: Shelf, item: &Item, bytes: &[u8]) -> Result<(), Broken> {
        let path = self.place(shelf, item);
        let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
        let written = folder.and_then(|()| durable::replace(&path, bytes, 0o644));
        written.map_err(|source| Broken { path, source })
    }

    /// Everything that has a name of something.
    pub(super) fn items(&self, shelf: Shelf) -> Result<Vec<Item>, Broken> {
        Ok(self.files(shelf)?.iter().filter_map(|path| Item::at(path)).collect())
    }

    fn of(&self, shelf: Shelf) -> PathBuf {
        match shelf {
            Shelf::Brought => self.0.clone(),
            Shelf::Fetched => self.0.join(FETCHED),
        }
    }

    /// Paths of all files of a shelf, below it.
    pub(super) fn files(&self, shelf: Shelf) -> Result<Vec<String>, Broken> {
        let root = self.of(shelf);
        if shelf == Shelf::Fetched && !root.exists() {
            return Ok(Vec::new());
        }
        let (mut found, mut folders) = (Vec::new(), vec![String::new()]);
        while let Some(folder) = folders.pop() {
            let path = root.join(&folder);
            let at = |source| Broken { path: path.clone(), source };
            for entry in fs::read_dir(&path).map_err(at)? {
                let entry = entry.map_err(at)?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let elsewhere = folder.is_empty() && shelf == Shelf::Brought && name == FETCHED;
                if elsewhere || durable::is_unfinished(&name) {
                    continue;
                }
                let name = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(name),
                    _ => found.push(name),
                }
            }
        }
        Ok(found)
    }
}
