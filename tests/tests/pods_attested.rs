//! Secrets that a verifier releases to pods, and to no pod that is other than what it knows. The processor is simulated, all
//! else is real: containerd, QEMU, the guest, the verifier's own process, TLS.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use coffer_tests::cri::messages::{ContainerConfig, ContainerMetadata, ImageSpec, KeyValue};
use coffer_tests::images::{Image, Layer, busybox};
use coffer_tests::node::{Node, Pod, container, quoted, sandbox};
use coffer_tests::pod_tests;
use coffer_tests::publish::{Published, flip, key, policy, policy_of};
use coffer_tests::run::Run;
use coffer_tests::verifier::{ANY_IMAGE, AuditLog, Change, Initdata, Reference, Verifier, changed_guest};
use coffer_tests::wait;

pod_tests! {
    coffer_only a_secret_is_released_and_taken_back;
    coffer_only a_container_asks_for_what_the_initdata_lets_it_ask_for;
    coffer_only a_pod_that_is_other_than_what_is_known_gets_no_secret_and_no_start;
    coffer_only a_secret_is_for_one_of_the_two_signers_whose_images_a_policy_takes;
    coffer_only a_verifier_that_is_down_fails_a_start_or_is_waited_for;
    coffer_only an_encrypted_image_runs_with_the_verifiers_key_and_not_without;
}

const OURS: &str = "io.coffer.initdata";
const KATA: &str = "io.katacontainers.config.hypervisor.cc_init_data";

/// Nothing else that is on this machine says so.
const SECRET: &str = "the-horse-is-called-correct-battery";

/// A file with the secret, and strings in the environment without a signature.
const COFFER: &str = "insecure_unsigned_sealed_secrets = true\n\
     [[file]]\nname = \"horse\"\nresource = \"kbs:///acme/names/horse\"\n";
const FILE: &str = "/run/secrets/coffer/horse";

/// `{"version":"0.1.0","type":"vault","provider":"kbs","name":"kbs:///acme/names/horse","provider_settings":{},"annotations":{}}`
const SEALED: &str = "sealed.fakejwsheader.eyJ2ZXJzaW9uIjoiMC4xLjAiLCJ0eXBlIjoidmF1bHQiLCJwcm92aWRlciI6ImticyIsIm5hbWUiOiJrYnM6Ly8vYWNtZS9uYW1lcy9ob3JzZSIsInByb3ZpZGVyX3NldHRpbmdzIjp7fSwiYW5ub3RhdGlvbnMiOnt9fQ.fakesignature";

/// How long a guest may keep what was revoked.
const TAKEN_BACK: Duration = Duration::from_secs(5);

/// A node whose pods have a simulated processor, a verifier, and what it must know to release the secret.
struct Stage {
    verifier: Verifier,
    initdata: Initdata,
    known: Reference,
}

impl Stage {
    /// The verifier runs, knows the guest and keeps the secret.
    fn set(node: &Node, coffer: &str) -> Result<Self> {
        Self::with_images(node, coffer, ANY_IMAGE)
    }

    /// The same, for guests that take the images that `policy` lets them.
    fn with_images(node: &Node, coffer: &str, policy: &str) -> Result<Self> {
        configure(node, None, &[])?;
        let mut verifier = Verifier::new(node)?;
        configure(node, Some(&verifier), &[])?;
        let initdata = Initdata::with_images(&verifier, coffer, policy)?;
        let known = Reference {
            measurement: measure(node, node.guest()?)?,
            initdata: initdata.digest(),
            microcode: 71,
            images_signed_by: None,
        };
        verifier.start()?;
        verifier.know(std::slice::from_ref(&known))?;
        verifier.put("names/horse", SECRET)?;
        Ok(Self { verifier, initdata, known })
    }

    /// Starts a pod that needs the secret.
    fn start(&self, node: &Node, name: &str) -> Result<Pod> {
        Pod::start(node, self.initdata.annotate(sandbox(node, name), OURS)?)
    }

    /// Starts a pod that must not start, for a reason with all of `words`.
    fn refused(&self, node: &Node, name: &str, words: &[&str]) -> Result<()> {
        let error = self.start(node, name).err().with_context(|| format!("{name}: the pod started"))?;
        let text = format!("{error:#}");
        let missing: Vec<_> = words.iter().filter(|word| !text.contains(**word)).collect();
        ensure!(missing.is_empty(), "{name}: the error does not say {missing:?}: {text}");
        Ok(())
    }
}

