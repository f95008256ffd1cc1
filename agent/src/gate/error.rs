//! Why an image may not run.

use coffer_attestation::handshake::{ImagesError, SealedSecretError};
use coffer_image::artefact::{AttachedError, ManifestError, ReferenceError, SubjectError};
use coffer_image::judge::Refusal;
use coffer_image::policy::PolicyError;
use coffer_layer::encrypted::EnvelopeError;
use coffer_layer::sealed::SealedError;
use coffer_layer::unpack::UnpackError;
use coffer_protocol::Digest;

use super::POLICY_ENTRY;
use super::configuration::ConfigurationError;

/// Why an image may not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GateError {
    /// The policy itself.
    #[error("the image policy in {place} cannot be used")]
    Policy {
        /// Where it came from.
        place: &'static str,
        /// What is wrong with it.
        source: PolicyError,
    },
    /// No policy where there has to be one.
    #[error(
        "the pod's initdata has no image policy, so no image may run: put one into its entry {POLICY_ENTRY}; with the default \
         [{{\"type\": \"insecureAcceptAnything\"}}] every image may"
    )]
    NoPolicy,
    /// A container whose image was not judged.
    #[error("its image was not judged: AdmitImage comes before CreateContainer, once for each container")]
    NotJudged,
    /// The name of the image.
    #[error("the image's name cannot be read")]
    Reference(#[source] ReferenceError),
    /// Manifest and index.
    #[error("what the node sent is not the image")]
    Subject(#[source] SubjectError),
    /// The manifest of a signature object.
    #[error("signature object {place} has no manifest of an artefact")]
    SignatureManifest {
        /// Counted from 0.
        place: usize,
        /// What is wrong with it; nothing: it is an index.
        #[source]
        source: Option<ManifestError>,
    },
    /// A signature object.
    #[error("signature object {place} cannot be taken")]
    Signature {
        /// Counted from 0.
        place: usize,
        /// What is wrong with it.
        source: AttachedError,
    },
    /// Its configuration.
    #[error("the image's configuration cannot be used")]
    Configuration(#[source] ConfigurationError),
    /// What the manifest says of sealed layers.
    #[error("what the manifest says of sealed layers cannot be used")]
    Sealed(#[source] SealedError),
    /// A layer that cannot be unpacked.
    #[error("the image cannot be unpacked")]
    Layer(#[source] LayerError),
    /// It cannot be remembered.
    #[error("the pod has to remember each image that it was let run, and this one cannot be")]
    Record(#[source] ImagesError),
    /// The policy says no.
    #[error(transparent)]
    Refused(Refusal),
}

/// Why a layer is refused before it is sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayerError {
    /// Of a kind that is not unpacked.
    #[error(transparent)]
    Kind(UnpackError),
    /// Not encrypted as it would have to be.
    #[error("the encrypted layer {digest} cannot be decrypted")]
    Envelope {
        /// Of the encrypted blob.
        digest: Digest,
        /// What is wrong.
        source: EnvelopeError,
    },
    /// A key that nobody can be asked for.
    #[error("the key of the encrypted layer {digest} cannot be asked for")]
    KeyName {
        /// Of the encrypted blob.
        digest: Digest,
        /// What is wrong.
        source: SealedSecretError,
    },
}
