//! `coffer image` on a directory with one image and a signature of it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use base64ct::{Base64, Encoding};
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const NAME: &str = "registry.example.com/app:v1";

/// Writes a blob; answers its descriptor.
fn blob(directory: &Path, media_type: &str, bytes: &[u8]) -> Value {
    let digest = hex::encode(Sha256::digest(bytes));
    let folder = directory.join("blobs/sha256");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join(&digest), bytes).expect("a blob");
    json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()})
}

fn manifest(directory: &Path, document: &Value) -> Value {
    blob(directory, "application/vnd.oci.image.manifest.v1+json", document.to_string().as_bytes())
}

/// An image that `key` signed by cosign's older scheme, and the policy of `trusted`.
fn signed(directory: &Path, key: &SigningKey, trusted: &SigningKey) {
    let config = blob(directory, "application/vnd.oci.image.config.v1+json", b"{}");
    let image = manifest(directory, &json!({"schemaVersion": 2, "config": config, "layers": []}));
    let payload = json!({"critical": {
        "identity": {"docker-reference": "registry.example.com/app"},
        "image": {"docker-manifest-digest": image["digest"]},
        "type": "cosign container image signature",
    }})
    .to_string();
    let signature: Signature = key.sign(payload.as_bytes());
    let mut layer = blob(directory, "application/vnd.dev.cosign.simplesigning.v1+json", payload.as_bytes());
    layer["annotations"] =
        json!({"dev.cosignproject.cosign/signature": Base64::encode_string(signature.to_der().as_bytes())});
    let artefact = manifest(directory, &json!({"schemaVersion": 2, "config": config, "layers": [layer]}));
    let named = |mut entry: Value, name: String| {
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        entry
    };
    let tag = format!("{}.sig", image["digest"].as_str().expect("text").replace(':', "-"));
    let index =
        json!({"schemaVersion": 2, "manifests": [named(image, "v1".to_owned()), named(artefact, tag)]});
    fs::write(directory.join("index.json"), index.to_string()).expect("an index");
    let head = "3059301306072a8648ce3d020106082a8648ce3d030107034200";
    let point = trusted.verifying_key().to_sec1_point(false);
    fs::write(
        directory.join("key.der"),
        [hex::decode(head).expect("hex"), point.as_bytes().to_vec()].concat(),
    )
    .expect("a key");
    let requirement = json!({"type": "sigstoreSigned", "keyPath": "key.der", "signedIdentity": {"type": "matchRepository"}});
    let policy = json!({"default": [{"type": "reject"}], "transports": {"docker": {"registry.example.com": [requirement]}}});
    fs::write(directory.join("policy.json"), policy.to_string()).expect("a policy");
}

fn coffer(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
    command.arg("image").args(arguments).current_dir(directory).output().expect("a run of coffer")
}

fn key(number: u8) -> SigningKey {
    SigningKey::from_slice(&[number; 32]).expect("a key")
}

const VERIFY: [&str; 9] =
    ["verify", "--layout", ".", "--policy", "policy.json", "--name", NAME, "--reference", "v1"];

#[test]
fn a_signed_image_is_admitted() {
    let directory = tempfile::tempdir().expect("a directory");
    signed(directory.path(), &key(1), &key(1));
    let output = coffer(directory.path(), &VERIFY);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with("admitted by /transports/docker/registry.example.com\n"), "{text}");
}

#[test]
fn an_image_signed_by_another_is_refused_with_the_reason() {
    let directory = tempfile::tempdir().expect("a directory");
    signed(directory.path(), &key(2), &key(1));
    let output = coffer(directory.path(), &[&VERIFY[..], &["--json"]].concat());
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((output.status.code(), &said["decision"]), (Some(3), &json!("refused")));
    assert!(
        said["requirements"][0]["reason"].as_str().expect("text").contains("signature: expected"),
        "{said}"
    );
}

#[test]
fn a_manifest_with_a_changed_byte_is_no_verdict() {
    let directory = tempfile::tempdir().expect("a directory");
    signed(directory.path(), &key(1), &key(1));
    let index: Value =
        serde_json::from_slice(&fs::read(directory.path().join("index.json")).expect("an index"))
            .expect("JSON");
    let digest = index["manifests"][0]["digest"].as_str().expect("text").replace("sha256:", "");
    let path = directory.path().join("blobs/sha256").join(digest);
    let changed = [fs::read(&path).expect("a manifest"), b" ".to_vec()].concat();
    fs::write(&path, changed).expect("a manifest");
    let output = coffer(directory.path(), &VERIFY);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the bytes hash to"));
}

#[test]
fn a_policy_says_which_rule_decides() {
    let directory = tempfile::tempdir().expect("a directory");
    signed(directory.path(), &key(1), &key(1));
    let test = |expected: &str| {
        let argument = format!("{NAME}={expected}");
        coffer(directory.path(), &["policy", "test", "--policy", "policy.json", &argument]).status.code()
    };
    assert_eq!((test("/transports/docker/registry.example.com"), test("/default")), (Some(0), Some(3)));
    let explained = coffer(directory.path(), &["policy", "explain", "--policy", "policy.json", "busybox"]);
    assert!(String::from_utf8_lossy(&explained.stdout).contains("nothing runs"));
}

#[test]
fn a_directory_says_what_is_attached() {
    let directory = tempfile::tempdir().expect("a directory");
    signed(directory.path(), &key(1), &key(1));
    let output = coffer(directory.path(), &["inspect", "--layout", ".", "--json"]);
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&said[0]["signatures"], &said[1]["signatures"]), (&json!(0), &json!(1)));
}
