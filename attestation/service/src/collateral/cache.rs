//! What is kept: a directory, and in front of it what was read from there and verified.
//!
//! Certificates of chips that were fetched lie below `fetched/`, as many as were allowed: the one that was not used for
//! longest goes when another one comes. What somebody put beside it stays. No list or statement gives way to an older one.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coffer_attestation::snp::Generation;
use coffer_attestation::time::UnixTime;
use coffer_attestation::x509::{Certificate, Edition};

use super::item::Item;
use super::memory::Memory;
use super::read::{Content, Kept, Roots, Unusable};
use super::recognise::recognise;
use super::shelf::{Broken, Shelf, Shelves};

/// The longest file that is read: Intel's collateral is some 20 KiB.
const MAX_BYTES: u64 = 4 << 20;
/// Files that somebody brought.
const BROUGHT: usize = 20_000;

/// A directory of items.
#[derive(Debug)]
pub struct Cache {
    shelves: Shelves,
    most_fetched: usize,
    roots: Roots,
    memory: Memory,
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
    /// There is a newer one.
    #[error("{item} is kept in a newer edition ({kept}) than this one ({found}), and stays")]
    Older {
        /// What it is.
        item: Item,
        /// What is kept.
        kept: Edition,
        /// What was offered.
        found: Edition,
    },
    /// Neither list, certificate nor collateral.
    #[error("{path:?} is no revocation list, certificate or collateral of a maker that is known")]
    Unknown {
        /// Which file.
        path: PathBuf,
    },
    /// More than anybody has machines.
    #[error("{path:?} does not fit beside {most} other files: remove those of chips that are gone")]
    Full {
        /// Where it would be.
        path: PathBuf,
        /// How many there may be.
        most: usize,
    },
}

impl From<Broken> for CacheError {
    fn from(Broken { path, source }: Broken) -> Self {
        CacheError::File { path, source }
    }
}

impl Cache {
    /// Opens a directory, and makes it if it is not there.
    ///
    /// # Errors
    /// [`CacheError::File`]
    pub fn open(directory: &Path, roots: Roots) -> Result<Self, CacheError> {
        let shelves = Shelves::open(directory)?;
        Ok(Self { shelves, most_fetched: usize::MAX, roots, memory: Memory::default() })
    }

    /// Keeps so many certificates of chips that were fetched, at least one; without this all of them.
    #[must_use]
    pub fn with_most_fetched(self, most: usize) -> Self {
        Self { most_fetched: most.max(1), ..self }
    }

    /// Whom it trusts.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Finds an item. What is out of date is found too: dates are the verdict's business.
    pub fn find(&self, item: &Item, now: UnixTime) -> Option<Arc<Kept>> {
        if let Some(known) = self.memory.find(item) {
            return known;
        }
        let bytes = self.bytes(item, now)?;
        let kept = match self.read_at_its_time(item, &bytes, now) {
            Ok(kept) => Some(Arc::new(kept)),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                let why = error.source().map_or_else(|| error.to_string(), |why| format!("{error}: {why}"));
                tracing::warn!(%item, why, "a file of the cache is not what its name says");
                None
            }
        };
        self.memory.remember(item, kept.clone());
        kept
    }

    /// Verifies and keeps what somebody brought, for as long as nobody removes it.
    ///
    /// # Errors
    /// [`CacheError`]
    pub fn keep(&self, item: &Item, bytes: &[u8], now: UnixTime) -> Result<Arc<Kept>, CacheError> {
        self.keep_on(Shelf::Brought, item, bytes, now)
    }

    /// Verifies and keeps what was fetched.
    ///
    /// # Errors
    /// [`CacheError`]
    pub fn keep_fetched(&self, item: &Item, bytes: &[u8], now: UnixTime) -> Result<Arc<Kept>, CacheError> {
        match item {
            Item::Vcek { .. } => self.keep_on(Shelf::Fetched, item, bytes, now),
            Item::List { .. } | Item::Chain { .. } | Item::Platform(_) => self.keep(item, bytes, now),
        }
    }

    fn keep_on(
        &self,
        shelf: Shelf,
        item: &Item,
        bytes: &[u8],
        now: UnixTime,
    ) -> Result<Arc<Kept>, CacheError> {
        let above = self.above(item, now);
        let kept = item.read(bytes, &self.roots, &above, now);
        let kept = kept.map_err(|source| CacheError::Unusable { item: item.clone(), source })?;
        if let Some((found, newer)) = self.find(item, now).and_then(|known| kept.is_before(&known)) {
            return Err(CacheError::Older { item: item.clone(), kept: newer, found });
        }
        self.make_room(shelf, item)?;
        self.shelves.write(shelf, item, bytes)?;
        let kept = Arc::new(kept);
        self.memory.remember(item, Some(kept.clone()));
        Ok(kept)
    }

    /// Finds out what a file is, verifies it, and keeps it. Answers what it is.
    ///
    /// # Errors
    /// [`CacheError`]
    pub fn import(&self, path: &Path, now: UnixTime) -> Result<Item, CacheError> {
        let at = |source| CacheError::File { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(at)?;
        file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(at)?;
        let item = recognise(&bytes, &self.roots, now);
        let item = item.ok_or_else(|| CacheError::Unknown { path: path.to_owned() })?;
        self.keep(&item, &bytes, now)?;
        Ok(item)
    }

    /// Forgets what is in memory: files that somebody put there are seen.
    pub fn forget(&self) {
        self.memory.clear();
    }

    /// Everything that is kept, by its name.
    ///
    /// # Errors
    /// [`CacheError::File`]
    pub fn list(&self) -> Result<Vec<Item>, CacheError> {
        let mut items = self.shelves.items(Shelf::Brought)?;
        items.extend(self.shelves.items(Shelf::Fetched)?);
        items.sort_by_key(Item::path);
        items.dedup();
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

    fn bytes(&self, item: &Item, now: UnixTime) -> Option<Vec<u8>> {
        let (shelf, path) = self.shelves.find(item)?;
        let mut bytes = Vec::new();
        File::open(&path).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
        if shelf == Shelf::Fetched {
            let used = std::time::UNIX_EPOCH + std::time::Duration::from_secs(now.0);
            // One that cannot be marked goes sooner, and is fetched again.
            let _ = File::options().append(true).open(&path).and_then(|file| file.set_modified(used));
        }
        Some(bytes)
    }

    /// Room for one more. What was fetched and not used for longest is removed for it: what is not in memory first.
    fn make_room(&self, shelf: Shelf, item: &Item) -> Result<(), CacheError> {
        let path = self.shelves.place(shelf, item);
        if path.exists() {
            return Ok(());
        }
        if shelf == Shelf::Brought {
            let full = self.shelves.files(shelf)?.len() >= BROUGHT;
            return if full { Err(CacheError::Full { path, most: BROUGHT }) } else { Ok(()) };
        }
        let fetched = self.shelves.items(Shelf::Fetched)?;
        let Some(over) = (fetched.len() + 1).checked_sub(self.most_fetched).filter(|over| *over > 0) else {
            return Ok(());
        };
        let mut by_use: Vec<_> = fetched
            .into_iter()
            .map(|item| ((self.memory.used(&item), self.shelves.used(&item)), item))
            .collect();
        by_use.sort_by_key(|(used, _)| *used);
        for (_, item) in by_use.iter().take(over) {
            let path = self.shelves.place(Shelf::Fetched, item);
            fs::remove_file(&path).map_err(|source| CacheError::File { path, source })?;
            self.memory.drop_item(item);
            tracing::debug!(%item, "it was not used for longest, and is not kept any more");
        }
        Ok(())
    }
}
