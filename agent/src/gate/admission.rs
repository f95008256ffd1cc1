//! An image that may run, as far as it is needed once it was judged.

use std::collections::BTreeSet;

use coffer_attestation::handshake::ImageRecord;
use coffer_attestation::verdict::printable;
use coffer_image::artefact::Descriptor;
use coffer_image::judge::Admitted;
use coffer_layer::sealed::{ANNOTATION, Sealed, SealedLayer};
use coffer_layer::unpack::Compression;
use coffer_protocol::Digest;

use super::{GateError, configuration};

/// An image that the policy lets run. Only [`super::Gate::judge`] comes by one.
#[derive(Debug)]
pub(crate) struct Admission {
    record: ImageRecord,
    bytes: Bytes,
}

/// How its bytes come into the guest.
#[derive(Debug)]
pub(crate) enum Bytes {
    /// On disks whose every block is checked as it is read.
    Sealed(SealedImage),
    /// As archives, one for each layer, lowest first; an archive may be there twice.
    Blobs(Vec<Blob>),
}

/// A layer's archive, as the signed manifest and the configuration it names describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blob {
    layer: Descriptor,
    diff_id: Digest,
}

/// Layers on disks, each under a root hash that is in the signed manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SealedImage(Sealed);

impl Admission {
    /// Holds the configuration against the manifest. Both kinds of image need it: a layer more or less is another image.
    pub(super) fn of(admitted: &Admitted, configuration: &[u8]) -> Result<Self, GateError> {
        let manifest = admitted.manifest();
        let layers = configuration::layers(manifest, configuration).map_err(GateError::Configuration)?;
        // In one order, so that an image that is judged again has the same record.
        let signers: BTreeSet<String> =
            admitted.signers().iter().map(|signer| printable(&signer.name)).collect();
        let record = ImageRecord {
            image: admitted.image(),
            digest: admitted.digest().to_string(),
            rule: admitted.rule().to_owned(),
            signers: signers.into_iter().collect(),
        };
        let bytes = match manifest.annotations.get(ANNOTATION) {
            Some(text) => Bytes::Sealed(SealedImage::parse(text)?),
            None => Bytes::Blobs(layers.into_iter().map(Blob::of).collect::<Result<Vec<Blob>, GateError>>()?),
        };
        Ok(Self { record, bytes })
    }

    /// Its parts.
    pub(crate) fn into_parts(self) -> (ImageRecord, Bytes) {
        (self.record, self.bytes)
    }
}

impl SealedImage {
    fn parse(text: &str) -> Result<Self, GateError> {
        Sealed::parse(text).map(Self).map_err(GateError::Sealed)
    }

    /// Lowest first; one at least.
    pub(crate) fn layers(&self) -> &[SealedLayer] {
        self.0.layers()
    }
}

impl Blob {
    /// What could not be unpacked is refused before it is sent.
    fn of((layer, diff_id): (Descriptor, Digest)) -> Result<Self, GateError> {
        let known = Compression::of(&layer.media_type).map_err(GateError::Layer);
        known.map(|_| Self { layer, diff_id })
    }

    /// Of the archive as it is sent.
    pub(crate) fn digest(&self) -> &Digest {
        &self.layer.digest
    }

    /// Bytes that are sent.
    pub(crate) fn size(&self) -> u64 {
        self.layer.size
    }

    /// How it is packed.
    pub(crate) fn media_type(&self) -> &str {
        &self.layer.media_type
    }

    /// Of the archive when it is unpacked.
    pub(crate) fn diff_id(&self) -> &Digest {
        &self.diff_id
    }
}
