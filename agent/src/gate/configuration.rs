//! An image's configuration, as far as it names the layers' contents.

use coffer_attestation::handshake::{JsonError, Limits, read_json};
use coffer_image::artefact::{Descriptor, MAX_MANIFEST_BYTES, Manifest};
use coffer_layer::encrypted::decrypted_type;
use coffer_layer::sealed::MAX_LAYERS;
use coffer_protocol::Digest;
use serde::Deserialize;

const LIMITS: Limits = Limits { bytes: MAX_MANIFEST_BYTES, depth: 32 };

/// Why a configuration is not the image's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigurationError {
    /// Another one than the manifest names.
    #[error("it hashes to {found}, the manifest says {expected}")]
    Digest {
        /// The manifest's.
        expected: Digest,
        /// Of the bytes.
        found: Digest,
    },
    /// It cannot be read.
    #[error("{reason}")]
    Json {
        /// What is wrong.
        reason: JsonError,
    },
    /// Not as many contents as layers.
    #[error("it has {found} layers, the manifest {manifest}: as many are wanted, 1 to {MAX_LAYERS}")]
    Layers {
        /// In the manifest.
        manifest: usize,
        /// In the configuration.
        found: usize,
    },
    /// One archive with two contents.
    #[error("the layer {digest} is there twice, with different contents, sizes or keys")]
    Ambiguous {
        /// Which.
        digest: Digest,
    },
}

#[derive(Deserialize)]
struct Configuration {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

/// Layers with the digests of their unpacked archives, lowest first.
pub(super) type Layers = Vec<(Descriptor, Digest)>;

/// Each layer with the digest of its unpacked archive, lowest first. The configuration must be the manifest's.
pub(super) fn layers(manifest: &Manifest, bytes: &[u8]) -> Result<Layers, ConfigurationError> {
    let (found, expected) = (Digest::of(bytes), manifest.config.digest);
    if found != expected {
        return Err(ConfigurationError::Digest { expected, found });
    }
    let read = read_json(bytes, LIMITS);
    let configuration: Configuration = read.map_err(|reason| ConfigurationError::Json { reason })?;
    let diff_ids = configuration.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() || diff_ids.is_empty() || diff_ids.len() > MAX_LAYERS {
        return Err(ConfigurationError::Layers { manifest: manifest.layers.len(), found: diff_ids.len() });
    }
    let layers: Layers = manifest.layers.iter().cloned().zip(diff_ids).collect();
    for (index, (layer, diff_id)) in layers.iter().enumerate() {
        let same = layers.iter().take(index).find(|(other, _)| other.digest == layer.digest);
        // One archive has one content; a configuration that says otherwise describes no image. How it is encrypted says what the
        // content is, too.
        let encrypted = decrypted_type(&layer.media_type).is_some();
        let differs = |other: &Descriptor| {
            other.size != layer.size
                || encrypted != decrypted_type(&other.media_type).is_some()
                || encrypted
                    && (other.media_type != layer.media_type || other.annotations != layer.annotations)
        };
        if same.is_some_and(|(other, other_id)| other_id != diff_id || differs(other)) {
            return Err(ConfigurationError::Ambiguous { digest: layer.digest });
        }
    }
    Ok(layers)
}
