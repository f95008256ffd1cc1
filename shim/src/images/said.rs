//! A container's image as containerd knows it: name, index, manifest and configuration, each by the digest above it.
//!
//! ```text
//! container ── name ── target ── index? ── manifest for this machine ── configuration, layers
//! ```

use std::collections::HashMap;

use coffer_image::artefact::{
    Descriptor, Digest, Document, MAX_MANIFEST_BYTES, Manifest, ManifestError, Reference,
};
use coffer_layer::encrypted::{Envelope, decrypted_type};
use coffer_layer::sealed::{ANNOTATION, Sealed};
use coffer_node::images::{EncryptedLayer, Found, SignatureStore};
use coffer_protocol::agent::Image;

use super::ImageError;
use super::containerd::Containerd;

/// The annotations by which CRI implementations name what the pod asked for.
const NAMES: [&str; 2] = ["io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName"];

/// The longest configuration of an image that is taken.
const MAX_CONFIG_BYTES: usize = 1 << 20;

/// The most bytes of one message to the guest, below ttrpc's 4 MiB, and how many of them signature objects may have.
const MAX_CLAIM: usize = (4 << 20) - (64 << 10);
const MAX_SIGNATURES: usize = 3 << 20;

/// What is said of an image. The guest believes none of it.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    reference: String,
    index: Vec<u8>,
    manifest: Vec<u8>,
    config: Vec<u8>,
    digests: Vec<Digest>,
    parsed: Manifest,
}

impl Said {
    /// Asks containerd about the image of the container `id`, whose specification has `annotations`.
    pub(super) async fn ask(
        containerd: &Containerd,
        id: &str,
        annotations: &HashMap<String, String>,
    ) -> Result<Self, ImageError> {
        let name = containerd.image_of(id).await.map_err(ImageError::Containerd)?;
        if name.is_empty() {
            return Err(ImageError::None { id: id.to_owned() });
        }
        let target = containerd.target_of(&name).await.map_err(ImageError::Containerd)?;
        let target = target.ok_or_else(|| ImageError::Unknown { id: id.to_owned(), name: name.clone() })?;
        let reference = match asked_name(annotations) {
            Some(asked) if is_named(containerd, &asked, &target).await? => asked,
            _ => name,
        };
        let top = read(containerd, &target, MAX_MANIFEST_BYTES, "the image's manifest").await?;
        let (index, manifest) = match parsed(&top, &target)? {
            Document::Manifest(_) => (Vec::new(), top),
            Document::Index(index) => {
                let (os, architecture) = platform();
                let chosen = index.for_platform(os, architecture).ok_or_else(|| ImageError::Platform {
                    name: reference.clone(),
                    platform: format!("{os}/{architecture}"),
                })?;
                let what = "the image's manifest for this machine";
                (top, read(containerd, &chosen.digest, MAX_MANIFEST_BYTES, what).await?)
            }
        };
        let digest = Digest::of(&manifest);
        let Document::Manifest(of) = parsed(&manifest, &digest)? else {
            return Err(ImageError::Nested { index: target, found: digest });
        };
        let what = "the image's configuration";
        let config = read(containerd, &of.config.digest, MAX_CONFIG_BYTES, what).await?;
        let mut digests = vec![digest];
        digests.extend((target != digest).then_some(target));
        Ok(Self { reference, index, manifest, config, digests, parsed: *of })
    }

    /// The name that is told.
    pub(crate) fn reference(&self) -> &str {
        &self.reference
    }

    /// Digest of its manifest.
    pub(crate) fn digest(&self) -> Option<&Digest> {
        self.digests.first()
    }

    /// Whether its manifest says that it is a sealed image.
    pub(crate) fn is_sealed(&self) -> bool {
        self.parsed.annotations.contains_key(ANNOTATION)
    }

