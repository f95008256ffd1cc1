//! A directory of images (OCI image layout 1.0): `index.json` and `blobs/sha256/`. Every blob is held against its digest.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use coffer_image::artefact::{Descriptor, Digest, Document, Evidence, Index, Manifest, Reference, Subject};

use crate::attest::read_file;

const REFERENCE_NAME: &str = "org.opencontainers.image.ref.name";

/// A directory whose `index.json` was read.
pub(crate) struct Layout {
    directory: PathBuf,
    index: Index,
}

/// A manifest of the directory, with its bytes.
pub(crate) struct Stored {
    pub(crate) digest: Digest,
    pub(crate) name: Option<String>,
    pub(crate) document: Document,
    bytes: Vec<u8>,
}

impl Layout {
    /// Reads the directory's index.
    pub(crate) fn open(directory: &Path) -> anyhow::Result<Self> {
        let bytes = read_file(&directory.join("index.json"), "the index of a directory of images")?;
        match Document::parse(&bytes).context("reading index.json")? {
            Document::Index(index) => Ok(Self { directory: directory.to_owned(), index }),
            Document::Manifest(_) => bail!("index.json of {} is no index", directory.display()),
        }
    }

    /// Every manifest that the index names, and every one that those name which are indexes themselves.
    pub(crate) fn all(&self) -> anyhow::Result<Vec<Stored>> {
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
            all.extend(there.map(|entry| self.stored(entry)).collect::<anyhow::Result<Vec<Stored>>>()?);
        }
        Ok(all)
    }

    /// The image called `wanted` in the directory, under the name `reference`; for `platform` (`OS/ARCH`) if it is a choice.
    pub(crate) fn image(
        &self,
        wanted: Option<&str>,
        reference: Reference,
        platform: &str,
    ) -> anyhow::Result<Subject> {
        let stored = self.stored(self.entry(wanted)?)?;
        let index = match &stored.document {
            Document::Manifest(_) => {
                return Subject::of_manifest(reference, stored.bytes).context("taking the image");
            }
            Document::Index(index) => index,
        };
        let (os, architecture) =
            platform.split_once('/').context("--platform should be as in linux/amd64")?;
        let chosen = index.for_platform(os, architecture);
        let chosen = chosen.with_context(|| format!("the image is not there for {platform}"))?;
        let manifest = self.stored(chosen)?;
        Subject::chosen_from(reference, stored.bytes, manifest.bytes).context("taking the image")
    }

    /// Everything in the directory that may be attached to `subject`. What is attached to another image is left out.
    pub(crate) fn attached(&self, subject: &Subject) -> anyhow::Result<Evidence> {
        let mut evidence = Evidence::default();
        for stored in self.all()? {
            let Document::Manifest(manifest) = &stored.document else { continue };
            let of_another =
                manifest.subject.as_ref().is_some_and(|of| subject.digests().all(|it| *it != of.digest));
            let tags = subject.digests().map(Digest::signature_tag);
            let by_tag = stored
                .name
                .as_ref()
                .is_none_or(|name| !name.ends_with(".sig") || tags.into_iter().any(|tag| tag == *name));
            if !of_another && by_tag {
                self.add(&mut evidence, manifest)
                    .with_context(|| format!("reading the artefact {}", stored.digest))?;
            }
        }
        Ok(evidence)
    }

    /// How many signature objects `manifest` holds.
    pub(crate) fn add(&self, evidence: &mut Evidence, manifest: &Manifest) -> anyhow::Result<usize> {
        let blob = |digest: &Digest| read_file(&self.path(digest), "a signature object").ok();
        Ok(evidence.add_artefact(manifest, &blob)?)
    }

    fn entry(&self, wanted: Option<&str>) -> anyhow::Result<&Descriptor> {
        let called = |entry: &&Descriptor| {
            wanted.is_some_and(|wanted| {
                entry.annotations.get(REFERENCE_NAME).is_some_and(|name| name == wanted)
                    || entry.digest.to_string() == wanted
            })
        };
        match (wanted, self.index.manifests.as_slice()) {
            (None, [only]) => Ok(only),
            (None, all) => {
                bail!("the directory names {} manifests: say --reference TAG or DIGEST", all.len())
            }
            (Some(wanted), all) => {
                let mut found = all.iter().filter(called);
                let first = found.next().with_context(|| format!("the directory has no {wanted:?}"))?;
                ensure!(
                    found.all(|other| other.digest == first.digest),
                    "{wanted:?} is there twice: say a digest"
                );
                Ok(first)
            }
        }
    }

    fn stored(&self, entry: &Descriptor) -> anyhow::Result<Stored> {
        let bytes = read_file(&self.path(&entry.digest), "a manifest")?;
        let document = Document::parse_expected(&bytes, &entry.digest)
            .with_context(|| format!("reading the manifest {}", entry.digest))?;
        let name = entry.annotations.get(REFERENCE_NAME).cloned();
        Ok(Stored { digest: entry.digest, name, document, bytes })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join("blobs/sha256").join(digest.hex())
    }
}
