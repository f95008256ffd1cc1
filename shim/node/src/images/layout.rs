//! A directory of images (OCI image layout 1.0): `index.json` and `blobs/sha256/`. Every blob is held against its digest.

use std::path::{Path, PathBuf};

use coffer_image::artefact::{
    Descriptor, Digest, Document, Evidence, Index, MAX_MANIFEST_BYTES, MAX_OBJECT_BYTES, Manifest, Reference,
    Subject,
};

use super::LayoutError;
use super::read::bounded;

/// The annotation of an index's entry that is its name in the directory.
pub const REFERENCE_NAME: &str = "org.opencontainers.image.ref.name";

/// A directory whose `index.json` was read.
#[derive(Debug, Clone)]
pub struct Layout {
    pub(super) directory: PathBuf,
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
        let path = directory.join("index.json");
        let bytes = bounded(&path, MAX_MANIFEST_BYTES)?;
        match Document::parse(&bytes)
            .map_err(|source| LayoutError::Document { path: path.clone(), source })?
        {
            Document::Index(index) => Ok(Self { directory: directory.to_owned(), index }),
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

    /// Every manifest in the directory that may be attached to one of the images with the digests `of`. What is attached
    /// to another image is left out.
    ///
    /// # Errors
    /// [`LayoutError`]
    pub fn attached_to(&self, of: &[Digest]) -> Result<Vec<Stored>, LayoutError> {
        let mut all = self.all()?;
        all.retain(|stored| {
            let Document::Manifest(manifest) = &stored.document else { return false };
            let of_another = manifest.subject.as_ref().is_some_and(|subject| !of.contains(&subject.digest));
            let by_tag = stored.name.as_ref().is_none_or(|name| {
                !name.ends_with(".sig") || of.iter().any(|it| it.signature_tag() == *name)
            });
            !of_another && by_tag
        });
        Ok(all)
    }

    /// Every signature object in the directory that may be attached to `subject`.
    ///
    /// # Errors
    /// [`LayoutError`]
    pub fn attached(&self, subject: &Subject) -> Result<Evidence, LayoutError> {
        let of: Vec<Digest> = subject.digests().copied().collect();
        let mut evidence = Evidence::default();
        for stored in self.attached_to(&of)? {
            if let Document::Manifest(manifest) = &stored.document {
                self.add(&mut evidence, manifest)
                    .map_err(|source| LayoutError::Artefact { digest: stored.digest, source })?;
            }
        }
        Ok(evidence)
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
        evidence.add_artefact(manifest, &|digest| self.object(digest).ok())
    }

    /// The bytes of a signature object, at most [`MAX_OBJECT_BYTES`]. They are not held against their digest.
    ///
    /// # Errors
    /// [`LayoutError`]
    pub fn object(&self, digest: &Digest) -> Result<Vec<u8>, LayoutError> {
        bounded(&self.path(digest), MAX_OBJECT_BYTES)
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

    fn stored(&self, entry: &Descriptor) -> Result<Stored, LayoutError> {
        let path = self.path(&entry.digest);
        let bytes = bounded(&path, MAX_MANIFEST_BYTES)?;
        let document = Document::parse_expected(&bytes, &entry.digest)
            .map_err(|source| LayoutError::Document { path, source })?;
        let name = entry.annotations.get(REFERENCE_NAME).cloned();
        Ok(Stored { digest: entry.digest, name, document, bytes })
    }

    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join("blobs/sha256").join(digest.hex())
    }
}
