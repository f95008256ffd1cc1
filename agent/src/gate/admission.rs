//! An image that may run, as far as it is needed once it was judged.

use coffer_image::judge::Admitted;
use coffer_layer::sealed::{ANNOTATION, Sealed, SealedLayer};
use coffer_protocol::Digest;

use super::{GateError, configuration};

/// An image that the policy lets run. Only [`super::Gate::judge`] comes by one.
#[derive(Debug)]
pub(crate) struct Admission {
    record: Record,
    layers: SealedImage,
}

/// Which image it is and who said that it may run, for those who ask later.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Record {
    /// The name that was asked for.
    pub(crate) image: String,
    /// Of its manifest.
    pub(crate) digest: Digest,
    /// The scope whose list decided, as a JSON pointer into the policy.
    pub(crate) rule: String,
    /// Who signed; nobody where the policy takes anything.
    pub(crate) signers: Vec<String>,
}

/// Layers on disks, each under a root hash that is in the signed manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SealedImage(Sealed);

impl Admission {
    /// Holds the configuration against the manifest. Both kinds of image need it: a layer more or less is another image.
    pub(super) fn of(admitted: &Admitted, configuration: &[u8]) -> Result<Self, GateError> {
        let manifest = admitted.manifest();
        configuration::check(manifest, configuration).map_err(GateError::Configuration)?;
        let sealed = manifest.annotations.get(ANNOTATION).ok_or(GateError::NotSealed)?;
        let record = Record {
            image: admitted.image(),
            digest: *admitted.digest(),
            rule: admitted.rule().to_owned(),
            signers: admitted.signers().iter().map(|signer| signer.name.clone()).collect(),
        };
        Ok(Self { record, layers: SealedImage::parse(sealed)? })
    }

    /// Its parts.
    pub(crate) fn into_parts(self) -> (Record, SealedImage) {
        (self.record, self.layers)
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
