//! A directory of images (OCI image layout 1.0): `index.json` and `blobs/sha256/`. Every blob is held against its digest.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coffer_image::artefact::{
    Descriptor, Digest, Document, Evidence, Index, MAX_MANIFEST_BYTES, MAX_OBJECT_BYTES, Manifest, Reference,
    Subject,
};

use super::LayoutError;
use super::read::bounded;

/// The file that names everything else.
pub(super) const INDEX: &str = "index.json";

/// The annotation of an index's entry that is its name in the directory.
pub const REFERENCE_NAME: &str = "org.opencontainers.image.ref.name";

/// A directory whose `index.json` was read. Everything is read from the very directory that was opened, also if another comes
/// into its place.
#[derive(Debug, Clone)]
pub struct Layout {
    pub(super) directory: PathBuf,
    handle: Arc<File>,
    index: Index,
}

/// A manifest of the directory, with its bytes.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Digest of the bytes.
    pub digest: Digest,
    /// What the index calls it.
    pub name: Option<String>,
    /// What it says.
    pub document: Document,
    /// Its very bytes.
    pub bytes: Vec<u8>,
}

impl Layout {
    /// Reads the directory's index.
    ///
    /// # Errors
    /// [`LayoutError`]
    pub fn open(directory: &Path) -> Result<Self, LayoutError> {
        let path = directory.join(INDEX);
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(directory);
        let handle = opened.map_err(|source| LayoutError::Read { path: directory.to_owned(), source })?;
        let bytes = bounded(&handle, directory, Path::new(INDEX), MAX_MANIFEST_BYTES)?;
        match Document::parse(&bytes)
            .map_err(|source| LayoutError::Document { path: path.clone(), source })?
        {
            Document::Index(index) => {
                Ok(Self { directory: directory.to_owned(), handle: Arc::new(handle), index })
            }
            Document::Manifest(_) => Err(LayoutError::NoIndex { path }),
        }
    }

    /// Every manifest that the index names, and every one that those name which are indexes themselves.
    ///
    /// # Errors
    /// [`LayoutError`] for one that is named and is not there, or is another.
    pub fn all(&self) -> Result<Vec<Stored>, LayoutError> {
        let mut all = Vec::new();
        for entry in &self.index.manifests {
            let stored = self.stored(entry)?;
            let inner = match &stored.document {
                Document::Index(index) => index.manifests.clone(),
                Document::Manifest(_) => Vec::new(),
            };
            all.push(stored);
            // An image for other machines may have been left out of the directory.
            let there = inner.iter().filter(|entry| self.path(&entry.digest).exists());
            all.extend(there.map(|entry| self.stored(entry)).collect::<Result<Vec<Stored>, LayoutError>>()?);
        }
        Ok(all)
    }

    /// The manifest or index called `wanted` in the directory, or the only one.
    ///
    /// # Errors
    /// [`LayoutError`]
    pub fn find(&self, wanted: Option<&str>) -> Result<Stored, LayoutError> {
        self.stored(self.entry(wanted)?)
    }

    /// The image called `wanted` in the directory, under the name `reference`; for `platform` (operating system and
    /// architecture) if it is a choice.
    ///
    /// # Errors
    /// [`LayoutError`]
    pub fn image(
        &self,
        wanted: Option<&str>,
        reference: Reference,
        platform: (&str, &str),
    ) -> Result<Subject, LayoutError> {
        let stored = self.find(wanted)?;
        let index = match &stored.document {
            Document::Manifest(_) => {
                return Subject::of_manifest(reference, stored.bytes).map_err(LayoutError::Subject);
            }
            Document::Index(index) => index,
        };
        let (os, architecture) = platform;
        let chosen = index
            .for_platform(os, architecture)
            .ok_or_else(|| LayoutError::Platform { platform: format!("{os}/{architecture}") })?;
        let manifest = self.stored(chosen)?;
        Subject::chosen_from(reference, stored.bytes, manifest.bytes).map_err(LayoutError::Subject)
    }

    /// How many signature objects `manifest` holds.
    ///
    /// # Errors
    /// [`coffer_image::artefact::AttachedError`]
    pub fn add(
        &self,
        evidence: &mut Evidence,
        manifest: &Manifest,
    ) -> Result<usize, coffer_image::artefact::AttachedError> {
        evidence.add_artefact(manifest, &|digest| self.blob(digest, MAX_OBJECT_BYTES).ok())
    }

    /// Whether another directory is in the place of the one that was opened, or none.
    pub(super) fn is_replaced(&self) -> bool {
        let ours = self.handle.metadata().map(|it| (it.dev(), it.ino())).ok();
        ours != std::fs::metadata(&self.directory).map(|it| (it.dev(), it.ino())).ok()
    }

    /// The bytes of a blob, at most `most`. They are not held against their digest.
    pub(super) fn blob(&self, digest: &Digest, most: usize) -> Result<Vec<u8>, LayoutError> {
        bounded(&self.handle, &self.directory, &place(digest), most)
    }

    /// The bytes of `index.json` as they are now.
    pub(super) fn index_bytes(&self) -> Result<Vec<u8>, LayoutError> {
        bounded(&self.handle, &self.directory, Path::new(INDEX), MAX_MANIFEST_BYTES)
    }

    pub(super) fn entries(&self) -> &[Descriptor] {
        &self.index.manifests
    }

    fn entry(&self, wanted: Option<&str>) -> Result<&Descriptor, LayoutError> {
        let Some(wanted) = wanted else {
            return match self.index.manifests.as_slice() {
                [only] => Ok(only),
                all => Err(LayoutError::NoChoice { found: all.len() }),
            };
        };
        let called = |entry: &&Descriptor| {
            entry.annotations.get(REFERENCE_NAME).is_some_and(|name| name == wanted)
                || entry.digest.to_string() == wanted
        };
        let mut found = self.index.manifests.iter().filter(called);
        let first = found.next().ok_or_else(|| LayoutError::Unknown { wanted: wanted.to_owned() })?;
        if found.any(|other| other.digest != first.digest) {
            return Err(LayoutError::Twice { wanted: wanted.to_owned() });
        }
        Ok(first)
    }

    pub(super) fn stored(&self, entry: &Descriptor) -> Result<Stored, LayoutError> {
        let bytes = self.blob(&entry.digest, MAX_MANIFEST_BYTES)?;
        let document = Document::parse_expected(&bytes, &entry.digest)
            .map_err(|source| LayoutError::Document { path: self.path(&entry.digest), source })?;
        let name = entry.annotations.get(REFERENCE_NAME).cloned();
        Ok(Stored { digest: entry.digest, name, document, bytes })
    }

    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(place(digest))
    }
}

/// Where a blob lies in a directory.
fn place(digest: &Digest) -> PathBuf {
    Path::new("blobs/sha256").join(digest.hex())
}
