//! What a real containerd says of containers that it made, without running any.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use coffer_image::artefact::{Descriptor, Digest, Document};
use coffer_node::images::config::Images;
use coffer_protocol::{StreamHeader, parse_reply};
use coffer_tests::containerd::{Daemon, Layout, Programs, TAG, Version, write_config};
use coffer_tests::images::{Image, Layer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::containerd::{Containerd, ContainerdError};
use super::send::send_one;
use super::{Asked, BoxError, Gate, ImageError, Said, SendError, Streams};

const NAMESPACE: &str = "images";
const APP: &str = "r.example.com/app:v1";
const FILE: &[u8] = b"what the only layer holds";

/// A containerd of its own, which is ended and removed with this.
struct Place {
    layout: Layout,
    programs: Programs,
    daemon: Option<Daemon>,
}

impl Place {
    /// `None`: the machine cannot have one, which is said past the test runner.
    fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            let _ = writeln!(std::io::stderr(), "skipped: {test}: containerd needs root");
            return None;
        }
        let programs = Version::V1_6.programs().unwrap();
        // Above the numbers that nodes of a test process count from 0.
        let number = 1000 + COUNT.fetch_add(1, Ordering::Relaxed);
        let layout = Layout::new(&format!("{TAG}{}-{number}", std::process::id()));
        write_config(&layout, &programs).unwrap();
        let daemon = Some(Daemon::start(&layout, &programs, &[]).unwrap());
        let place = Self { layout, programs, daemon };
        let archive = place.layout.data.join("app.tar");
        let layer = Layer::new().file("file", 0o644, FILE).unwrap();
        let (command, environment) = (vec!["/file".to_owned()], Vec::new());
        let image = Image { name: APP.to_owned(), command, environment, layers: vec![layer] };
        image.write(&archive).unwrap();
        place.ctr(&["images", "import", &archive.display().to_string()]);
        Some(place)
    }

    fn ctr(&self, words: &[&str]) -> String {
        let output = Command::new(self.programs.containerd.join("ctr"))
            .arg("--address")
            .arg(self.layout.socket())
            .args(["--namespace", NAMESPACE])
            .args(words)
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A container that is not run.
    fn create(&self, id: &str) {
        self.ctr(&["containers", "create", "--snapshotter", "native", APP, id]);
    }

    fn asked(&self) -> Asked {
        let containerd = format!("unix://{}", self.layout.socket().display());
        Asked { containerd, namespace: NAMESPACE.to_owned() }
    }

    async fn ask(&self, id: &str, named: Option<&str>) -> Result<Said, ImageError> {
        let gate = Gate::open(&Images::default(), true, self.asked()).unwrap().unwrap();
        let key = "io.kubernetes.cri.image-name".to_owned();
        gate.ask(id, &named.map(|name| (key, name.to_owned())).into_iter().collect::<HashMap<_, _>>()).await
    }

    async fn containerd(&self) -> Containerd {
        let asked = self.asked();
        Containerd::connect(&asked.containerd, &asked.namespace).await.unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.daemon.take().map(Daemon::stop);
        let directories: [PathBuf; 3] =
            [self.layout.pods(), self.layout.run.clone(), self.layout.data.clone()];
        for directory in directories {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

fn only_layer(said: &Said) -> Digest {
    let question = said.message(&coffer_node::images::SignatureStore::new("/nonexistent".as_ref())).unwrap();
    match Document::parse(&question.manifest).unwrap() {
        Document::Manifest(manifest) => manifest.layers[0].digest,
        Document::Index(_) => panic!("an index"),
    }
}

#[tokio::test]
async fn a_containers_image_is_told_by_its_very_bytes() {
    let Some(place) = Place::new() else { return };
    place.create("c");
    let said = place.ask("c", None).await.unwrap();
    assert_eq!(said.reference(), APP);
    assert!(!said.is_sealed());
    let store = coffer_node::images::SignatureStore::new("/nonexistent".as_ref());
    let message = said.message(&store).unwrap();
    assert_eq!(Some(&Digest::of(&message.manifest)), said.digest());
    assert!(message.index.is_empty() && message.signatures.is_empty());
    assert!(String::from_utf8(message.config).unwrap().contains("diff_ids"));
    let mut blob = place.containerd().await.blob(&only_layer(&said), "a layer").await.unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = blob.next().await.unwrap() {
        bytes.extend(piece);
    }
    assert_eq!(Digest::of(&bytes), only_layer(&said));
    assert!(bytes.windows(FILE.len()).any(|window| window == FILE));
}

/// Makes of the image's archive one for two kinds of machines, and imports it; answers the index's digest.
fn import_for_two_machines(place: &Place, name: &str) -> Digest {
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    let layout = place.layout.data.join("layout");
    fs::create_dir(&layout).unwrap();
    let tar = |words: &[&str]| {
        let tarred = Command::new("tar").current_dir(&place.layout.data).args(words).status().unwrap();
        assert!(tarred.success(), "{words:?}");
    };
    tar(&["-xf", "app.tar", "-C", "layout"]);
    let file = layout.join("index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let blob = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(layout.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        digest
    };
    let ours = index["manifests"][0].clone();
    let hex = ours["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let mut other = fs::read(layout.join("blobs/sha256").join(hex)).unwrap();
    other.push(b' ');
    let theirs = json!({
        "mediaType": ours["mediaType"], "digest": blob(&other).to_string(), "size": other.len(),
        "platform": {"os": "linux", "architecture": "riscv64"},
    });
    let inner = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [theirs, ours]}).to_string();
    let digest = blob(inner.as_bytes());
    index["manifests"] = json!([{
        "mediaType": INDEX, "digest": digest.to_string(), "size": inner.len(),
        "annotations": {"io.containerd.image.name": name},
    }]);
    fs::write(&file, index.to_string()).unwrap();
    tar(&["-cf", "two.tar", "-C", "layout", "."]);
    place.ctr(&["images", "import", &place.layout.data.join("two.tar").display().to_string()]);
    digest
}

#[tokio::test]
async fn of_an_image_for_several_machines_index_and_own_manifest_are_told() {
    let Some(place) = Place::new() else { return };
    place.create("single");
    let single = place.ask("single", None).await.unwrap();
    let index = import_for_two_machines(&place, APP);
    place.create("c");
    let said = place.ask("c", None).await.unwrap();
    let store = coffer_node::images::SignatureStore::new("/nonexistent".as_ref());
    let message = said.message(&store).unwrap();
    assert_eq!(Digest::of(&message.index), index);
    assert_eq!(said.digest(), single.digest());
    assert_eq!(Some(&Digest::of(&message.manifest)), said.digest());
}

#[tokio::test]
async fn the_name_that_the_pod_asked_for_counts_if_it_is_the_same_image() {
    let Some(place) = Place::new() else { return };
    place.ctr(&["images", "tag", APP, "docker.io/library/app:latest"]);
    place.create("c");
    assert_eq!(place.ask("c", Some("app")).await.unwrap().reference(), "docker.io/library/app:latest");
    assert_eq!(place.ask("c", Some("r.example.com/other:v1")).await.unwrap().reference(), APP);
}

#[tokio::test]
async fn a_container_without_an_image_is_refused() {
    let Some(place) = Place::new() else { return };
    let root = place.layout.data.join("rootfs");
    fs::create_dir(&root).unwrap();
    place.ctr(&["containers", "create", "--rootfs", &root.display().to_string(), "c"]);
    assert!(matches!(place.ask("c", None).await, Err(ImageError::None { .. })));
}

#[tokio::test]
async fn an_image_that_was_removed_is_named() {
    let Some(place) = Place::new() else { return };
    place.create("c");
    place.ctr(&["images", "remove", APP]);
    assert!(matches!(place.ask("c", None).await, Err(ImageError::Unknown { name, .. }) if name == APP));
}

#[tokio::test]
async fn a_layer_whose_bytes_were_discarded_is_told_with_what_to_do() {
    let Some(place) = Place::new() else { return };
    place.create("c");
    let said = place.ask("c", None).await.unwrap();
    let digest = only_layer(&said);
    place.ctr(&["content", "rm", &digest.to_string()]);
    let containerd = place.containerd().await;
    let found = match containerd.blob(&digest, "a layer").await {
        Ok(mut blob) => blob.next().await.map(drop),
        Err(err) => Err(err),
    };
    let text = found.as_ref().unwrap_err().to_string();
    assert!(matches!(found, Err(ContainerdError::Gone { .. })), "{text}");
    assert!(text.contains("discard_unpacked_layers"), "{text}");
}

/// The guest's end of a stream: what it reads of a blob, and its last word.
#[derive(Clone, Copy)]
enum Guest {
    Takes,
    /// Once of this many bytes, and then all again.
    TakesTwice(u64),
    /// Before the first byte.
    NeverTakes,
    Refuses,
    HangsUp,
}

/// A guest that was sent blobs: their names and digests.
struct Sent {
    guest: Guest,
    blobs: std::sync::Arc<Mutex<Vec<(String, Digest)>>>,
}

#[async_trait]
impl Streams for Sent {
    async fn open(&self, header: &StreamHeader) -> Result<UnixStream, BoxError> {
        if matches!(self.guest, Guest::NeverTakes) {
            let refused = parse_reply("error there is no key").unwrap_err();
            return Err(Box::new(std::io::Error::other(refused)));
        }
        let (host, mut guest) = UnixStream::pair()?;
        let (name, blobs, plays) = (header.to_string(), self.blobs.clone(), self.guest);
        tokio::spawn(async move {
            let mut bytes = Vec::new();
            match plays {
                Guest::Takes => {
                    guest.read_to_end(&mut bytes).await.unwrap();
                    blobs.lock().unwrap().push((name, Digest::of(&bytes)));
                    guest.write_all(b"ok\n").await.unwrap();
                }
                Guest::TakesTwice(size) => {
                    (&mut guest).take(size).read_to_end(&mut bytes).await.unwrap();
                    blobs.lock().unwrap().push((name.clone(), Digest::of(&bytes)));
                    guest.write_all(b"once more\n").await.unwrap();
                    bytes.clear();
                    guest.read_to_end(&mut bytes).await.unwrap();
                    blobs.lock().unwrap().push((name, Digest::of(&bytes)));
                    guest.write_all(b"ok\n").await.unwrap();
                }
                Guest::NeverTakes => {}
                Guest::Refuses => guest.write_all(b"error the layer holds a device\n").await.unwrap(),
                Guest::HangsUp => {}
            }
        });
        Ok(host)
    }
}

/// Sends the only layer of the image to a guest.
async fn sent(place: &Place, guest: Guest) -> (Result<(), ImageError>, Vec<(String, Digest)>, Digest) {
    place.create("c");
    let gate = Gate::open(&Images::default(), true, place.asked()).unwrap().unwrap();
    let said = gate.ask("c", &HashMap::new()).await.unwrap();
    let streams = Sent { guest, blobs: std::sync::Arc::default() };
    let digest = only_layer(&said);
    let outcome = gate.send("c", &said, &[digest], &streams).await;
    let blobs = streams.blobs.lock().unwrap().clone();
    (outcome, blobs, digest)
}

#[tokio::test]
async fn a_wanted_layer_arrives_byte_for_byte_under_its_name() {
    let Some(place) = Place::new() else { return };
    let (outcome, blobs, digest) = sent(&place, Guest::Takes).await;
    outcome.unwrap();
    assert_eq!(blobs, [(format!("layer c {digest}"), digest)]);
}

#[tokio::test]
async fn a_guests_refusal_of_a_layer_is_told_in_its_words() {
    let Some(place) = Place::new() else { return };
    let (outcome, _, _) = sent(&place, Guest::Refuses).await;
    let refused = outcome.unwrap_err();
    assert!(matches!(&refused, ImageError::Send { source: SendError::Refused(_), .. }), "{refused:?}");
    let text = format!("{:#}", anyhow::Error::new(refused));
    assert!(text.contains("the layer holds a device"), "{text}");
}

#[tokio::test]
async fn a_guest_that_hangs_up_is_no_refusal() {
    let Some(place) = Place::new() else { return };
    let (outcome, _, _) = sent(&place, Guest::HangsUp).await;
    assert!(matches!(outcome, Err(ImageError::Send { source: SendError::Broken(_), .. })), "{outcome:?}");
}

#[tokio::test]
async fn a_containerd_that_is_not_there_is_an_error_at_once() {
    let asked = Asked { containerd: "/nonexistent/c.sock".to_owned(), namespace: "n".to_owned() };
    let gate = Gate::open(&Images::default(), true, asked).unwrap().unwrap();
    let text = format!("{:#}", anyhow::Error::new(gate.ask("c", &HashMap::new()).await.unwrap_err()));
    assert!(text.contains("/nonexistent/c.sock"), "{text}");
}

#[tokio::test]
async fn an_encrypted_layer_goes_twice_over_its_stream_when_it_is_wanted_once_more() {
    let Some(place) = Place::new() else { return };
    place.create("c");
    let said = place.ask("c", None).await.unwrap();
    let plain = said.layer(&only_layer(&said)).unwrap();
    let layer = Descriptor { media_type: format!("{}+encrypted", plain.media_type), ..plain.clone() };
    let of = |guest| Sent { guest, blobs: std::sync::Arc::default() };
    let (twice, refuses) = (of(Guest::TakesTwice(layer.size)), of(Guest::Refuses));
    send_one(place.containerd().await, "c", &layer, &twice).await.unwrap();
    let whole = (format!("layer c {}", layer.digest), layer.digest);
    assert_eq!(*twice.blobs.lock().unwrap(), [whole.clone(), whole]);
    let refused = send_one(place.containerd().await, "c", &layer, &refuses).await;
    assert!(matches!(&refused, Err(SendError::Refused(why)) if why.contains("a device")), "{refused:?}");
}

#[tokio::test]
async fn a_guest_that_refuses_a_layer_before_its_first_byte_is_told_in_its_words() {
    let Some(place) = Place::new() else { return };
    let (outcome, _, _) = sent(&place, Guest::NeverTakes).await;
    let refused = outcome.unwrap_err();
    let said = matches!(&refused, ImageError::Send { source: SendError::Refused(why), .. } if why == "there is no key");
    assert!(said, "{refused:?}");
}
