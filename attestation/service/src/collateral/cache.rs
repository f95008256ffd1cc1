//! What is kept: a directory, and in front of it what was read from there and verified.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coffer_attestation::snp::Generation;
use coffer_attestation::time::UnixTime;
use coffer_attestation::x509::Certificate;

use super::item::Item;
use super::read::{Content, Kept, Roots, Unusable};
use super::recognise::recognise;

/// The longest file that is read: Intel's collateral is some 20 KiB.
const MAX_BYTES: u64 = 4 << 20;
/// Items in memory; all are forgotten when there are more, and read again.
const MAX_ITEMS: usize = 4096;
/// Files in the directory.
const MAX_FILES: usize = 20_000;

/// A directory of items.
#[derive(Debug)]
pub struct Cache {
    directory: PathBuf,
    roots: Roots,
    /// `None`: there is a file, and it is not what its name says.
    memory: Mutex<HashMap<Item, Option<Arc<Kept>>>>,
}

/// Why something is not kept.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The directory.
    #[error("{path:?} cannot be used")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not the item.
    #[error("this is not {item}")]
    Unusable {
        /// What it was taken for.
        item: Item,
        /// Why it is not.
        source: Unusable,
    },
    /// Neither list, certificate nor collateral.
    #[error("{path:?} is no revocation list, certificate or collateral of a maker that is known")]
    Unknown {
        /// Which file.
        path: PathBuf,
    },
    /// More than anybody has machines.
    #[error("{path:?} has {MAX_FILES} files: remove those of chips that are gone")]
    Full {
        /// The directory.
        path: PathBuf,
    },
}

impl Cache {
    /// Opens a directory, and makes it if it is not there.
    ///
    /// # Errors
    /// [`CacheError::File`]
    pub fn open(directory: &Path, roots: Roots) -> Result<Self, CacheError> {
        fs::create_dir_all(directory).map_err(|source| at(directory, source))?;
        Ok(Self { directory: directory.to_owned(), roots, memory: Mutex::default() })
    }

    /// Whom it trusts.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Finds an item. What is out of date is found too: dates are the verdict's business.
    pub fn find(&self, item: &Item, now: UnixTime) -> Option<Arc<Kept>> {
        if let Some(known) = self.memory().get(item) {
            return known.clone();
        }
        let bytes = self.bytes(item)?;
        let kept = match self.read_at_its_time(item, &bytes, now) {
            Ok(kept) => Some(Arc::new(kept)),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                let why = error.source().map_or_else(|| error.to_string(), |why| format!("{error}: {why}"));
                tracing::warn!(%item, why, "a file of the cache is not what its name says");
                None
            }
        };
        self.remember(item, kept.clone());
        kept
    }

    /// Verifies and keeps.
    ///
    /// # Errors
    /// [`CacheError`]
    pub fn keep(&self, item: &Item, bytes: &[u8], now: UnixTime) -> Result<Arc<Kept>, CacheError> {
        let above = self.above(item, now);
        let kept = item.read(bytes, &self.roots, &above, now);
        let kept = kept.map_err(|source| CacheError::Unusable { item: item.clone(), source })?;
        self.write(item, bytes)?;
        let kept = Arc::new(kept);
        self.remember(item, Some(kept.clone()));
        Ok(kept)
    }

    /// Finds out what a file is, verifies it, and keeps it. Answers what it is.
    ///
    /// # Errors
    /// [`CacheError`]
    pub fn import(&self, path: &Path, now: UnixTime) -> Result<Item, CacheError> {
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(|source| at(path, source))?;
        file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(|source| at(path, source))?;
        let item = recognise(&bytes, &self.roots, now);
        let item = item.ok_or_else(|| CacheError::Unknown { path: path.to_owned() })?;
        self.keep(&item, &bytes, now)?;
        Ok(item)
    }

    /// Forgets what is in memory: files that somebody put there are seen.
    pub fn forget(&self) {
        self.memory().clear();
    }

    /// Everything that is kept, by its name.
    ///
    /// # Errors
    /// [`CacheError::File`]
    pub fn list(&self) -> Result<Vec<Item>, CacheError> {
        let mut items: Vec<Item> = self.files()?.iter().filter_map(|path| Item::at(path)).collect();
        items.sort_by_key(Item::path);
        Ok(items)
    }

    /// Authorities of a generation that are kept beside those that are built in.
    pub fn authorities(&self, generation: Generation, now: UnixTime) -> Vec<Certificate> {
        match self.find(&Item::Chain { generation }, now).as_deref() {
            Some(Kept { content: Content::Chain(chain), .. }) => chain.clone(),
            _ => Vec::new(),
        }
    }

    fn above(&self, item: &Item, now: UnixTime) -> Vec<Certificate> {
        match item {
            Item::Vcek { generation, .. } => self.authorities(*generation, now),
            _ => Vec::new(),
        }
    }

    /// A file whose time has passed, or has not come, is read as of a time when it was good: that it is not now is a reason
    /// that the verdict has to name.
    fn read_at_its_time(&self, item: &Item, bytes: &[u8], now: UnixTime) -> Result<Kept, Unusable> {
        let above = self.above(item, now);
        match item.read(bytes, &self.roots, &above, now) {
            Err(Unusable::List(coffer_attestation::x509::RevocationError::Stale { this_update, .. })) => {
                item.read(bytes, &self.roots, &above, this_update)
            }
            Err(Unusable::Time { from, .. }) => item.read(bytes, &self.roots, &above, from),
            other => other,
        }
    }

    fn bytes(&self, item: &Item) -> Option<Vec<u8>> {
        let file = File::open(self.directory.join(item.path())).ok()?;
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// Whole or not at all.
    fn write(&self, item: &Item, bytes: &[u8]) -> Result<(), CacheError> {
        let path = self.directory.join(item.path());
        let folder = path.parent().unwrap_or(&self.directory);
        if !path.exists() && self.files()?.len() >= MAX_FILES {
            return Err(CacheError::Full { path: self.directory.clone() });
        }
        let written = || {
            fs::create_dir_all(folder)?;
            let unfinished = path.with_file_name(".unfinished");
            let mut file = File::create(&unfinished)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)
        };
        // One at a time: the unfinished file has one name.
        let _alone = self.memory();
        written().map_err(|source| at(&path, source))
    }

    fn remember(&self, item: &Item, kept: Option<Arc<Kept>>) {
        let mut memory = self.memory();
        if memory.len() >= MAX_ITEMS {
            memory.clear();
        }
        memory.insert(item.clone(), kept);
    }

    fn memory(&self) -> MutexGuard<'_, HashMap<Item, Option<Arc<Kept>>>> {
        // Each change is one call: the map is whole even if a thread died with it.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Paths of all files, below the directory.
    fn files(&self) -> Result<Vec<String>, CacheError> {
        let (mut found, mut folders) = (Vec::new(), vec![String::new()]);
        while let Some(folder) = folders.pop() {
            let path = self.directory.join(&folder);
            for entry in fs::read_dir(&path).map_err(|source| at(&path, source))? {
                let entry = entry.map_err(|source| at(&path, source))?;
                let name = entry.file_name().to_string_lossy().into_owned();
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

fn at(path: &Path, source: io::Error) -> CacheError {
    CacheError::File { path: path.to_owned(), source }
}
