//! What is to be run: the manifest's very bytes, under the name that the pod asked for.

use coffer_protocol::Digest;

use super::manifest::{Document, Manifest, ManifestError};
use super::reference::Reference;

/// An image to be judged. Every digest in it was computed from bytes that are here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    reference: Reference,
    digest: Digest,
    manifest: Manifest,
    bytes: Vec<u8>,
    index: Option<(Digest, Vec<u8>)>,
}

/// Why bytes are not the image that a name stands for.
#[derive(Debug, thiserror::Error)]
pub enum SubjectError {
    /// The manifest.
    #[error("the image's manifest cannot be read")]
    Manifest(#[source] ManifestError),
    /// The index.
    #[error("the image's index cannot be read")]
    Index(#[source] ManifestError),
    /// An index where a manifest should be, or the other way round.
    #[error("the bytes are {found}, {expected} was expected")]
    Kind {
        /// What it is.
        found: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// The index does not name the manifest.
    #[error("the index {index} does not list the manifest {manifest}")]
    NotListed {
        /// Digest of the index.
        index: Digest,
        /// Digest of the manifest.
        manifest: Digest,
    },
    /// The name asks for other bytes.
    #[error("the reference asks for {asked}, the image is {found}")]
    OtherDigest {
        /// The reference's digest.
        asked: Digest,
        /// The image's digest.
        found: Digest,
    },
}

impl Subject {
    /// Takes the manifest of one image under the name `reference`.
    ///
    /// # Errors
    /// [`SubjectError`]; a digest in the reference must be the manifest's.
    pub fn of_manifest(reference: Reference, bytes: Vec<u8>) -> Result<Self, SubjectError> {
        let subject = Self::with_name(reference.or_latest(), bytes)?;
        match subject.reference.digest() {
            Some(asked) if *asked != subject.digest => {
                Err(SubjectError::OtherDigest { asked: *asked, found: subject.digest })
            }
            _ => Ok(subject),
        }
    }

    /// Takes the manifest of one image that was chosen from the index `index`. A signature of either counts.
    ///
    /// # Errors
    /// [`SubjectError`]; a digest in the reference must be the index's or the manifest's.
    pub fn chosen_from(
        reference: Reference,
        index: Vec<u8>,
        manifest: Vec<u8>,
    ) -> Result<Self, SubjectError> {
        let mut subject = Self::with_name(reference.or_latest(), manifest)?;
        let listed = match Document::parse(&index).map_err(SubjectError::Index)? {
            Document::Index(index) => index,
            Document::Manifest(_) => {
                return Err(SubjectError::Kind { found: "a manifest", expected: "an index" });
            }
        };
        let found = Digest::of(&index);
        if !listed.lists(&subject.digest) {
            return Err(SubjectError::NotListed { index: found, manifest: subject.digest });
        }
        subject.index = Some((found, index));
        match subject.reference.digest() {
            Some(asked) if subject.bytes_of(asked).is_none() => {
                Err(SubjectError::OtherDigest { asked: *asked, found })
            }
            _ => Ok(subject),
        }
    }

    /// The name that was asked for; with a tag or a digest.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Digest of the manifest.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Digests of which a signature vouches for this image: the manifest's, and that of the index that lists it.
    pub fn digests(&self) -> impl Iterator<Item = &Digest> {
        std::iter::once(&self.digest).chain(self.index.as_ref().map(|(digest, _)| digest))
    }

    /// The bytes with one of these digests.
    pub(crate) fn bytes_of(&self, digest: &Digest) -> Option<&[u8]> {
        if self.digest == *digest {
            return Some(&self.bytes);
        }
        self.index.as_ref().filter(|(found, _)| found == digest).map(|(_, bytes)| bytes.as_slice())
    }

    fn with_name(reference: Reference, bytes: Vec<u8>) -> Result<Self, SubjectError> {
        let manifest = match Document::parse(&bytes).map_err(SubjectError::Manifest)? {
            Document::Manifest(manifest) => *manifest,
            Document::Index(_) => {
                return Err(SubjectError::Kind { found: "an index", expected: "a manifest" });
            }
        };
        Ok(Self { reference, digest: Digest::of(&bytes), manifest, bytes, index: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn manifest() -> Vec<u8> {
        let descriptor = json!({"mediaType": "a/b", "digest": Digest::of(b"x").to_string(), "size": 1});
        json!({"schemaVersion": 2, "config": descriptor, "layers": []}).to_string().into_bytes()
    }

    fn index_of(digest: &Digest) -> Vec<u8> {
        let descriptor = json!({"mediaType": "a/b", "digest": digest.to_string(), "size": 1});
        json!({"schemaVersion": 2, "manifests": [descriptor]}).to_string().into_bytes()
    }

    fn app() -> Reference {
        "r.example.com/app:v1".parse().expect("a reference")
    }

    #[test]
    fn a_manifest_that_the_index_does_not_list_is_refused() {
        let refused = Subject::chosen_from(app(), index_of(&Digest::of(b"other")), manifest());
        assert!(matches!(refused, Err(SubjectError::NotListed { .. })));
    }

    #[test]
    fn index_and_manifest_are_both_subjects() {
        let index = index_of(&Digest::of(&manifest()));
        let subject = Subject::chosen_from(app(), index.clone(), manifest()).expect("a subject");
        assert_eq!(
            subject.digests().copied().collect::<Vec<_>>(),
            [Digest::of(&manifest()), Digest::of(&index)]
        );
    }

    #[test]
    fn a_digest_in_the_name_must_be_the_images() {
        let name = format!("r.example.com/app@{}", Digest::of(b"other"));
        let refused = Subject::of_manifest(name.parse().expect("a reference"), manifest());
        assert!(matches!(refused, Err(SubjectError::OtherDigest { .. })));
    }
}