/// What `coffer measure` says that the processor will report.
fn measure(node: &Node, guest: &Path) -> Result<String> {
    let run = node.coffer_command().args(["measure", "--tee", "sim", "--vcpus", "1", "--guest"]).arg(guest);
    Ok(run.text()?.trim().to_owned())
}

fn configure(node: &Node, verifier: Option<&Verifier>, more: &[(&str, &str)]) -> Result<()> {
    let dir = quoted(&node.layout.data.join("simulated"));
    let address = verifier.map(|verifier| format!("\"{}\"", verifier.address()));
    let mut changes = vec![("tee.kind", "\"sim\""), ("tee.simulated_dir", dir.as_str())];
    changes.extend(address.as_deref().map(|address| ("tee.verifier", address)));
    changes.extend(more);
    node.write_coffer_config(&changes)
}

/// A container that stays, with the secret in its environment.
fn with_variable(name: &str) -> ContainerConfig {
    let mut config = container(name, &["sh", "-c", "test \"$HORSE\" = \"$(cat $FILE)\" && sleep 1000"]);
    let variable = |key: &str, value: &str| KeyValue { key: key.into(), value: value.into() };
    config.envs = vec![variable("HORSE", SEALED), variable("FILE", FILE)];
    config
}

fn a_secret_is_released_and_taken_back(node: &mut Node) -> Result<()> {
    let mut stage = Stage::set(node, COFFER)?;
    let mut pod = stage.start(node, "released")?;
    let plain = pod.run(&container("plain", &["sleep", "1000"]))?;
    ensure!(pod.sh(&plain, &format!("cat {FILE}"))? == SECRET, "the file holds another secret");
    let knows = pod.run(&with_variable("knows"))?;
    ensure!(pod.sh(&knows, "echo $HORSE")? == format!("{SECRET}\n"), "exec sees another secret");
    ensure!(pod.sh(&plain, &format!("echo x > {FILE} || echo read-only"))?.contains("read-only"));
    the_release_is_in_the_log(&stage.verifier)?;
    nothing_readable_is_stored(&stage.verifier)?;

    // A restart loses nothing: secrets, references, what it decided; and the guest keeps its secret meanwhile.
    stage.verifier.stop()?;
    wait::let_pass(Duration::from_secs(3));
    ensure!(pod.sh(&plain, &format!("cat {FILE}"))? == SECRET, "a verifier that is away took a secret back");
    let before = AuditLog::read(&stage.verifier.audit())?.entries().len();
    stage.verifier.start()?;
    let config = stage.initdata.annotate(sandbox(node, "again"), KATA)?;
    let mut again = Pod::start(node, config)?;
    let second = again.run(&container("second", &["sleep", "1000"]))?;
    ensure!(again.sh(&second, &format!("cat {FILE}"))? == SECRET, "after a restart it is another secret");
    ensure!(AuditLog::read(&stage.verifier.audit())?.entries().len() > before, "the log does not go on");
    again.remove()?;

    // It ends as soon as the file is gone, so that nothing but the guest's own time is measured.
    let watch = format!("while test -e {FILE}; do usleep 20000; done");
    let watches = pod.run(&container("watches", &["sh", "-c", &watch]))?;
    stage.verifier.know(&[])?;
    let revoked = Instant::now();
    let ended = [pod.wait(&watches)?.exit_code, pod.wait(&knows)?.exit_code];
    let took = revoked.elapsed();
    ensure!(ended == [0, 137], "who watched the secret and who knows it ended with {ended:?}");
    ensure!(took <= TAKEN_BACK, "the secret was gone after {took:?}");
    let left = pod.sh(&plain, "ls -A /run/secrets/coffer")?;
    ensure!(left.is_empty(), "of the secrets there is still {left}");
    let late =
        pod.run(&with_variable("late")).err().context("a container got a secret that was taken back")?;
    ensure!(format!("{late:#}").contains("taken back"), "{late:#}");
    pod.remove()
}

