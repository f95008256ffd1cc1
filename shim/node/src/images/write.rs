//! Writes a directory of images: each file beside its place and then renamed, so that a reader sees the old or the new.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coffer_image::artefact::Digest;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde_json::{Value, json};

use super::LayoutError;
use super::attached::Budget;
use super::layout::{INDEX, Layout, REFERENCE_NAME};
use super::signatures::SignatureStore;

/// No writer takes as long.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// A manifest to put into a directory, and what it needs.
#[derive(Debug, Clone)]
pub struct Added {
    /// Its bytes.
    pub manifest: Vec<u8>,
    /// What they are.
    pub media_type: String,
    /// What kind of artefact it is, if it says so.
    pub artifact_type: Option<String>,
    /// Configuration and layers.
    pub blobs: Vec<Vec<u8>>,
    /// Its name in the directory, which is taken from whoever had it.
    pub name: Option<String>,
}

impl Layout {
    /// Makes the empty directory `directory` one of images.
    ///
    /// # Errors
    /// [`LayoutError`]
    pub fn create(directory: &Path) -> Result<Self, LayoutError> {
        let blobs = directory.join("blobs/sha256");
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(&blobs);
        made.map_err(|source| LayoutError::Write { path: blobs, source })?;
        put(&directory.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let index = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [],
        });
        put(&directory.join(INDEX), index.to_string().as_bytes())?;
        Self::open(directory)
    }

    /// Puts a manifest and its blobs into the directory. Members of its index that are not known stay as they are.
    ///
    /// # Errors
    /// [`LayoutError`]
    pub fn put(&self, added: &Added) -> Result<Self, LayoutError> {
        let digest = Digest::of(&added.manifest);
        for bytes in added.blobs.iter().chain([&added.manifest]) {
            put(&self.path(&Digest::of(bytes)), bytes)?;
        }
        let path = self.directory.join(INDEX);
        let read = self.index_bytes()?;
        let broken = |err: serde_json::Error| LayoutError::Read { path: path.clone(), source: err.into() };
        let mut index: Value = serde_json::from_slice(&read).map_err(broken)?;
        let Some(Value::Array(manifests)) = index.get_mut("manifests") else {
            return Err(LayoutError::NoIndex { path });
        };
        manifests.retain(|entry| !gives_way(entry, &digest, added.name.as_deref()));
        manifests.push(entry(added, &digest));
        put(&path, index.to_string().as_bytes())?;
        Self::open(&self.directory)
    }
}

impl SignatureStore {
    /// Makes `objects` what the store has for `image`: those that it had before are gone. Whoever reads meanwhile, or writes
    /// too, sees one or the other.
    ///
    /// # Errors
    /// [`LayoutError`]
    pub fn replace(&self, image: &Digest, objects: &[Added]) -> Result<(), LayoutError> {
        self.sweep();
        let place = self.directory_of(image);
        let aside = beside(&place);
        let written = Layout::create(&aside)
            .and_then(|empty| objects.iter().try_fold(empty, |layout, object| layout.put(object)).map(drop));
        let moved = written.and_then(|()| {
            exchange(&aside, &place).map_err(|source| LayoutError::Write { path: place.clone(), source })
        });
        // What is left aside: the one before, or what could not be finished.
        let _ = fs::remove_dir_all(&aside);
        moved
    }

    /// Adds `objects` to what the store has for `image`, as far as one image may have so many; what has the same name gives
    /// way. Answers how many there are then.
    ///
    /// # Errors
    /// [`LayoutError`]
    pub fn merge(&self, image: &Digest, objects: &[Added]) -> Result<usize, LayoutError> {
        let mut budget = Budget::default();
        objects.iter().for_each(|object| budget.give(object));
        let mut all = objects.to_vec();
        let before = self.objects(std::slice::from_ref(image), budget).found;
        let stays = |old: &Added| {
            let same =
                |new: &Added| new.manifest == old.manifest || (new.name.is_some() && new.name == old.name);
            !objects.iter().any(same)
        };
        all.extend(before.into_iter().filter(stays));
        self.replace(image, &all)?;
        Ok(all.len())
    }

