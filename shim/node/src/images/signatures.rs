//! The node's store of signature objects, one directory of images for each image.
//!
//! ```text
//! <store>/sha256-<hex of the image's manifest or index>/{oci-layout, index.json, blobs/sha256/…}
//! ```
//! What is read is a hint for the guest, which believes none of it: what is broken or missing is left out and named.

use std::path::{Path, PathBuf};

use coffer_image::artefact::{Digest, Document, MAX_ATTACHED, MAX_OBJECT_BYTES};
use coffer_protocol::agent::SignatureObject;

use super::LayoutError;
use super::layout::{Layout, Stored};

/// The store at one directory.
#[derive(Debug, Clone)]
pub struct SignatureStore {
    directory: PathBuf,
}

/// What the store has for an image.
#[derive(Debug, Default)]
pub struct Found {
    /// Signature objects, in the order of the digests that were asked for.
    pub objects: Vec<SignatureObject>,
    /// What was left out and why, for a log.
    pub left_out: Vec<String>,
}

/// Most bytes and most blobs that are still taken.
struct Room {
    bytes: usize,
    blobs: usize,
}

impl SignatureStore {
    /// The store at `directory`, which need not be there.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Where the objects of the image with this manifest or index lie.
    pub fn directory_of(&self, image: &Digest) -> PathBuf {
        self.directory.join(image.referrers_tag())
    }

    /// Every signature object of the images with the digests `images`, `most_bytes` of them together at most.
    pub fn read(&self, images: &[Digest], most_bytes: usize) -> Found {
        let mut found = Found::default();
        let mut room = Room { bytes: most_bytes, blobs: MAX_ATTACHED };
        for image in images {
            let directory = self.directory_of(image);
            if !directory.exists() {
                continue;
            }
            match Layout::open(&directory).and_then(|layout| Ok((layout.attached_to(images)?, layout))) {
                Ok((stored, layout)) => {
                    for stored in stored {
                        found.take(&layout, stored, &mut room);
                    }
                }
                Err(err) => found.left_out.push(format!("{}: {}", directory.display(), chain(&err))),
            }
        }
        found
    }
}