/// What two of the pod's containers may ask for, and no other.
const ASKING: &str = "[[container]]\nname = \"asks\"\nresources = [\"kbs:///acme/names/*\"]\ntoken = true\n\
     [[container]]\nname = \"modest\"\nresources = [\"kbs:///acme/names/dog\"]\n";
const DOOR: &str = "/run/coffer/secrets.sock";
const HORSE: &str = "/cdh/resource/acme/names/horse";

/// What the container is answered when it asks for `path`.
fn answer(pod: &mut Pod, container: &str, path: &str) -> Result<String> {
    Ok(pod.sh(container, &format!("testbox get {DOOR} '{path}'"))?.trim_end().to_owned())
}

fn a_container_asks_for_what_the_initdata_lets_it_ask_for(node: &mut Node) -> Result<()> {
    let mut stage = Stage::set(node, ASKING)?;
    let mut pod = stage.start(node, "asking")?;
    let [asks, modest, nobody] = ["asks", "modest", "nobody"].map(|name| container(name, &["sleep", "1000"]));
    let (asks, modest, nobody) = (pod.run(&asks)?, pod.run(&modest)?, pod.run(&nobody)?);

    ensure!(answer(&mut pod, &asks, HORSE)? == format!("200 {SECRET}"), "it is not given its secret");
    let token = answer(&mut pod, &asks, "/aa/token?token_type=kbs")?;
    ensure!(token.starts_with("200 {\"token\":\"ey"), "it is not given a token: {token}");
    let none = answer(&mut pod, &asks, "/cdh/resource/acme/names/unicorn")?;
    ensure!(none.starts_with("404 "), "a secret that there is not: {none}");
    let foreign = ["/cdh/resource/other/names/horse", "/aa/evidence?runtime_data=x"];
    for path in foreign {
        let answer = answer(&mut pod, &asks, path)?;
        ensure!(answer.starts_with("403 "), "{path}: {answer}");
    }
    for path in [HORSE, "/aa/token?token_type=kbs"] {
        let answer = answer(&mut pod, &modest, path)?;
        ensure!(answer.starts_with("403 ") && answer.contains("initdata"), "{path}: {answer}");
    }
    let seen = pod.sh(&nobody, &format!("ls {DOOR} 2>&1 || true"))?;
    ensure!(seen.contains("No such file"), "who is not named has a socket: {seen}");
    let kept = pod.sh(&asks, &format!("rm -f {DOOR} 2>&1; touch /run/coffer/x 2>&1; ls /run/coffer"))?;
    ensure!(
        kept.ends_with("secrets.sock\n") && !kept.contains("\nx\n"),
        "the directory can be changed: {kept}"
    );

    // Away, the verifier takes nothing back, and what was never fetched cannot be.
    stage.verifier.stop()?;
    ensure!(
        answer(&mut pod, &asks, HORSE)? == format!("200 {SECRET}"),
        "a verifier that is away took it back"
    );
    let away = answer(&mut pod, &asks, "/cdh/resource/acme/names/cat")?;
    ensure!(away.starts_with("503 "), "with the verifier away: {away}");
    stage.verifier.start()?;

    // It ends with the first answer that is another, so that nothing but the guest's own time is measured.
    let watch = format!(
        "while testbox get {DOOR} {HORSE} | grep -q ^200; do usleep 50000; done; testbox get {DOOR} {HORSE}"
    );
    // The name of a container is its right: a second one of that name is as good as the first.
    let watches = pod.run(&ContainerConfig {
        metadata: container("asks", &[]).metadata.map(|name| ContainerMetadata { attempt: 1, ..name }),
        ..container("watches", &["sh", "-c", &watch])
    })?;
    stage.verifier.know(&[])?;
    let revoked = Instant::now();
    let ended = pod.wait(&watches)?.exit_code;
    let took = revoked.elapsed();
    ensure!(ended == 0, "who watched ended with {ended}");
    ensure!(took <= TAKEN_BACK, "the secret was given for {took:?} after it was revoked");
    let gone = answer(&mut pod, &asks, HORSE)?;
    ensure!(gone.starts_with("410 "), "after revocation: {gone}");
    pod.remove()
}