    /// Removes what writers left that were killed.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.directory()) else { return };
        for entry in entries.filter_map(Result::ok) {
            let age = entry.metadata().and_then(|it| it.modified()).ok().and_then(|it| it.elapsed().ok());
            let is_left = entry.file_name().to_string_lossy().starts_with(".sha256-");
            if is_left && age.is_some_and(|age| age > MAX_AGE) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// Whether an entry of the index is the same manifest, or has the name that another one gets.
fn gives_way(entry: &Value, digest: &Digest, name: Option<&str>) -> bool {
    let called =
        entry.pointer("/annotations").and_then(|all| all.get(REFERENCE_NAME)).and_then(Value::as_str);
    let same = entry.get("digest").and_then(Value::as_str) == Some(&digest.to_string());
    (name.is_some() || same) && called == name
}

fn entry(added: &Added, digest: &Digest) -> Value {
    let mut entry =
        json!({"mediaType": added.media_type, "digest": digest.to_string(), "size": added.manifest.len()});
    if let (Some(kind), Some(members)) = (&added.artifact_type, entry.as_object_mut()) {
        members.insert("artifactType".to_owned(), json!(kind));
    }
    if let (Some(name), Some(members)) = (&added.name, entry.as_object_mut()) {
        members.insert("annotations".to_owned(), json!({REFERENCE_NAME: name}));
    }
    entry
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), LayoutError> {
    let aside = beside(path);
    let write = || -> io::Result<()> {
        let mut file = File::create_new(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, path)
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&aside);
        LayoutError::Write { path: path.to_owned(), source }
    })
}

/// Moves `aside` to `place`; what was there is `aside` then.
fn exchange(aside: &Path, place: &Path) -> io::Result<()> {
    let swapped = renameat2(AT_FDCWD, aside, AT_FDCWD, place, RenameFlags::RENAME_EXCHANGE);
    match swapped {
        Err(nix::Error::ENOENT) => match fs::rename(aside, place) {
            // Another made it in the meantime.
            Err(error) if error.raw_os_error() == Some(libc::ENOTEMPTY) => {
                Ok(renameat2(AT_FDCWD, aside, AT_FDCWD, place, RenameFlags::RENAME_EXCHANGE)?)
            }
            moved => moved,
        },
        swapped => Ok(swapped?),
    }
}

