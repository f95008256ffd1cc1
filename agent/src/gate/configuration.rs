//! An image's configuration, as far as it names the layers' contents.

use coffer_attestation::handshake::{JsonError, Limits, read_json};
use coffer_image::artefact::{MAX_MANIFEST_BYTES, Manifest};
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
}

#[derive(Deserialize)]
struct Configuration {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

/// Holds the configuration against the manifest that names it.
pub(super) fn check(manifest: &Manifest, bytes: &[u8]) -> Result<(), ConfigurationError> {
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
    Ok(())
}