/// A release is written down, by the token of an attestation that is written down too, and each is proven to be in the tree.
fn the_release_is_in_the_log(verifier: &Verifier) -> Result<()> {
    let log = AuditLog::read(&verifier.audit())?;
    let is = |name: &str, value: &str| {
        let (name, value) = (name.to_owned(), value.to_owned());
        move |entry: &serde_json::Value| entry[&name] == value.as_str()
    };
    let (release, attest) = (is("event", "release"), is("event", "attest"));
    let released = log.entries().iter().position(|entry| release(entry) && entry["outcome"] == "released");
    let released = released.context("no release in the log")?;
    let token = &log.entries()[released]["token"];
    let attested = log.entries().iter().position(|entry| attest(entry) && entry["token"] == *token);
    let attested = attested.context("no attestation for the release in the log")?;
    ensure!(log.entries()[attested]["simulated"] == true, "the log does not say that it is simulated");
    ensure!(log.proves(released) && log.proves(attested), "an entry is not proven");
    Ok(())
}

/// What an attacker with the disk reads of the secret.
fn nothing_readable_is_stored(verifier: &Verifier) -> Result<()> {
    let store = std::fs::read(verifier.store())?;
    let finds = |text: &str| store.windows(text.len()).any(|window| window == text.as_bytes());
    ensure!(!finds(SECRET) && !finds(&SECRET[..12]), "the store holds the secret in plain text");
    Ok(())
}

fn a_pod_that_is_other_than_what_is_known_gets_no_secret_and_no_start(node: &mut Node) -> Result<()> {
    let stage = Stage::set(node, COFFER)?;
    for change in [Change::Kernel, Change::Initrd, Change::CommandLine] {
        let guest = changed_guest(node, change)?;
        let measured = measure(node, &guest)?;
        configure(node, Some(&stage.verifier), &[("paths.guest_dir", &quoted(&guest))])?;
        let name = format!("{change:?}").to_lowercase();
        stage.refused(node, &name, &["reference-measurement", &measured])?;
    }
    configure(node, Some(&stage.verifier), &[])?;
    let other = Stage { initdata: stage.initdata.with_another_byte(), ..stage };
    other.refused(
        node,
        "initdata",
        &["reference-initdata", &other.initdata.digest(), &other.known.initdata],
    )?;
    let stage = Stage { initdata: Initdata::new(&other.verifier, COFFER)?, ..other };

    configure(node, Some(&stage.verifier), &[("tee.insecure_debug", "true")])?;
    stage.refused(node, "debug", &["no-debug must be off, and is on"])?;
    configure(node, Some(&stage.verifier), &[("tee.simulated_microcode", "70")])?;
    stage.refused(node, "old", &["reference-tcb", "microcode=71", "microcode=70"])?;
    configure(node, Some(&stage.verifier), &[])?;

    // The same pod starts when nothing is changed, and not any more when what it is has been struck off.
    let pod = stage.start(node, "known")?;
    pod.remove()?;
    stage.verifier.know(&[Reference { measurement: "00".repeat(48), ..stage.known.clone() }])?;
    stage.refused(node, "revoked", &["reference-measurement", &stage.known.measurement])?;
    let refusals = AuditLog::read(&stage.verifier.audit())?;
    let denied = refusals.entries().iter().filter(|entry| entry["outcome"] == "refused").count();
    ensure!(denied >= 7, "{denied} of seven refusals are in the log");
    Ok(())
}

const OUR_IMAGE: &str = "coffer.test/ours/app:1";
const THEIR_IMAGE: &str = "coffer.test/theirs/app:1";
/// What only guests are given whose every image one of the signers signed.
const FOR_SIGNED: &str = "[[file]]\nname = \"horse\"\nresource = \"kbs:///acme/signed/horse\"\n";

/// An image that the owner of the key signed, with its signature on the node.
fn signed(node: &Node, name: &str, private: &str) -> Result<Published> {
    let mut image = Image { name: name.to_owned(), ..busybox()? };
    image.layers.push(Layer::new().file("which", 0o644, name)?);
    let published = Published::new(node, image)?;
    published.sign(node, &key(private))?;
    published.bring_signatures(node)?;
    published.import(node)?;
    Ok(published)
}

fn of(image: &str, name: &str) -> ContainerConfig {
    let image = Some(ImageSpec { image: image.to_owned() });
    ContainerConfig { image, ..container(name, &["sleep", "1000"]) }
}

