//! The node's store of signature objects, one directory of images for each image.
//!
//! ```text
//! <store>/sha256-<hex of the image's manifest or index>/{oci-layout, index.json, blobs/sha256/…}
//! ```
//! What is read is a hint for the guest, which believes none of it: what is broken or missing is left out and named.

use std::path::{Path, PathBuf};

use coffer_image::artefact::Digest;
use coffer_protocol::agent::SignatureObject;

use super::attached::{Budget, Objects, chain};
use super::layout::Layout;

/// How often a reader begins anew because a writer came in between.
const MAX_RETRIES: usize = 8;

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

impl SignatureStore {
    /// The store at `directory`, which need not be there.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the objects of the image with this manifest or index lie.
    pub fn directory_of(&self, image: &Digest) -> PathBuf {
        self.directory.join(image.referrers_tag())
    }

    /// Every signature object of the images with the digests `images`, `most_bytes` of them together at most.
    pub fn read(&self, images: &[Digest], most_bytes: usize) -> Found {
        let Objects { found, left_out, .. } = self.objects(images, Budget::of_bytes(most_bytes));
        let objects = found.into_iter().map(|added| SignatureObject {
            manifest: added.manifest,
            blobs: added.blobs,
            ..Default::default()
        });
        Found { objects: objects.collect(), left_out }
    }

    /// The same, within `budget`.
    pub fn objects(&self, images: &[Digest], budget: Budget) -> Objects {
        let (mut all, mut budget) = (Objects::default(), budget);
        for image in images {
            (all, budget) = self.objects_beside(image, images, (all, budget));
        }
        all
    }

    /// Adds what lies in the directory of `image`. Its files are those of one version of it: if a writer exchanged the
    /// directory and took them away, those of the next are read.
    fn objects_beside(
        &self,
        image: &Digest,
        images: &[Digest],
        so_far: (Objects, Budget),
    ) -> (Objects, Budget) {
        let directory = self.directory_of(image);
        for retry in 0..=MAX_RETRIES {
            if !directory.exists() {
                break;
            }
            let (mut objects, mut budget) = so_far.clone();
            let layout = Layout::open(&directory);
            match &layout {
                Ok(layout) => layout.add_objects(images, &mut budget, &mut objects),
                Err(error) => objects.left_out.push(format!("{}: {}", directory.display(), chain(error))),
            }
            let is_whole = objects.left_out.len() == so_far.0.left_out.len();
            let is_replaced = layout.as_ref().map_or(true, Layout::is_replaced);
            if is_whole || !is_replaced || retry == MAX_RETRIES {
                return (objects, budget);
            }
        }
        so_far
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_image::artefact::MAX_ATTACHED;
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
    fn a_blob_with_other_bytes_is_left_out_and_named_and_the_rest_is_told() {
        let mut place = Place::new();
        let (bad, good) = (place.blob(b"bad"), place.blob(b"good"));
        place.sign(&{ place.image }, &[bad]);
        place.sign(&{ place.image }, &[good]);
        let path = place.directory().join("blobs/sha256").join(Digest::of(b"bad").hex());
        fs::write(path, b"bed").expect("written");
        let found = place.store().read(&[place.image], 1 << 20);
        assert_eq!((found.objects.len(), found.left_out.len()), (1, 1));
        assert_eq!(found.objects[0].blobs, [b"good".to_vec()]);
        assert!(found.left_out[0].contains("hashes to"), "{:?}", found.left_out);
    }

    #[test]
    fn a_manifest_that_is_gone_is_left_out_and_the_rest_is_told() {
        let mut place = Place::new();
        let (bad, good) = (place.blob(b"bad"), place.blob(b"good"));
        place.sign(&{ place.image }, &[bad]);
        place.sign(&{ place.image }, &[good]);
        let gone = place.manifests[0]["digest"].as_str().expect("text").replace("sha256:", "");
        fs::remove_file(place.directory().join("blobs/sha256").join(gone)).expect("removed");
        let found = place.store().read(&[place.image], 1 << 20);
        assert_eq!((found.objects.len(), found.left_out.len()), (1, 1));
    }

    #[test]
    fn a_link_in_the_place_of_a_blob_is_not_followed() {
        let mut place = Place::new();
        let layer = place.blob(b"bundle");
        place.sign(&{ place.image }, &[layer]);
        let path = place.directory().join("blobs/sha256").join(Digest::of(b"bundle").hex());
        let elsewhere = place.root.path().join("elsewhere");
        fs::rename(&path, &elsewhere).expect("moved");
        std::os::unix::fs::symlink(&elsewhere, &path).expect("a link");
        let found = place.store().read(&[place.image], 1 << 20);
        assert_eq!((found.objects.len(), found.left_out.len()), (0, 1));
    }

    #[test]
    fn only_what_is_a_signature_is_told_of_an_artefact() {
        let mut place = Place::new();
        let layer = place.blob(b"bundle");
        let mut other = place.blob(&[b'x'; 5000]);
        other["mediaType"] = json!("application/octet-stream");
        place.sign(&{ place.image }, &[layer, other]);
        let found = place.store().read(&[place.image], 4000);
        assert_eq!(found.objects[0].blobs, [b"bundle".to_vec()]);
    }

    #[test]
    fn an_artefact_with_a_manifest_longer_than_any_real_one_is_left_out() {
        let mut place = Place::new();
        let mut layer = place.blob(b"bundle");
        layer["annotations"] = json!({"long": "x".repeat(super::super::MAX_ARTEFACT_BYTES)});
        place.sign(&{ place.image }, &[layer]);
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