/// A name in the same directory that nobody else of this or another process uses.
fn beside(path: &Path) -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.{}-{number}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

    fn added(blob: &[u8], name: Option<&str>) -> Added {
        let descriptor =
            json!({"mediaType": "a/b", "digest": Digest::of(blob).to_string(), "size": blob.len()});
        let manifest = json!({"schemaVersion": 2, "config": descriptor, "layers": []}).to_string();
        Added {
            manifest: manifest.into_bytes(),
            media_type: MANIFEST.to_owned(),
            artifact_type: Some("a/b".to_owned()),
            blobs: vec![blob.to_vec()],
            name: name.map(str::to_owned),
        }
    }

    fn names(layout: &Layout) -> Vec<Option<String>> {
        layout.all().expect("readable").into_iter().map(|stored| stored.name).collect()
    }

    #[test]
    fn what_was_put_is_found_by_its_name() {
        let root = tempfile::tempdir().expect("a directory");
        let layout = Layout::create(root.path()).expect("made").put(&added(b"one", Some("v1"))).expect("put");
        assert_eq!(layout.find(Some("v1")).expect("there").bytes, added(b"one", None).manifest);
        assert_eq!(layout.blob(&Digest::of(b"one"), 3).expect("there"), b"one");
    }

    #[test]
    fn a_name_moves_to_what_is_put_last_and_the_rest_stays() {
        let root = tempfile::tempdir().expect("a directory");
        let layout = Layout::create(root.path()).expect("made");
        let all = [added(b"one", Some("v1")), added(b"two", None), added(b"three", Some("v1"))];
        let layout = all.iter().fold(layout, |layout, one| layout.put(one).expect("put"));
        assert_eq!(names(&layout), [None, Some("v1".to_owned())]);
        assert_eq!(layout.find(Some("v1")).expect("there").bytes, all[2].manifest);
    }

    #[test]
    fn the_same_twice_is_there_once() {
        let root = tempfile::tempdir().expect("a directory");
        let layout = Layout::create(root.path()).expect("made").put(&added(b"one", None)).expect("put");
        assert_eq!(names(&layout.put(&added(b"one", None)).expect("put")), [None]);
    }

    #[test]
    fn a_store_has_what_was_written_last_and_nothing_beside_it() {
        let root = tempfile::tempdir().expect("a directory");
        let (store, image) = (SignatureStore::new(root.path()), Digest::of(b"image"));
        store.replace(&image, &[added(b"one", None), added(b"two", None)]).expect("written");
        store.replace(&image, &[added(b"three", None)]).expect("written");
        let layout = Layout::open(&store.directory_of(&image)).expect("readable");
        assert_eq!(layout.all().expect("readable").len(), 1);
        assert_eq!(fs::read_dir(root.path()).expect("readable").count(), 1);
    }

    /// An artefact with one bundle.
    fn signature(bundle: &[u8], name: Option<&str>) -> Added {
        let kind = "application/vnd.dev.sigstore.bundle.v0.3+json";
        let layer =
            json!({"mediaType": kind, "digest": Digest::of(bundle).to_string(), "size": bundle.len()});
        let manifest = json!({"schemaVersion": 2, "config": layer, "layers": [layer]}).to_string();
        Added { manifest: manifest.into_bytes(), ..added(bundle, name) }
    }

    fn bundles(store: &SignatureStore, image: &Digest) -> Vec<Vec<u8>> {
        let objects = store.objects(&[*image], Budget::default());
        assert_eq!(objects.left_out, Vec::<String>::new());
        objects.found.into_iter().flat_map(|added| added.blobs).collect()
    }

    #[test]
    fn what_is_merged_comes_beside_what_was_there_and_in_the_place_of_its_name() {
        let root = tempfile::tempdir().expect("a directory");
        let (store, image) = (SignatureStore::new(root.path()), Digest::of(b"image"));
        let tag = image.signature_tag();
        store.replace(&image, &[signature(b"one", None), signature(b"two", Some(&tag))]).expect("written");
        let count = store.merge(&image, &[signature(b"three", Some(&tag)), signature(b"one", None)]);
        assert_eq!(count.expect("written"), 2);
        assert_eq!(bundles(&store, &image), [b"three".to_vec(), b"one".to_vec()]);
    }

    #[test]
    fn a_directory_that_another_took_the_place_of_gives_nothing_of_that_one() {
        let root = tempfile::tempdir().expect("a directory");
        let (store, image) = (SignatureStore::new(root.path()), Digest::of(b"image"));
        store.replace(&image, &[signature(b"one", None)]).expect("written");
        let layout = Layout::open(&store.directory_of(&image)).expect("readable");
        store.replace(&image, &[signature(b"one", None), signature(b"two", None)]).expect("written");
        assert!(layout.is_replaced() && layout.blob(&Digest::of(b"one"), 3).is_err());
    }

    #[test]
    fn a_reader_beside_a_writer_finds_one_version_or_the_other() {
        let root = tempfile::tempdir().expect("a directory");
        let (store, image) = (SignatureStore::new(root.path()), Digest::of(b"image"));
        let versions = [b"one".as_slice(), b"two"].map(|bundle| [signature(bundle, None)]);
        store.replace(&image, &versions[0]).expect("written");
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for version in versions.iter().cycle().take(40) {
                    store.replace(&image, version).expect("written");
                }
            });
            while !writer.is_finished() {
                assert_eq!(bundles(&store, &image).len(), 1);
            }
        });
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_after_an_hour() {
        let root = tempfile::tempdir().expect("a directory");
        let (store, image) = (SignatureStore::new(root.path()), Digest::of(b"image"));
        let [old, new] = [".sha256-aa.1-0", ".sha256-aa.2-0"].map(|name| root.path().join(name));
        for path in [&old, &new] {
            fs::create_dir_all(path.join("blobs")).expect("made");
        }
        let before = std::time::SystemTime::now() - MAX_AGE - Duration::from_secs(60);
        File::open(&old).and_then(|it| it.set_modified(before)).expect("an older directory");
        store.replace(&image, &[added(b"one", None)]).expect("written");
        assert_eq!((old.exists(), new.exists()), (false, true));
    }

    #[test]
    fn writers_of_one_image_do_not_disturb_each_other() {
        let root = tempfile::tempdir().expect("a directory");
        let (store, image) = (SignatureStore::new(root.path()), Digest::of(b"image"));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| store.replace(&image, &[added(b"one", None)]).expect("written"));
            }
        });
        let layout = Layout::open(&store.directory_of(&image)).expect("readable");
        assert_eq!(layout.all().expect("readable").len(), 1);
        assert_eq!(fs::read_dir(root.path()).expect("readable").count(), 1);
    }
}
