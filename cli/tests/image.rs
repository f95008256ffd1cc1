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

/// An image that nobody signed: its configuration and its manifest.
fn image(directory: &Path) -> [Value; 2] {
    let config = blob(directory, "application/vnd.oci.image.config.v1+json", b"{}");
    let image = manifest(directory, &json!({"schemaVersion": 2, "config": config, "layers": []}));
    let mut named = image.clone();
    named["annotations"] = json!({"org.opencontainers.image.ref.name": "v1"});
    fs::write(directory.join("index.json"), json!({"schemaVersion": 2, "manifests": [named]}).to_string())
        .expect("an index");
    [config, image]
}

/// An image that `key` signed by cosign's older scheme, and the policy of `trusted`.
fn signed(directory: &Path, key: &SigningKey, trusted: &SigningKey) {
    let [config, image] = image(directory);
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
    trust(
        directory,
        &[hex::decode(head).expect("hex"), point.as_bytes().to_vec()].concat(),
        "matchRepository",
    );
}

/// The policy that believes `key` (SubjectPublicKeyInfo).
fn trust(directory: &Path, key: &[u8], identity: &str) {
    fs::write(directory.join("key.der"), key).expect("a key");
    let requirement =
        json!({"type": "sigstoreSigned", "keyPath": "key.der", "signedIdentity": {"type": identity}});
    let policy = json!({"default": [{"type": "reject"}], "transports": {"docker": {"registry.example.com": [requirement]}}});
    fs::write(directory.join("policy.json"), policy.to_string()).expect("a policy");
}

/// PKCS #8 of a key on P-256, and its public half; those of a key on Ed25519.
fn pairs() -> [(Vec<u8>, Vec<u8>); 2] {
    let head = hex::decode(
        "304102010030130607 2a8648ce3d020106082a8648ce3d030107042730250201010420".replace(' ', ""),
    );
    let point = key(9).verifying_key().to_sec1_point(false);
    let public = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").expect("hex");
    let curve = [head.expect("hex"), vec![9; 32]].concat();
    let other = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
    let seed = [hex::decode("302e020100300506032b657004220420").expect("hex"), vec![9; 32]].concat();
    let info =
        [hex::decode("302a300506032b6570032100").expect("hex"), other.verifying_key().to_bytes().to_vec()];
    [(curve, [public, point.as_bytes().to_vec()].concat()), (seed, info.concat())]
}

fn pem(der: &[u8]) -> String {
    format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        Base64::encode_string(der)
            .as_bytes()
            .chunks(64)
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect::<Vec<_>>()
            .join("\n")
    )
}

/// Signs with each kind of key, and answers what the policy then says of the image.
fn signed_by_us(options: &[&str], identity: &str) -> Vec<(Option<i32>, Option<i32>)> {
    let judged = |(private, public): &(Vec<u8>, Vec<u8>)| {
        let directory = tempfile::tempdir().expect("a directory");
        image(directory.path());
        trust(directory.path(), public, identity);
        fs::write(directory.path().join("key.pem"), pem(private)).expect("a key");
        let before = coffer(directory.path(), &VERIFY).status.code();
        let sign = ["sign", ".", "--key", "key.pem", "--reference", "v1"];
        let output = coffer(directory.path(), &[&sign[..], options].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (before, coffer(directory.path(), &VERIFY).status.code())
    };
    pairs().iter().map(judged).collect()
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
fn what_we_sign_is_admitted_and_was_not_before() {
    assert_eq!(signed_by_us(&[], "matchDigest"), [(Some(3), Some(0)); 2]);
}

#[test]
fn what_we_sign_by_the_older_scheme_is_admitted_under_its_very_name() {
    let all = signed_by_us(&["--tag-scheme", "--name", NAME], "matchExact");
    assert_eq!(all, [(Some(3), Some(0)); 2]);
}

#[test]
fn a_second_signer_leaves_the_first_ones_signature_there() {
    for options in [&["--tag-scheme", "--name", NAME][..], &[]] {
        let directory = tempfile::tempdir().expect("a directory");
        image(directory.path());
        for (private, _) in pairs() {
            fs::write(directory.path().join("key.pem"), pem(&private)).expect("a key");
            let sign = ["sign", ".", "--key", "key.pem", "--reference", "v1"];
            assert!(coffer(directory.path(), &[&sign[..], options].concat()).status.success());
        }
        let output = coffer(directory.path(), &["inspect", "--layout", ".", "--json"]);
        let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let signatures = said.as_array().expect("a list").iter().filter_map(|one| one["signatures"].as_u64());
        assert_eq!(signatures.sum::<u64>(), 2, "{said}");
    }
}

#[test]
fn signatures_that_cannot_be_read_are_not_taken_for_none() {
    let directory = tempfile::tempdir().expect("a directory");
    signed(directory.path(), &key(1), &key(1));
    fs::write(directory.path().join("key.pem"), pem(&pairs()[0].0)).expect("a key");
    let index = fs::read(directory.path().join("index.json")).expect("an index");
    let entries: Value = serde_json::from_slice(&index).expect("JSON");
    let digest = entries["manifests"][1]["digest"].as_str().expect("text").replace("sha256:", "");
    fs::write(directory.path().join("blobs/sha256").join(digest), b"{}").expect("a manifest");
    let sign = ["sign", ".", "--key", "key.pem", "--reference", "v1", "--tag-scheme", "--name", NAME];
    let output = coffer(directory.path(), &sign);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("reading the signatures that are there"));
    assert_eq!(fs::read(directory.path().join("index.json")).expect("an index"), index);
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
