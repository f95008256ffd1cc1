//! The layer cache as the operator's command sees it: list, verify, prune.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::index::{self};
use super::{
    CachedLayer, Digest, LayerError, LayerProgress, LayerStore, Pruned, Verdict, blob, convert, locks,
};

impl LayerStore {
    /// What the cache holds.
    pub fn list(&self) -> Result<Vec<CachedLayer>, LayerError> {
        let mut sources = self.sources()?;
        let mut layers = Vec::new();
        for (digest, path) in self.blobs()? {
            let bytes = fs::metadata(&path).map_err(|source| blob::cache("examine", &path, source))?.len();
            let last_used =
                index::last_used(&self.root, &digest).duration_since(UNIX_EPOCH).unwrap_or_default();
            layers.push(CachedLayer {
                digest,
                bytes,
                sources: sources.remove(&digest).unwrap_or_default(),
                last_used_unix: last_used.as_secs(),
            });
        }
        Ok(layers)
    }

    /// Hashes every blob, whatever its stamp says; an altered one is moved away and shows up with `found` unlike
    /// `expected`.
    pub fn verify(&self, progress: &mut dyn FnMut(LayerProgress)) -> Result<Vec<Verdict>, LayerError> {
        let mut verdicts = Vec::new();
        for (expected, path) in self.blobs()? {
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(blob::cache("open", &path, source)),
            };
            index::forget_stamp(&self.root, &expected)
                .map_err(|source| blob::cache("forget the digest of", &path, source))?;
            let found = match blob::vouch(&self.root, &expected, &file, progress) {
                Ok(()) => expected,
                Err(LayerError::Altered { found, .. }) => found,
                Err(other) => return Err(other),
            };
            verdicts.push(Verdict { expected, found });
        }
        Ok(verdicts)
    }

    /// Removes blobs that are not in `in_use` and were last used longer than `older_than` ago, index entries that
    /// lead nowhere, and what was moved away or left by killed conversions.
    ///
    /// A guest that runs on a removed blob keeps it open and does not notice.
    pub fn prune(&self, in_use: &[Digest], older_than: Duration) -> Result<Pruned, LayerError> {
        let mut pruned = Pruned::default();
        let now = SystemTime::now();
        for (digest, path) in self.blobs()? {
            let age = now.duration_since(index::last_used(&self.root, &digest)).unwrap_or_default();
            if in_use.contains(&digest) {
                pruned.in_use += 1;
            } else if age < older_than {
                pruned.recent += 1;
            } else {
                pruned.bytes += self.remove(&digest, &path)?;
                pruned.layers.push(digest);
            }
        }
        self.tidy()?;
        Ok(pruned)
    }

    fn remove(&self, digest: &Digest, path: &PathBuf) -> Result<u64, LayerError> {
        let io = |source| blob::cache("remove", path, source);
        let _lock = locks::take(&locks::of_blob(&self.root, digest)).map_err(io)?;
        let bytes = fs::metadata(path).map_err(io)?.len();
        fs::remove_file(path).map_err(io)?;
        index::forget_stamp(&self.root, digest).map_err(io)?;
        Ok(bytes)
    }

    fn tidy(&self) -> Result<(), LayerError> {
        for (path, entry) in self.entries()? {
            let leads_somewhere =
                entry.is_some_and(|entry| blob::path_of(&self.root, &entry.digest).exists());
            if !leads_somewhere {
                fs::remove_file(&path).map_err(|source| blob::cache("remove", &path, source))?;
            }
        }
        let quarantine = self.root.join("quarantine");
        for entry in fs::read_dir(&quarantine).map_err(|source| blob::cache("list", &quarantine, source))? {
            let path = entry.map_err(|source| blob::cache("list", &quarantine, source))?.path();
            fs::remove_file(&path).map_err(|source| blob::cache("remove", &path, source))?;
        }
        let drafts = self.root.join("tmp");
        locks::take(&self.root.join("locks/drafts"))
            .and_then(|_turn| convert::sweep(&drafts))
            .map_err(|source| blob::cache("sweep", &drafts, source))
    }

    fn blobs(&self) -> Result<Vec<(Digest, PathBuf)>, LayerError> {
        blob::all(&self.root).map_err(|source| blob::cache("list", &self.root.join("blobs"), source))
    }

    fn entries(&self) -> Result<Vec<(PathBuf, Option<index::Entry>)>, LayerError> {
        index::entries(&self.root).map_err(|source| blob::cache("list", &self.root.join("index"), source))
    }

    fn sources(&self) -> Result<BTreeMap<Digest, Vec<PathBuf>>, LayerError> {
        let mut sources: BTreeMap<Digest, Vec<PathBuf>> = BTreeMap::new();
        for entry in self.entries()?.into_iter().filter_map(|(_, entry)| entry) {
            sources.entry(entry.digest).or_default().push(entry.source);
        }
        Ok(sources)
    }
}
