//! An image that may run, as far as it is needed once it was judged.

use std::collections::BTreeSet;
use std::sync::Arc;

use coffer_attestation::handshake::{ImageRecord, ResourceName};
use coffer_attestation::verdict::printable;
use coffer_image::artefact::Descriptor;
use coffer_image::judge::Admitted;
use coffer_layer::encrypted::{Envelope, decrypted_type, placeholder};
use coffer_layer::sealed::{ANNOTATION, Sealed, SealedLayer};
use coffer_layer::unpack::{Compression, Content};
use coffer_protocol::Digest;

use super::error::LayerError;
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
    encryption: Option<Encryption>,
    image: Arc<ImageRecord>,
}

/// What tells apart blobs of one digest that become different files, or files for others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Identity {
    /// Whoever names the digests of the archive, packed and unpacked, could have the archive.
    Plain {
        /// Of the archive, unpacked.
        diff_id: Digest,
    },
    /// What is in it is for the image alone that the verifier was asked with: all that another image could say of the layer is public.
    Encrypted {
        /// Whose it is.
        image: Arc<ImageRecord>,
        /// Of the configuration.
        diff_id: Digest,
    },
}

/// How a layer is encrypted, and what the key that its own is wrapped under is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encryption {
    pub(crate) envelope: Envelope,
    pub(crate) key: ResourceName,
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
            None => {
                let image = Arc::new(record.clone());
                let blob = |layer| Blob::of(layer, image.clone());
                Bytes::Blobs(layers.into_iter().map(blob).collect::<Result<Vec<Blob>, GateError>>()?)
            }
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

impl Encryption {
    /// What cannot be asked for is refused before it is sent.
    fn of(layer: &Descriptor) -> Result<Self, LayerError> {
        let digest = layer.digest;
        let envelope = Envelope::parse(&layer.annotations);
        let envelope = envelope.map_err(|source| LayerError::Envelope { digest, source })?;
        let key = ResourceName::parse(envelope.key_id());
        let key = key.map_err(|source| LayerError::KeyName { digest, source })?;
        Ok(Self { envelope, key })
    }
}

impl Blob {
    /// What could not be unpacked is refused before it is sent.
    fn of((layer, diff_id): (Descriptor, Digest), image: Arc<ImageRecord>) -> Result<Self, GateError> {
        let encryption = match decrypted_type(&layer.media_type) {
            Some(_) => Some(Encryption::of(&layer).map_err(GateError::Layer)?),
            None => None,
        };
        let blob = Self { layer, diff_id, encryption, image };
        Compression::of(blob.media_type()).map_err(|source| GateError::Layer(LayerError::Kind(source)))?;
        Ok(blob)
    }

    /// How it is encrypted, if it is.
    pub(crate) fn encryption(&self) -> Option<&Encryption> {
        self.encryption.as_ref()
    }

    /// Of the archive as it is sent.
    pub(crate) fn digest(&self) -> &Digest {
        &self.layer.digest
    }

    /// Bytes that are sent.
    pub(crate) fn size(&self) -> u64 {
        self.layer.size
    }

    /// How it is packed, once it is decrypted.
    pub(crate) fn media_type(&self) -> &str {
        decrypted_type(&self.layer.media_type).unwrap_or(&self.layer.media_type)
    }

    /// What its bytes should be.
    pub(crate) fn content(&self) -> Content {
        Content::Both { digest: self.layer.digest, diff_id: self.diff_id }
    }

    /// What an encrypted layer's bytes should be once they are decrypted; `digest` was wrapped with its key. `None`: nobody said.
    ///
    /// A configuration that names the placeholder is one for nodes without keys, which unpack that in the layer's place.
    pub(crate) fn decrypted(&self, digest: Option<&Digest>) -> Option<Content> {
        if self.diff_id == Digest::of(&placeholder(&self.layer.digest)) {
            return digest.copied().map(Content::Blob);
        }
        Some(Content::Archive(self.diff_id))
    }

    /// What is shared only with blobs that have the same. An image has one blob of a digest, so its record says how that is encrypted.
    pub(crate) fn identity(&self) -> Identity {
        let diff_id = self.diff_id;
        match self.encryption {
            None => Identity::Plain { diff_id },
            Some(_) => Identity::Encrypted { image: self.image.clone(), diff_id },
        }
    }
}
