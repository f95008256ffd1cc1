//! What the host says of an image, and how it becomes something that can be judged.

use coffer_image::artefact::{Document, Evidence, Manifest, ManifestError, Reference, Subject};

use super::GateError;

/// What the host says of a container's image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The name that the pod asked for.
    pub(crate) reference: String,
    pub(crate) manifest: Vec<u8>,
    /// Of the index that the manifest was chosen from; empty: none.
    pub(crate) index: Vec<u8>,
    pub(crate) configuration: Vec<u8>,
    pub(crate) signatures: Vec<SignatureObject>,
}

/// A signature object as it lies in a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SignatureObject {
    pub(crate) manifest: Vec<u8>,
    pub(crate) blobs: Vec<Vec<u8>>,
}

/// A claim whose parts were read.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) subject: Subject,
    pub(super) evidence: Evidence,
    /// Not held against the manifest yet.
    pub(super) configuration: Vec<u8>,
}

impl Claim {
    /// Reads all parts but the configuration.
    pub(super) fn read(self) -> Result<Case, GateError> {
        let reference: Reference = self.reference.parse().map_err(GateError::Reference)?;
        let subject = if self.index.is_empty() {
            Subject::of_manifest(reference, self.manifest)
        } else {
            Subject::chosen_from(reference, self.index, self.manifest)
        };
        let subject = subject.map_err(GateError::Subject)?;
        let mut evidence = Evidence::default();
        for (place, object) in self.signatures.iter().enumerate() {
            object.add_to(&mut evidence, place)?;
        }
        Ok(Case { subject, evidence, configuration: self.configuration })
    }
}

impl SignatureObject {
    fn add_to(&self, evidence: &mut Evidence, place: usize) -> Result<(), GateError> {
        let manifest =
            artefact(&self.manifest).map_err(|source| GateError::SignatureManifest { place, source })?;
        // The blobs are in the manifest's order, so each one's place is that of its digest there.
        let blob = |wanted: &_| {
            let place = manifest.layers.iter().position(|layer| layer.digest == *wanted)?;
            self.blobs.get(place).cloned()
        };
        let added = evidence.add_artefact(&manifest, &blob);
        added.map_err(|source| GateError::Signature { place, source }).map(drop)
    }
}

fn artefact(bytes: &[u8]) -> Result<Manifest, Option<ManifestError>> {
    match Document::parse(bytes).map_err(Some)? {
        Document::Manifest(manifest) => Ok(*manifest),
        Document::Index(_) => Err(None),
    }
}
