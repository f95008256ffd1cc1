//! What is attached to images, read within a budget, wherever it is. What is broken or too much is left out and named, and the
//! rest goes on.

use std::cell::RefCell;
use std::collections::VecDeque;

use coffer_image::artefact::{
    Digest, Document, Evidence, MAX_ATTACHED, MAX_EVIDENCE_BYTES, MAX_OBJECT_BYTES, Manifest, Subject,
};

use super::layout::{Layout, Stored};
use super::write::Added;

/// The longest manifest of an artefact, in bytes.
pub const MAX_ARTEFACT_BYTES: usize = 256 << 10;
/// The most bytes of manifests that are looked through for what is attached.
const MAX_SCANNED_BYTES: usize = 64 << 20;

/// What may still be taken of one image's signature objects.
#[derive(Debug, Clone)]
pub struct Budget {
    objects: usize,
    bytes: usize,
}

/// What was found, in the order of finding.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    /// Manifests that hold signature objects, each with those.
    pub found: Vec<Added>,
    /// What was left out and why, for a log.
    pub left_out: Vec<String>,
    seen: Vec<Digest>,
}

/// Gives the bytes of a digest, at most so many, or says why not.
pub type BlobReader<'a> = dyn Fn(&Digest, usize) -> Result<Vec<u8>, String> + 'a;

impl Default for Budget {
    /// As much as a judgement takes: 64 objects, 16 MiB with their manifests.
    fn default() -> Self {
        Self::of_bytes(MAX_EVIDENCE_BYTES)
    }
}

impl Budget {
    /// 64 objects, `bytes` with their manifests.
    pub fn of_bytes(bytes: usize) -> Self {
        Self { objects: MAX_ATTACHED, bytes }
    }

    /// Most bytes of one more manifest.
    pub fn manifest(&self) -> usize {
        self.bytes.min(MAX_ARTEFACT_BYTES)
    }

    /// `bytes` were taken.
    ///
    /// # Errors
    /// They are more than there is room for.
    pub fn spend(&mut self, bytes: usize) -> Result<(), String> {
        let left = self.bytes.checked_sub(bytes);
        self.bytes =
            left.ok_or_else(|| format!("{bytes} bytes are more than the {} that are left", self.bytes))?;
        Ok(())
    }

    /// One more object is wanted. Answers how many bytes it may have.
    fn object(&mut self) -> Result<usize, String> {
        let left = self.objects.checked_sub(1);
        self.objects = left.ok_or_else(|| "there is no room for another signature object".to_owned())?;
        Ok(self.bytes.min(MAX_OBJECT_BYTES))
    }

    /// Gives up the room that `added` has.
    pub(super) fn give(&mut self, added: &Added) {
        let bytes = added.manifest.len() + added.blobs.iter().map(Vec::len).sum::<usize>();
        self.bytes = self.bytes.saturating_sub(bytes);
        self.objects = self.objects.saturating_sub(added.blobs.len());
    }
}

/// The signature objects of an artefact, and nothing else that it names; `read` gives the bytes of a digest, at most so many, and
/// is not believed. None for what is no signature.
///
/// # Errors
/// Which object cannot be had, and why.
pub fn collect(
    manifest: &Manifest,
    budget: &mut Budget,
    read: &BlobReader<'_>,
) -> Result<Vec<Vec<u8>>, String> {
    let state = RefCell::new((budget, Vec::new(), None));
    let counted = Evidence::default().add_artefact(manifest, &|digest| {
        let (budget, blobs, failed) = &mut *state.borrow_mut();
        let taken = budget.object().and_then(|most| {
            let bytes = read(digest, most)?;
            budget.spend(bytes.len()).map(|()| bytes)
        });
        match taken {
            Ok(bytes) => blobs.push(bytes),
            Err(why) => *failed = Some(format!("{digest}: {why}")),
        }
        failed.is_none().then(|| blobs.last().cloned()).flatten()
    });
    let (_, blobs, failed) = state.into_inner();
    match (failed, counted) {
        (Some(why), _) => Err(why),
        (None, Err(error)) => Err(error.to_string()),
        (None, Ok(_)) => Ok(blobs),
    }
}

