//! The large files of the cache: opened only when their bytes are vouched for.
//!
//! ```text
//! blobs/sha256-<hex>.erofs ── stamp fits ─────────────────────────► open
//!                          └─ else hash it all ── equal ── stamp ─► open
//!                                              └─ unequal ────────► quarantine/, error
//! ```
//! The stamp fits when this boot hashed the file and inode, size and both times are still those. So every way of
//! writing to it through the file system is seen at once, and rot on the disk at the first use after a boot.

use std::fs::{self, File};
use std::io::{self, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::convert::Draft;
use super::index::{self, Stamp};
use super::{Digest, LayerError, LayerProgress, digest, locks};

/// Opens a blob that is in the cache; `None` if it is not.
pub(super) fn open(
    root: &Path,
    digest: &Digest,
    progress: &mut dyn FnMut(LayerProgress),
) -> Result<Option<File>, LayerError> {
    let path = path_of(root, digest);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(cache("open", &path, source)),
    };
    if !is_vouched(root, digest, &file)? {
        vouch(root, digest, &file, progress)?;
    }
    index::touch(root, digest).map_err(|source| cache("note the use of", &path, source))?;
    Ok(Some(file))
}

/// Gives a finished draft its place in the cache and returns its digest.
pub(super) fn publish(root: &Path, draft: &Draft) -> io::Result<Digest> {
    let digest = digest::of_reader(draft.file())?;
    let _lock = locks::take(&locks::of_blob(root, &digest))?;
    let path = path_of(root, &digest);
    let held = File::open(&path).ok().filter(|file| Stamp::of(file).ok() == Stamp::read(root, &digest));
    if held.is_none() {
        draft.publish(&path)?;
        Stamp::of(draft.file())?.write(root, &digest)?;
    }
    Ok(digest)
}

/// Hashes a blob and compares; an altered one is moved to `quarantine/`.
pub(super) fn vouch(
    root: &Path,
    digest: &Digest,
    file: &File,
    progress: &mut dyn FnMut(LayerProgress),
) -> Result<(), LayerError> {
    let path = path_of(root, digest);
    let io = |action| move |source| cache(action, &path_of(root, digest), source);
    let _lock = locks::take(&locks::of_blob(root, digest)).map_err(io("lock"))?;
    if is_vouched(root, digest, file)? {
        return Ok(());
    }
    progress(LayerProgress::Verifying(*digest));
    // Taken before the hashing: a write meanwhile makes the stamp unfit.
    let stamp = Stamp::of(file).map_err(io("examine"))?;
    let found = hash(file).map_err(io("read"))?;
    if found == *digest {
        return stamp.write(root, digest).map_err(io("note the digest of"));
    }
    let quarantine = quarantine(root, digest, file).map_err(io("move away"))?;
    Err(LayerError::Altered { path, expected: *digest, found, quarantine })
}

/// Whether the file was hashed in this boot and has not changed since.
fn is_vouched(root: &Path, digest: &Digest, file: &File) -> Result<bool, LayerError> {
    let now = Stamp::of(file).map_err(|source| cache("examine", &path_of(root, digest), source))?;
    Ok(Stamp::read(root, digest) == Some(now))
}

/// All blobs in the cache, by digest.
pub(super) fn all(root: &Path) -> io::Result<Vec<(Digest, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join("blobs"))? {
        let path = entry?.path();
        let hex =
            path.file_name().and_then(|name| name.to_str()?.strip_prefix("sha256-")?.strip_suffix(".erofs"));
        if let Some(digest) = hex.and_then(|hex| format!("sha256:{hex}").parse().ok()) {
            found.push((digest, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Where a blob is.
pub(super) fn path_of(root: &Path, digest: &Digest) -> PathBuf {
    root.join("blobs").join(format!("sha256-{}.erofs", digest.hex()))
}

/// A failure of the cache itself.
pub(super) fn cache(action: &'static str, path: &Path, source: io::Error) -> LayerError {
    LayerError::Cache { action, path: path.to_owned(), source }
}

/// Reads by the descriptor that the guest will get, so that what is hashed is what is used.
fn hash(mut file: &File) -> io::Result<Digest> {
    file.rewind()?;
    let digest = digest::of_reader(file)?;
    file.rewind()?;
    Ok(digest)
}

/// Moves the blob away, unless a sound one has taken its place since the file was opened.
fn quarantine(root: &Path, digest: &Digest, file: &File) -> io::Result<PathBuf> {
    let from = path_of(root, digest);
    let to = root.join("quarantine").join(format!("sha256-{}.erofs", digest.hex()));
    let same = fs::metadata(&from).is_ok_and(|now| file.metadata().is_ok_and(|held| held.ino() == now.ino()));
    if same {
        fs::rename(&from, &to)?;
        index::forget_stamp(root, digest)?;
    }
    Ok(to)
}
