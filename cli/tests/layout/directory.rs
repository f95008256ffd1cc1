//! A directory with one image (OCI image layout), as the tests write and read it.

use std::fs;
use std::path::Path;

use coffer_protocol::Digest;
use serde_json::{Value, json};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Writes a blob, and answers its descriptor.
pub(crate) fn blob(directory: &Path, media_type: &str, bytes: &[u8]) -> Value {
    let digest = Digest::of(bytes);
    fs::create_dir_all(directory.join("blobs/sha256")).expect("a folder");
    fs::write(directory.join("blobs/sha256").join(digest.hex()), bytes).expect("a blob");
    json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
}

/// Writes an image with these layers, whose archives are `archives`, called `v1`.
pub(crate) fn image(directory: &Path, layers: &[Value], archives: &[impl AsRef<[u8]>]) {
    let diff_ids: Vec<Digest> = archives.iter().map(|archive| Digest::of(archive.as_ref())).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/d/a"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": [{"created_by": "a test"}],
    });
    let config = blob(directory, "application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": config, "layers": layers, "annotations": {"kept": "yes"},
    });
    let mut entry = blob(directory, MANIFEST, manifest.to_string().as_bytes());
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "v1"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    fs::write(directory.join("index.json"), index.to_string()).expect("an index");
}

/// What a descriptor points to.
pub(crate) fn read(directory: &Path, descriptor: &Value) -> Vec<u8> {
    let digest: Digest = serde_json::from_value(descriptor["digest"].clone()).expect("a digest");
    let bytes = fs::read(directory.join("blobs/sha256").join(digest.hex())).expect("a blob");
    assert_eq!((Digest::of(&bytes), json!(bytes.len())), (digest, descriptor["size"].clone()));
    bytes
}

/// The same, parsed.
pub(crate) fn read_json(directory: &Path, descriptor: &Value) -> Value {
    serde_json::from_slice(&read(directory, descriptor)).expect("JSON")
}

/// The directory's index.
pub(crate) fn index(directory: &Path) -> Value {
    serde_json::from_slice(&fs::read(directory.join("index.json")).expect("an index")).expect("JSON")
}
