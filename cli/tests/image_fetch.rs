//! `coffer image fetch` and containerd's verifier beside a registry that fails, or does not answer.

#[path = "served/request.rs"]
mod request;
#[path = "served/server.rs"]
mod server;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use base64ct::{Base64, Encoding};
use coffer_image::artefact::Digest;
use coffer_node::images::{Added, Layout};
use request::Answered;
use serde_json::{Value, json};
use server::Server;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A signed image in a registry.
struct Place {
    root: tempfile::TempDir,
    image: Digest,
    server: Server,
    /// What is asked for by an address with this in it gets this status.
    fault: Arc<Mutex<(String, u16)>>,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let directory = root.path().join("image");
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
            "config": {"mediaType": "a/b", "digest": Digest::of(b"{}"), "size": 2}});
        let added = Added {
            manifest: manifest.to_string().into_bytes(),
            media_type: MANIFEST.to_owned(),
            artifact_type: None,
            blobs: vec![b"{}".to_vec()],
            name: Some("v1".to_owned()),
        };
        Layout::create(&directory).and_then(|layout| layout.put(&added)).expect("a directory");
        keys(root.path());
        let sign = ["image", "sign", "image", "--reference", "v1", "--key", "key.pem"];
        let output = run(root.path(), &sign);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let fault = Arc::new(Mutex::new((String::new(), 0)));
        let (image, broken) = (Digest::of(&added.manifest), fault.clone());
        let server = Server::new(move |asked, _| {
            answered(&directory, &image, asked, &broken.lock().expect("a fault"))
        });
        Self { root, image, server, fault }
    }

    fn breaks(&self, at: &str, status: u16) {
        *self.fault.lock().expect("a fault") = (at.to_owned(), status);
    }

    /// Fetches into the store; answers the exit code and how many objects it then has.
    fn fetch(&self) -> (Option<i32>, usize) {
        let image = format!("docker://{}/a:v1", self.server.address);
        let plain = ["--insecure-plain-http", &self.server.address];
        let code =
            run(self.root.path(), &[&["image", "fetch", &image, "--store", "store"], &plain[..]].concat());
        let store = self.root.path().join("store").join(self.image.referrers_tag());
        let all = Layout::open(&store).expect("a directory").all().expect("readable");
        (code.status.code(), all.len())
    }

    /// Starts the verifier as containerd does, for an image at `address`, with the table `[image]` of `table` and `store`.
    fn pull(&self, address: &str, table: &str, store: &str) -> std::process::Child {
        let root = self.root.path();
        let link = root.join("coffer-image-verifier");
        if !link.exists() {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_coffer"), &link).expect("a link");
        }
        let place = root.display();
        let table = table.replace("POLICY", &format!("policy = \"{place}/policy.json\"\n"));
        let config = root.join(format!("{store}.toml"));
        fs::write(&config, format!("[image]\n{table}signatures = \"{place}/{store}\"\n")).expect("a file");
        let (name, digest) = (format!("{address}/a:v1"), self.image.to_string());
        Command::new(link)
            .args(["-name", &name, "-digest", &digest, "-stdin-media-type", "a/b"])
            .env("COFFER_REGISTRY_PLAIN_HTTP", "127.0.0.1")
            .env("COFFER_CONFIG", config)
            .current_dir(root)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a verifier")
    }

    fn pulled(&self, address: &str, table: &str) -> (Option<i32>, String) {
        let output = self.pull(address, table, "store").wait_with_output().expect("an end");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// A key, and the policy that believes it.
fn keys(root: &Path) {
    let key = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
    let private = [hex::decode("302e020100300506032b657004220420").expect("hex"), vec![9; 32]].concat();
    let text = Base64::encode_string(&private);
    fs::write(
        root.join("key.pem"),
        format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n"),
    )
    .expect("a key");
    let public =
        [hex::decode("302a300506032b6570032100").expect("hex"), key.verifying_key().to_bytes().to_vec()];
    fs::write(root.join("key.der"), public.concat()).expect("a key");
    let identity = json!({"type": "matchDigest"});
    let requirement = json!({"type": "sigstoreSigned", "keyPath": "key.der", "signedIdentity": identity});
    fs::write(root.join("policy.json"), json!({"default": [requirement]}).to_string()).expect("a policy");
}

fn run(root: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
    command.args(arguments).current_dir(root).output().expect("a run")
}

/// What a registry with the directory's files answers.
fn answered(directory: &Path, image: &Digest, asked: &str, fault: &(String, u16)) -> Answered {
    let (at, status) = fault;
    if !at.is_empty() && asked.contains(at) {
        return (*status, Vec::new(), Vec::new());
    }
    let blob = |name: &str| fs::read(directory.join("blobs/sha256").join(name.trim_start_matches("sha256:")));
    let (kind, body) = match asked.rsplit_once('/').expect("an address") {
        (what, _) if what.ends_with("/referrers") => {
            let text = fs::read(directory.join("index.json")).expect("an index");
            let mut index: Value = serde_json::from_slice(&text).expect("JSON");
            let own = json!(image);
            index["manifests"].as_array_mut().expect("a list").retain(|entry| entry["digest"] != own);
            ("application/vnd.oci.image.index.v1+json", Ok(index.to_string().into_bytes()))
        }
        (what, "v1") if what.ends_with("/manifests") => (MANIFEST, blob(&image.hex())),
        (_, name) => (MANIFEST, blob(name)),
    };
    match body {
        Ok(body) => (200, vec![("content-type", kind.to_owned())], body),
        Err(_) => (404, Vec::new(), Vec::new()),
    }
}

#[test]
fn what_cannot_be_fetched_leaves_what_the_store_had_and_is_an_error() {
    let place = Place::new();
    assert_eq!(place.fetch(), (Some(0), 1));
    for (at, status) in [("/referrers/", 500), ("/referrers/", 403), ("/blobs/", 503), (".sig", 429)] {
        place.breaks(at, status);
        assert_eq!(place.fetch(), (Some(1), 1), "{at}");
    }
    // A registry that knows no referrers has them under a tag, and here there is none: that is no error.
    place.breaks("/referrers/", 404);
    assert_eq!(place.fetch(), (Some(0), 0));
    assert!(place.server.heard().iter().all(|line| line.ends_with(" -")), "nobody is known to this registry");
}

#[test]
fn a_pull_fails_for_an_error_only_where_a_policy_refuses() {
    let place = Place::new();
    let address = place.server.address.clone();
    assert_eq!(place.pulled(&address, "POLICY"), (Some(0), String::new()));
    place.breaks("/referrers/", 500);
    assert_eq!(place.pulled(&address, "POLICY").0, Some(1));
    place.breaks("/", 500);
    for table in ["", "POLICYdry_run = true\n"] {
        let (code, error) = place.pulled(&address, table);
        assert_eq!(code, Some(0));
        assert!(error.contains("answers 500"), "{error}");
    }
    fs::write(place.root.path().join("policy.json"), "{").expect("a policy");
    let (code, error) = place.pulled(&address, "POLICYdry_run = true\n");
    assert!(code == Some(0) && error.contains("policy.json"), "{error}");
}

#[test]
fn a_registry_that_does_not_answer_keeps_out_what_the_store_does_not_know() {
    let place = Place::new();
    let address = &place.server.address;
    assert_eq!(place.fetch(), (Some(0), 1));
    place.breaks("/referrers/", 0);
    let known = place.pull(address, "POLICY", "store");
    let unknown = place.pull(address, "POLICY", "empty");
    let nobody_asks = place.pull(address, "", "other");
    let codes = [known, unknown, nobody_asks]
        .map(|child| child.wait_with_output().expect("an end"))
        .map(|output| (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()));
    assert_eq!(codes.each_ref().map(|(code, _)| *code), [Some(0), Some(1), Some(0)], "{codes:?}");
    assert!(codes[0].1.contains("admitted by /default"), "{codes:?}");
}
