//! `coffer image encrypt` on a directory with one image, and what its layers are then for guests and for nodes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use coffer_layer::encrypted::{Envelope, KEY_ANNOTATION, OPTIONS_ANNOTATION, placeholder};
use coffer_protocol::Digest;
use directory::{blob, index, read, read_json};
use serde_json::{Value, json};

#[path = "layout/directory.rs"]
mod directory;

const KEY: &str = "kbs:///acme/image-kek/app";
const WRAPPING_KEY: [u8; 32] = [9; 32];
const GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// With what builders say of a layer.
fn annotated(directory: &Path, media_type: &str, bytes: &[u8]) -> Value {
    let mut layer = blob(directory, media_type, bytes);
    let digest = Digest::of(bytes);
    layer["annotations"] = json!({
        "containerd.io/uncompressed": digest,
        "containerd.io/snapshot/stargz/toc.digest": digest,
        "io.github.containers.zstd-chunked.manifest-checksum": digest,
    });
    layer
}

/// An image of three layers, of which the first and the last are the same.
fn image(place: &Path, media_type: &str) {
    let archives: [&[u8]; 3] = [b"secret of the lowest layer", b"another", b"secret of the lowest layer"];
    directory::image(place, &archives.map(|layer| annotated(place, media_type, layer)), &archives);
}

fn coffer(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
    command.current_dir(directory).arg("image").args(arguments).output().expect("a run of coffer")
}

fn encrypt(directory: &Path, key: &str) -> Output {
    coffer(directory, &["encrypt", "plain", "--to", "encrypted", "--key", key])
}

/// With an image and the key in a file.
fn place(media_type: &str) -> tempfile::TempDir {
    let place = tempfile::tempdir().expect("a directory");
    image(&place.path().join("plain"), media_type);
    fs::write(place.path().join("key"), WRAPPING_KEY).expect("a key");
    place
}

#[test]
fn an_encrypted_image_has_layers_that_only_the_key_opens_and_placeholders_for_nodes() {
    let place = place(GZIP);
    let output = encrypt(place.path(), &format!("{KEY}=key"));
    assert!(output.status.success(), "{output:?}");
    let directory = place.path().join("encrypted");
    let entry = &index(&directory)["manifests"][0];
    assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "encrypted");
    let manifest = read_json(&directory, entry);
    assert_eq!(manifest["annotations"]["kept"], "yes");
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!((layers.len(), &layers[0]), (3, &layers[2]));
    let config = read_json(&directory, &manifest["config"]);
    assert_eq!(
        (&config["config"]["Cmd"][0], config["history"].as_array().map(Vec::len)),
        (&json!("/d/a"), Some(1))
    );

    for (layer, plain) in layers.iter().zip([&b"secret of the lowest layer"[..], b"another"]) {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip+encrypted");
        let bytes = read(&directory, layer);
        let annotations: BTreeMap<String, String> =
            serde_json::from_value(layer["annotations"].clone()).unwrap();
        // Nothing that was said of the plaintext is said any more.
        let mut names = [KEY_ANNOTATION, OPTIONS_ANNOTATION];
        names.sort_unstable();
        assert!(annotations.keys().eq(names), "{annotations:?}");
        let envelope = Envelope::parse(&annotations).unwrap();
        assert_eq!(envelope.key_id(), KEY);
        let key = envelope.open(&WRAPPING_KEY).unwrap();
        assert_eq!(key.digest(), Some(&Digest::of(plain)));
        let authentic = key.authenticate(&mut Cursor::new(&bytes), bytes.len() as u64, &Digest::of(&bytes));
        let mut found = Vec::new();
        authentic.unwrap().decrypt(bytes.as_slice()).read_to_end(&mut found).unwrap();
        assert_eq!(found, plain);
    }
    let places = layers.iter().map(|layer| Digest::of(&placeholder(&Digest::of(&read(&directory, layer)))));
    assert_eq!(config["rootfs"]["diff_ids"], json!(places.collect::<Vec<_>>()));
}

#[test]
fn what_a_node_unpacks_is_what_the_configuration_says() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
    let command = command.args(["image", "placeholder"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("a run of coffer");
    let blob = vec![3; 3 << 20];
    child.stdin.take().unwrap().write_all(&blob).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, placeholder(&Digest::of(&blob)));
}

#[test]
fn a_key_that_is_none_is_refused_with_the_reason() {
    let place = place(GZIP);
    fs::write(place.path().join("text"), "00".repeat(32)).unwrap();
    for (key, reason) in [
        ("key", "kbs:///acme/image-kek/web=FILE"),
        ("kbs://host/a/b/c=key", "names no secret"),
        ("kbs:///a/b=key", "names no secret"),
        ("kbs:///a/b/c=none", "reading none"),
        ("kbs:///a/b/c=text", "text has 33 bytes or more: a key has 32"),
    ] {
        let output = encrypt(place.path(), key);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && text.contains(reason), "{key}: {text}");
    }
    assert!(!place.path().join("encrypted").exists());
}

#[test]
fn an_image_that_is_encrypted_already_is_refused() {
    let place = place("application/vnd.oci.image.layer.v1.tar+encrypted");
    let output = encrypt(place.path(), &format!("{KEY}=key"));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && text.contains("is encrypted"), "{text}");
}

#[test]
fn a_layer_that_is_not_what_its_digest_says_is_not_encrypted() {
    let place = place(GZIP);
    let path = place.path().join("plain/blobs/sha256").join(Digest::of(b"another").hex());
    fs::write(path, b"anothes").unwrap();
    let output = encrypt(place.path(), &format!("{KEY}=key"));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && text.contains("the directory is damaged"), "{text}");
}