fn a_secret_is_for_one_of_the_two_signers_whose_images_a_policy_takes(node: &mut Node) -> Result<()> {
    configure(node, None, &[])?;
    let (ours, theirs) = (signed(node, OUR_IMAGE, "p256.pem")?, signed(node, THEIR_IMAGE, "p384.pem")?);
    let (our_key, their_key) = (key("p256.pub.pem"), key("p384.pub.pem"));
    let policy = policy_of(&[("coffer.test/ours", &our_key), ("coffer.test/theirs", &their_key)])?;
    let (our_name, their_name) = (ours.signer(node, &policy)?, theirs.signer(node, &policy)?);
    let mut verifier = Verifier::new(node)?;
    configure(node, Some(&verifier), &[])?;
    let initdata = Initdata::with_images(&verifier, FOR_SIGNED, &policy.to_string())?;
    verifier.start()?;
    verifier.know(&[Reference {
        measurement: measure(node, node.guest()?)?,
        initdata: initdata.digest(),
        microcode: 71,
        images_signed_by: Some(our_name.clone()),
    }])?;
    verifier.put("signed/horse", SECRET)?;
    let start = |name: &str| Pod::start(node, initdata.annotate(sandbox(node, name), OURS)?);

    let mut pod = start("ours")?;
    let first = pod.run(&of(OUR_IMAGE, "first"))?;
    ensure!(pod.sh(&first, &format!("cat {FILE}"))? == SECRET, "the file holds another secret");

    let mut other = start("theirs")?;
    let error =
        other.run(&of(THEIR_IMAGE, "alone")).err().context("another signer's image got the secret")?;
    let text = format!("{error:#}");
    let words = [
        format!("every image of the guest must be signed by {our_name}"),
        format!("{THEIR_IMAGE} ({}) is signed by {their_name}", theirs.digest),
    ];
    ensure!(words.iter().all(|words| text.contains(words)), "the error does not say {words:?}: {text}");
    other.remove()?;

    // The other signer's image runs beside the first, which has no secret from then on.
    let beside = pod.run(&of(THEIR_IMAGE, "beside"))?;
    for container in [&beside, &first] {
        let left = pod.sh(container, "ls -A /run/secrets/coffer")?;
        ensure!(left.is_empty(), "of the secrets there is still {left}");
    }
    let log = AuditLog::read(&verifier.audit())?;
    let told = |entry: &&serde_json::Value| {
        entry["event"] == "attest" && entry["images"][1]["signers"][0] == *their_name
    };
    let both = log.entries().iter().find(told).context("no attestation with both images in the log")?;
    ensure!(both["images"][0]["signers"][0] == *our_name, "the first image has other signers: {both}");
    let trace = node.coffer_command().args(["trace", &pod.id]).text()?;
    ensure!(trace.contains(&our_name) && trace.contains(&their_name), "the trace names no signers: {trace}");
    pod.remove()
}

fn a_verifier_that_is_down_fails_a_start_or_is_waited_for(node: &mut Node) -> Result<()> {
    let mut stage = Stage::set(node, COFFER)?;
    stage.verifier.stop()?;
    stage.refused(node, "at-once", &["cannot be reached", "could not pass the connection on"])?;

    let patient = Initdata::new(&stage.verifier, &format!("wait_seconds = 40\n{COFFER}"))?;
    let known = Reference { initdata: patient.digest(), ..stage.known.clone() };
    stage.verifier.know(&[known])?;
    let config = patient.annotate(sandbox(node, "patient"), OURS)?;
    let pod = std::thread::scope(|scope| -> Result<Pod> {
        let starting = scope.spawn(|| Pod::start(node, config));
        // Long enough for the guest to have come up and to have found nobody.
        wait::let_pass(Duration::from_secs(15));
        ensure!(!starting.is_finished(), "it did not wait");
        stage.verifier.start()?;
        starting.join().map_err(|_| anyhow::anyhow!("the start panicked"))?
    })?;
    let mut pod = pod;
    let one = pod.run(&container("one", &["sleep", "1000"]))?;
    ensure!(pod.sh(&one, &format!("cat {FILE}"))? == SECRET);
    pod.remove()?;

    // Without a secure processor nobody would vouch for the initdata.
    node.write_coffer_config(&[])?;
    stage.refused(node, "no-processor", &["io.coffer.initdata", "tee.kind"])?;
    let strings =
        Run::new("sh").args(["-c", "cat \"$0\" | tr -c '[:print:]' '\\n' | grep -c horse-is || true"]);
    let found = strings.arg(stage.verifier.store()).text()?;
    ensure!(found.trim() == "0", "the store shows {found} lines of the secret");
    Ok(())
}