    /// The root hashes of a sealed image's files, lowest layer first.
    pub(crate) fn sealed_roots(&self) -> Result<Vec<String>, ImageError> {
        let text = self.parsed.annotations.get(ANNOTATION).map_or("", String::as_str);
        let sealed = Sealed::parse(text)
            .map_err(|source| ImageError::Sealed { name: self.reference.clone(), source })?;
        Ok(sealed.layers().iter().map(|layer| layer.root.to_string()).collect())
    }

    /// The layers that are encrypted, with what they say that the key is called.
    pub(crate) fn encrypted(&self) -> Vec<EncryptedLayer> {
        let encrypted = self.parsed.layers.iter().filter(|layer| decrypted_type(&layer.media_type).is_some());
        let told = encrypted.map(|layer| EncryptedLayer {
            digest: layer.digest.to_string(),
            key: Envelope::parse(&layer.annotations).ok().map(|envelope| envelope.key_id().to_owned()),
        });
        told.collect()
    }

    /// The layer with this digest.
    pub(crate) fn layer(&self, digest: &Digest) -> Option<&Descriptor> {
        self.parsed.layers.iter().find(|layer| layer.digest == *digest)
    }

    /// The message to the guest, with the signature objects that the store has; those that do not fit are logged.
    pub(super) fn message(&self, store: &SignatureStore) -> Result<Image, ImageError> {
        let own = self.reference.len() + self.index.len() + self.manifest.len() + self.config.len();
        let room = MAX_CLAIM.checked_sub(own).ok_or_else(|| ImageError::TooLong {
            name: self.reference.clone(),
            found: own,
            limit: MAX_CLAIM,
        })?;
        let Found { objects, left_out } = store.read(&self.digests, room.min(MAX_SIGNATURES));
        for reason in left_out {
            tracing::warn!(image = self.reference, reason, "a signature object is not shown to the guest");
        }
        Ok(Image {
            reference: self.reference.clone(),
            manifest: self.manifest.clone(),
            index: self.index.clone(),
            config: self.config.clone(),
            signatures: objects,
            ..Default::default()
        })
    }
}

async fn read(
    containerd: &Containerd,
    digest: &Digest,
    limit: usize,
    what: &str,
) -> Result<Vec<u8>, ImageError> {
    containerd.read(digest, limit, what).await.map_err(ImageError::Containerd)
}

/// Whether containerd knows `target` by the name `asked`, too.
async fn is_named(containerd: &Containerd, asked: &str, target: &Digest) -> Result<bool, ImageError> {
    let named = containerd.target_of(asked).await.map_err(ImageError::Containerd)?;
    Ok(named.as_ref() == Some(target))
}

/// The name that the pod asked for, as containerd keeps names.
fn asked_name(annotations: &HashMap<String, String>) -> Option<String> {
    let asked = NAMES.iter().find_map(|key| annotations.get(*key))?;
    Some(asked.parse::<Reference>().ok()?.or_latest().to_string())
}

fn parsed(bytes: &[u8], digest: &Digest) -> Result<Document, ImageError> {
    let document: Result<Document, ManifestError> = Document::parse(bytes);
    document.map_err(|source| ImageError::Manifest { digest: *digest, source })
}

/// What machines of this node are called in an index.
fn platform() -> (&'static str, &'static str) {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    ("linux", architecture)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &str) -> Option<String> {
        asked_name(&HashMap::from([("io.kubernetes.cri.image-name".to_owned(), name.to_owned())]))
    }

    #[test]
    fn the_name_that_a_pod_asked_for_is_looked_up_as_containerd_keeps_it() {
        assert_eq!(asked("busybox"), Some("docker.io/library/busybox:latest".to_owned()));
        assert_eq!(asked("r.example.com/app:v1"), Some("r.example.com/app:v1".to_owned()));
    }

    #[test]
    fn a_name_that_is_none_asks_for_nothing() {
        assert_eq!(asked("no name at all"), None);
        assert_eq!(asked_name(&HashMap::new()), None);
    }
}
