//! The layer cache of a node, as the shim uses it.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::convert::{Draft, convert, no_space};
use super::index::{self, Entry};
use super::sources::{self, Source};
use super::{Digest, Layer, LayerError, LayerProgress, RootfsMount, blob, digest, key, locks};
use crate::host::find_program;
use crate::record::{PodRecord, Resource};

/// Directories of the cache.
const DIRECTORIES: [&str; 6] = ["blobs", "index", "locks", "quarantine", "stamps", "tmp"];

/// The cache, by its directory; clones are the same cache, and so are other processes' values.
#[derive(Debug, Clone)]
pub struct LayerStore {
    pub(super) root: PathBuf,
    mkfs: PathBuf,
}

impl LayerStore {
    /// Opens the cache, making its directories if need be.
    pub fn open(root: &Path) -> Result<Self, LayerError> {
        let name = Path::new("mkfs.erofs");
        Self::open_with(root, find_program(name).unwrap_or(name.to_owned()))
    }

    /// As [`Self::open`], with a certain `mkfs.erofs`.
    pub fn open_with(root: &Path, mkfs: PathBuf) -> Result<Self, LayerError> {
        for name in DIRECTORIES {
            let dir = root.join(name);
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(|source| blob::cache("make directory", &dir, source))?;
        }
        Ok(LayerStore { root: root.to_owned(), mkfs })
    }

    /// The layers of a root file system, lowest first, each converted, verified or taken as it is.
    ///
    /// Blocks for as long as a conversion takes; `progress` hears of every step that may take long.
    pub fn layers(
        &self,
        mounts: &[RootfsMount],
        record: &PodRecord,
        progress: &mut dyn FnMut(LayerProgress),
    ) -> Result<Vec<Layer>, LayerError> {
        let sources = sources::read(mounts)?;
        sources::check_present(&sources)?;
        sources.iter().map(|source| self.layer(source, record, progress)).collect()
    }

    fn layer(
        &self,
        source: &Source,
        record: &PodRecord,
        progress: &mut dyn FnMut(LayerProgress),
    ) -> Result<Layer, LayerError> {
        match source {
            Source::Snapshot(dir) => {
                let key = key::of_snapshot(dir).map_err(|err| unreadable(dir, err))?;
                self.cached(dir, &key, record, progress)
            }
            Source::Tree(dir) => {
                let key = key::of_tree(dir).map_err(|err| unreadable(dir, err))?;
                self.cached(dir, &key, record, progress)
            }
            Source::Upper(dir) => self.private(dir, progress),
            Source::Image { path, fs_type } => image(path, fs_type),
        }
    }

    fn cached(
        &self,
        dir: &Path,
        key: &Digest,
        record: &PodRecord,
        progress: &mut dyn FnMut(LayerProgress),
    ) -> Result<Layer, LayerError> {
        if let Some(layer) = self.lookup(key, record, progress)? {
            return Ok(layer);
        }
        let lock_file = locks::of_key(&self.root, key);
        let _lock =
            locks::take_telling(&lock_file, || progress(LayerProgress::WaitingForOther(dir.to_owned())))
                .map_err(|source| blob::cache("lock", &lock_file, source))?;
        if let Some(layer) = self.lookup(key, record, progress)? {
            return Ok(layer);
        }
        self.make(dir, key, progress)?;
        let lost = || blob::cache("find the new blob of", dir, std::io::ErrorKind::NotFound.into());
        self.lookup(key, record, progress)?.ok_or_else(lost)
    }

    /// The blob behind a key, if there is one and it is sound.
    fn lookup(
        &self,
        key: &Digest,
        record: &PodRecord,
        progress: &mut dyn FnMut(LayerProgress),
    ) -> Result<Option<Layer>, LayerError> {
        let Some(Entry { digest, .. }) = index::lookup(&self.root, key) else { return Ok(None) };
        record.add(Resource::Layer { digest: digest.to_string() }).map_err(LayerError::Record)?;
        let Some(file) = blob::open(&self.root, &digest, progress)? else { return Ok(None) };
        progress(LayerProgress::Cached(digest));
        let fs_type = "erofs".to_owned();
        Ok(Some(Layer { serial: digest.serial(), fs_type, file: file.into(), digest: Some(digest) }))
    }

    /// Converts a directory into the cache; the caller holds the key's lock.
    fn make(
        &self,
        dir: &Path,
        key: &Digest,
        progress: &mut dyn FnMut(LayerProgress),
    ) -> Result<(), LayerError> {
        progress(LayerProgress::Converting(dir.to_owned()));
        let full = |source| self.full_or("write an image of", dir, source);
        let draft = Draft::new(&self.root).map_err(full)?;
        convert(&self.mkfs, dir, draft.path())?;
        let bytes = draft.file().metadata().map_err(full)?.size();
        let digest = blob::publish(&self.root, &draft).map_err(full)?;
        index::enter(&self.root, key, &Entry { digest, source: dir.to_owned() }).map_err(full)?;
        progress(LayerProgress::Converted(digest, bytes));
        Ok(())
    }

    /// Converts a directory for one container: the file loses its name at once.
    fn private(&self, dir: &Path, progress: &mut dyn FnMut(LayerProgress)) -> Result<Layer, LayerError> {
        progress(LayerProgress::Converting(dir.to_owned()));
        let full = |source| self.full_or("write an image of", dir, source);
        let draft = Draft::new(&self.root).map_err(full)?;
        convert(&self.mkfs, dir, draft.path())?;
        let digest = digest::of_reader(draft.file()).map_err(full)?;
        let file = draft.open_read_only().map_err(full)?;
        Ok(Layer { serial: digest.serial(), fs_type: "erofs".to_owned(), file: file.into(), digest: None })
    }

    fn full_or(&self, action: &'static str, dir: &Path, source: std::io::Error) -> LayerError {
        match source.kind() {
            std::io::ErrorKind::StorageFull => no_space(&self.root, dir),
            _ => blob::cache(action, dir, source),
        }
    }
}

/// A file or device that is a file system already: its serial is made of its identity, because hashing it all would
/// cost more than it proves (nobody told us what it should be).
fn image(path: &Path, fs_type: &str) -> Result<Layer, LayerError> {
    let file = fs::File::open(path).map_err(|err| unreadable(path, err))?;
    let metadata = file.metadata().map_err(|err| unreadable(path, err))?;
    let identity = format!("{} {} {}", metadata.dev(), metadata.ino(), metadata.rdev());
    let serial = Digest::of(identity.as_bytes()).serial();
    Ok(Layer { serial, fs_type: fs_type.to_owned(), file: OwnedFd::from(file), digest: None })
}

fn unreadable(path: &Path, source: std::io::Error) -> LayerError {
    LayerError::Source { path: path.to_owned(), source }
}