/// An image of which the lowest layer holds what nobody without the key may read, and its name when it is encrypted.
const PLAIN: &str = "coffer.test/plain/app:1";
const ENCRYPTED: &str = "coffer.test/encrypted/app:1";
const KEY: &str = "kbs:///acme/image-kek/app";
/// 32 bytes.
const WRAPPING_KEY: &str = "a key of thirty-two bytes, no mo";

/// The image, encrypted and signed; the node has it, its signatures and no key.
fn encrypted(node: &Node) -> Result<Published> {
    let mut image = Image { name: PLAIN.to_owned(), ..busybox()? };
    image.layers.push(Layer::new().file("horse", 0o644, SECRET)?);
    let file = node.layout.data.join("wrapping-key");
    fs::write(&file, WRAPPING_KEY)?;
    let encrypted = Published::new(node, image)?.encrypted(node, ENCRYPTED, (KEY, &file))?;
    encrypted.sign(node, &key("p256.pem"))?;
    encrypted.bring_signatures(node)?;
    encrypted.import(node)?;
    Ok(encrypted)
}

/// The error of a container of the encrypted image, which must not start for a reason with all of `words`.
fn unread(pod: &mut Pod, name: &str, words: &[&str]) -> Result<()> {
    let error = pod.run(&of(ENCRYPTED, name)).err().with_context(|| format!("{name} started"))?;
    let text = format!("{error:#}");
    let missing: Vec<_> = words.iter().filter(|word| !text.contains(**word)).collect();
    ensure!(missing.is_empty(), "{name}: the error does not say {missing:?}: {text}");
    Ok(())
}

fn an_encrypted_image_runs_with_the_verifiers_key_and_not_without(node: &mut Node) -> Result<()> {
    let policy = policy("coffer.test", &key("p256.pub.pem"))?.to_string();
    let stage = Stage::with_images(node, "", &policy)?;
    let published = encrypted(node)?;
    let look = format!("grep -rl {SECRET} {} || true", node.layout.data.join("root").display());
    let found = Run::new("sh").args(["-c", &look]).text()?;
    ensure!(found.is_empty(), "the node can read the image: {found}");

    let mut pod = stage.start(node, "encrypted")?;
    unread(&mut pod, "keyless", &[KEY, "verifier refuses the secret acme/image-kek/app"])?;
    stage.verifier.put("image-kek/app", &WRAPPING_KEY.replace('a', "b"))?;
    unread(&mut pod, "other-key", &[KEY, "wrapped under another key"])?;
    stage.verifier.put("image-kek/app", WRAPPING_KEY)?;

    // One bit of a layer's blob, which nothing but its digest and its HMAC can tell.
    let manifest = published.manifest()?;
    let layer = manifest["layers"][0]["digest"].as_str().context("a layer without a digest")?.to_owned();
    let blobs = node.layout.data.join("root/io.containerd.content.v1.content/blobs/sha256");
    let blob = blobs.join(layer.trim_start_matches("sha256:"));
    flip(&blob, 5000)?;
    unread(&mut pod, "bit", &[&layer, "nothing of it was decrypted"])?;
    flip(&blob, 5000)?;

    let main = pod.run(&of(ENCRYPTED, "main"))?;
    ensure!(pod.sh(&main, "cat /horse")? == SECRET, "the layer holds something else");
    let report = node.layout.data.join("report.json");
    node.coffer_command().args(["report", &pod.id, "--output"]).arg(&report).text()?;
    let told = fs::read_to_string(&report)?;
    ensure!(
        told.contains(KEY) && told.contains(&layer),
        "the record does not say what was encrypted: {told}"
    );
    ensure!(!told.contains(WRAPPING_KEY) && !told.contains(SECRET), "the record has what was encrypted");
    pod.remove()
}