impl Objects {
    /// The objects, for a judgement.
    pub fn evidence(&self) -> Evidence {
        let mut evidence = Evidence::default();
        for added in &self.found {
            let Ok(Document::Manifest(manifest)) = Document::parse(&added.manifest) else { continue };
            let blob =
                |digest: &Digest| added.blobs.iter().find(|bytes| Digest::of(bytes) == *digest).cloned();
            // Whatever does not fit is missing, which makes no image better.
            let _ = evidence.add_artefact(&manifest, &blob);
        }
        evidence
    }
}

impl Layout {
    /// Every signature object in the directory that may be attached to `subject`.
    pub fn attached(&self, subject: &Subject) -> Objects {
        let of: Vec<Digest> = subject.digests().copied().collect();
        let mut objects = Objects::default();
        self.add_objects(&of, &mut Budget::default(), &mut objects);
        objects
    }

    /// Adds every signature object in the directory that may be attached to one of the images with the digests `of`, and is
    /// not among `objects`. What is attached to another image is passed over.
    pub fn add_objects(&self, of: &[Digest], budget: &mut Budget, objects: &mut Objects) {
        let mut waiting: VecDeque<_> = self.entries().iter().map(|entry| (entry.clone(), false)).collect();
        let mut scanned = 0_usize;
        while let Some((entry, is_inner)) = waiting.pop_front() {
            // An image for other machines may have been left out of the directory.
            if of.contains(&entry.digest) || (is_inner && !self.path(&entry.digest).exists()) {
                continue;
            }
            if scanned > MAX_SCANNED_BYTES {
                let rest = waiting.len() + 1;
                return objects
                    .left_out
                    .push(format!("{rest} manifests: there are too many to look through"));
            }
            let stored = match self.stored(&entry) {
                Ok(stored) => stored,
                Err(error) => {
                    objects.left_out.push(format!("{}: {}", entry.digest, chain(&error)));
                    continue;
                }
            };
            scanned = scanned.saturating_add(stored.bytes.len());
            match &stored.document {
                Document::Index(index) if !is_inner => {
                    waiting.extend(index.manifests.iter().map(|entry| (entry.clone(), true)));
                }
                Document::Manifest(manifest) if is_candidate(&stored, manifest, of) => {
                    let manifest = manifest.clone();
                    self.add_artefact(stored, &manifest, budget, objects);
                }
                Document::Index(_) | Document::Manifest(_) => {}
            }
        }
    }

    fn add_artefact(&self, stored: Stored, manifest: &Manifest, budget: &mut Budget, objects: &mut Objects) {
        if objects.seen.contains(&stored.digest) {
            return;
        }
        let taken = match stored.bytes.len() {
            // An image is this long at times, and nobody attached it to another.
            found if found > MAX_ARTEFACT_BYTES && manifest.subject.is_none() => Ok(Vec::new()),
            found if found > MAX_ARTEFACT_BYTES => {
                Err(format!("a manifest of {found} bytes is longer than {MAX_ARTEFACT_BYTES}"))
            }
            found => budget.spend(found).and_then(|()| {
                let read = |digest: &Digest, most| self.blob(digest, most).map_err(|error| chain(&error));
                collect(manifest, budget, &read)
            }),
        };
        match taken {
            Ok(blobs) if blobs.is_empty() => {}
            Ok(blobs) => {
                objects.seen.push(stored.digest);
                objects.found.push(Added {
                    blobs,
                    media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
                    artifact_type: Some(manifest.artifact_type.clone()),
                    name: stored.name,
                    manifest: stored.bytes,
                });
            }
            Err(why) => objects.left_out.push(format!("{}: {why}", stored.digest)),
        }
    }
}

fn is_candidate(stored: &Stored, manifest: &Manifest, of: &[Digest]) -> bool {
    let of_another = manifest.subject.as_ref().is_some_and(|subject| !of.contains(&subject.digest));
    let by_tag = stored
        .name
        .as_ref()
        .is_none_or(|name| !name.ends_with(".sig") || of.iter().any(|it| it.signature_tag() == *name));
    !of_another && by_tag
}

/// An error with what it comes from.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