impl Found {
    fn take(&mut self, layout: &Layout, stored: Stored, room: &mut Room) {
        // The image itself may lie beside its signatures.
        let Document::Manifest(manifest) = &stored.document else { return };
        let blobs: Result<Vec<Vec<u8>>, LayoutError> =
            manifest.layers.iter().take(MAX_ATTACHED + 1).map(|layer| layout.object(&layer.digest)).collect();
        let blobs = match blobs {
            Ok(blobs) => blobs,
            Err(err) => return self.left_out.push(format!("{}: {}", stored.digest, chain(&err))),
        };
        let bytes = stored.bytes.len() + blobs.iter().map(Vec::len).sum::<usize>();
        if bytes > room.bytes || blobs.len() > room.blobs {
            let reason = format!(
                "{}: {bytes} bytes in {} blobs are more than the room that is left ({} bytes, {} blobs of at most \
                 {MAX_OBJECT_BYTES})",
                stored.digest,
                blobs.len(),
                room.bytes,
                room.blobs
            );
            return self.left_out.push(reason);
        }
        let manifest = stored.bytes;
        let object = SignatureObject { manifest, blobs, ..Default::default() };
        // Who signed manifest and index at once attached one object to both.
        if !self.objects.contains(&object) {
            room.bytes -= bytes;
            room.blobs -= object.blobs.len();
            self.objects.push(object);
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::fs;

    const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

    /// A store in a directory that is removed with it.
    struct Place {
        root: tempfile::TempDir,
        image: Digest,
        manifests: Vec<Value>,
    }

    impl Place {
        fn new() -> Self {
            let root = tempfile::tempdir().expect("a directory");
            let image = Digest::of(b"image");
            let place = Self { root, image, manifests: Vec::new() };
            fs::create_dir_all(place.directory().join("blobs/sha256")).expect("made");
            place
        }

        fn store(&self) -> SignatureStore {
            SignatureStore::new(self.root.path())
        }

        fn directory(&self) -> PathBuf {
            self.store().directory_of(&self.image)
        }

        fn blob(&self, bytes: &[u8]) -> Value {
            let digest = Digest::of(bytes);
            fs::write(self.directory().join("blobs/sha256").join(digest.hex()), bytes).expect("written");
            json!({"mediaType": BUNDLE, "digest": digest.to_string(), "size": bytes.len()})
        }

        fn sign(&mut self, subject: &Digest, layers: &[Value]) {
            let subject = json!({"mediaType": "a/b", "digest": subject.to_string(), "size": 1});
            let manifest =
                json!({"schemaVersion": 2, "config": self.blob(b"{}"), "layers": layers, "subject": subject});
            let entry = self.blob(manifest.to_string().as_bytes());
            self.manifests.push(entry);
            let index = json!({"schemaVersion": 2, "manifests": self.manifests});
            fs::write(self.directory().join("index.json"), index.to_string()).expect("written");
        }
    }

    #[test]
    fn the_objects_of_an_image_are_found_with_their_blobs() {
        let mut place = Place::new();
        let layer = place.blob(b"bundle");
        place.sign(&{ place.image }, &[layer]);
        let found = place.store().read(&[place.image], 1 << 20);
        assert_eq!(found.objects.len(), 1);
        assert_eq!(found.objects[0].blobs, [b"bundle".to_vec()]);
        assert!(found.left_out.is_empty());
    }

    #[test]
    fn an_image_that_nobody_signed_has_none() {
        let found = Place::new().store().read(&[Digest::of(b"other")], 1 << 20);
        assert!(found.objects.is_empty() && found.left_out.is_empty());
    }

    #[test]
    fn an_object_of_another_image_is_not_told() {
        let mut place = Place::new();
        let layer = place.blob(b"bundle");
        place.sign(&Digest::of(b"other"), &[layer]);
        assert!(place.store().read(&[place.image], 1 << 20).objects.is_empty());
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_named_and_the_rest_is_told() {
        let mut place = Place::new();
        let large = place.blob(&[b'x'; 5000]);
        let small = place.blob(b"bundle");
        place.sign(&{ place.image }, &[large]);
        place.sign(&{ place.image }, &[small]);
        let found = place.store().read(&[place.image], 2000);
        assert_eq!((found.objects.len(), found.left_out.len()), (1, 1));
        assert!(found.left_out[0].contains("5"), "{:?}", found.left_out);
    }

    #[test]
    fn an_object_whose_blob_is_gone_is_left_out_and_named() {
        let mut place = Place::new();
        let layer = place.blob(b"bundle");
        place.sign(&{ place.image }, &[layer]);
        fs::remove_file(place.directory().join("blobs/sha256").join(Digest::of(b"bundle").hex()))
            .expect("removed");
        let found = place.store().read(&[place.image], 1 << 20);
        assert_eq!((found.objects.len(), found.left_out.len()), (0, 1));
    }

    #[test]
    fn a_pipe_in_the_place_of_a_blob_holds_nobody_up() {
        let mut place = Place::new();
        let layer = place.blob(b"bundle");
        place.sign(&{ place.image }, &[layer]);
        let path = place.directory().join("blobs/sha256").join(Digest::of(b"bundle").hex());
        fs::remove_file(&path).expect("removed");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("made");
        assert_eq!(place.store().read(&[place.image], 1 << 20).left_out.len(), 1);
    }

    #[test]
    fn more_blobs_than_are_judged_are_left_out() {
        let mut place = Place::new();
        let layer = place.blob(b"bundle");
        place.sign(&{ place.image }, &vec![layer; MAX_ATTACHED + 1]);
        assert_eq!(place.store().read(&[place.image], 1 << 20).left_out.len(), 1);
    }
}
