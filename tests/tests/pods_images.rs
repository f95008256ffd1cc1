//! Only verified images run: what the guest's gate admits and refuses, with real containerd, real signatures and a node that lies.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use coffer_tests::cri::messages::{ContainerConfig, ImageSpec};
use coffer_tests::images::{Image, Layer, busybox};
use coffer_tests::node::{Events, Node, Pod, container, quoted, sandbox};
use coffer_tests::pod_tests;
use coffer_tests::publish::{Published, flip, key, policy};
use coffer_tests::run::Run;
use coffer_tests::verifier::Initdata;
use serde_json::{Value, json};

pod_tests! {
    coffer_only a_signed_image_runs_and_others_are_refused_with_the_reason;
    coffer_only a_signature_of_a_weaker_scheme_than_the_policys_is_refused;
    coffer_only what_the_node_changed_does_not_run;
    coffer_only a_sealed_image_runs_from_the_very_bytes_that_were_signed;
    coffer_only a_page_that_changes_under_a_running_sealed_image_ends_the_pod;
    coffer_only a_dry_run_tells_what_would_be_refused_and_runs_it;
    coffer_only a_guest_with_a_secure_processor_takes_no_image_without_a_measured_policy;
}

const SIGNED: &str = "coffer.test/trusted/app:1";
const SEALED: &str = "coffer.test/trusted/app:1-sealed";
const UNSIGNED: &str = "coffer.test/trusted/unsigned:1";
const STRANGERS: &str = "coffer.test/trusted/strangers:1";
const INITDATA: &str = "io.coffer.initdata";
/// What makes the stranger's image another one.
const STRANGE: &str = "strange";
/// A file of the image that is longer than what a guest reads to start it.
const LONG: &str = "long";
const LONG_BYTES: usize = 4 << 20;

fn image(name: &str, more: &str) -> Result<Image> {
    let mut image = Image { name: name.to_owned(), ..busybox()? };
    // No page of it is like another one.
    let words = (0..LONG_BYTES as u64 / 8)
        .flat_map(|number| number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    let long: Vec<u8> = words.collect();
    image.layers.push(Layer::new().file("which", 0o644, more)?.file(LONG, 0o644, long)?);
    Ok(image)
}

/// Takes what the owner of `p256.pem` signed.
fn trusting() -> Result<String> {
    Ok(policy("coffer.test/trusted", &key("p256.pub.pem"))?.to_string())
}

/// Puts the policy in force for the node's next pods.
fn configure(node: &Node, dry_run: bool) -> Result<()> {
    configure_with(node, &trusting()?, dry_run)
}

fn configure_with(node: &Node, policy: &str, dry_run: bool) -> Result<()> {
    let path = node.layout.data.join("image-policy.json");
    fs::write(&path, policy)?;
    let (policy, dry_run) = (quoted(&path), dry_run.to_string());
    node.write_coffer_config(&[("image.policy", policy.as_str()), ("image.dry_run", dry_run.as_str())])
}

/// A signed image, with its signatures on the node.
fn signed(node: &Node) -> Result<Published> {
    let published = Published::new(node, image(SIGNED, "signed")?)?;
    published.sign(node, &key("p256.pem"))?;
    published.bring_signatures(node)?;
    published.import(node)?;
    Ok(published)
}

fn of(image: &str, name: &str, command: &[&str]) -> ContainerConfig {
    ContainerConfig { image: Some(ImageSpec { image: image.to_owned() }), ..container(name, command) }
}

fn stays(image: &str, name: &str) -> ContainerConfig {
    of(image, name, &["sleep", "1000"])
}

/// The error of a container that must not start, which has all of `words`.
fn refused(pod: &mut Pod, config: &ContainerConfig, words: &[&str]) -> Result<String> {
    let name = config.metadata.as_ref().map(|it| it.name.clone()).unwrap_or_default();
    let error = pod.run(config).err().with_context(|| format!("{name} started"))?;
    let text = format!("{error:#}");
    let missing: Vec<_> = words.iter().filter(|word| !text.contains(**word)).collect();
    ensure!(missing.is_empty(), "{name}: the error does not say {missing:?}: {text}");
    Ok(text)
}

/// What the layers of the image show when they are stacked rightly.
fn stacked(pod: &Pod, container: &str) -> Result<()> {
    let look = "cat layers/replaced layers/linked; ls layers/emptied; test -e layers/hidden || echo hidden; \
                stat -c %u:%g layers/owned; stat -c %a /tmp; wc -c < /long";
    let seen = pod.sh(container, look)?;
    let expected = format!("highesthighestnew\nhidden\n1000:1000\n1777\n{LONG_BYTES}\n");
    ensure!(seen == expected, "the layers are stacked as {seen:?}, expected was {expected:?}");
    Ok(())
}

fn a_signed_image_runs_and_others_are_refused_with_the_reason(node: &mut Node) -> Result<()> {
    configure(node, false)?;
    signed(node)?;
    Published::new(node, image(UNSIGNED, "unsigned")?)?.import(node)?;
    let strangers = Published::new(node, image(STRANGERS, STRANGE)?)?;
    strangers.sign(node, &key("p384.pem"))?;
    strangers.bring_signatures(node)?;
    strangers.import(node)?;
    let events = Events::watch(node)?;
    let mut pod = Pod::start(node, sandbox(node, "trusting"))?;
    let first = pod.run(&stays(SIGNED, "first"))?;
    stacked(&pod, &first)?;
    ensure!(pod.sh(&first, "echo mine > /which && cat /which")? == "mine\n");
    let second = pod.run(&stays(SIGNED, "second"))?;
    ensure!(pod.sh(&second, "cat /which")? == "signed", "the containers share what they write");
    refused(&mut pod, &stays(UNSIGNED, "unsigned"), &[UNSIGNED, "no signature"])?;
    events.told("/coffer/create-failed", &["permission_denied", UNSIGNED, "no signature"])?;
    refused(&mut pod, &stays(STRANGERS, "strangers"), &[STRANGERS, "signature"])?;
    // The default of the policy, for an image that is in no scope.
    refused(&mut pod, &container("other", &["sleep", "1000"]), &["coffer.test/busybox", "/default"])?;
    // What was refused has changed nothing for what runs.
    stacked(&pod, &second)?;
    pod.remove()
}

/// The policy of [`trusting`], in which `change` was done to the requirement.
fn demanding(change: impl FnOnce(&mut Value)) -> Result<String> {
    let mut policy = policy("coffer.test/trusted", &key("p256.pub.pem"))?;
    change(&mut policy["transports"]["docker"]["coffer.test/trusted"]);
    Ok(policy.to_string())
}

fn a_signature_of_a_weaker_scheme_than_the_policys_is_refused(node: &mut Node) -> Result<()> {
    signed(node)?;
    let certificate = Run::new("openssl").args(["req", "-x509", "-subj", "/C=XX/ST=Y/O=Z/CN=app"]);
    let certificate = certificate.arg("-key").arg(key("p256.pem")).arg("-batch").text()?;
    let encoded = |text: &[u8]| Run::new("base64").arg("-w0").input(text).text();
    let (log, certificate) = (encoded(&fs::read(key("p384.pub.pem"))?)?, encoded(certificate.as_bytes())?);
    let notation = json!({
        "type": "notation",
        "level": "strict",
        "trustStores": [{"type": "ca", "certificateDatas": [certificate]}],
        "trustedIdentities": ["x509.subject: C=XX, ST=Y, O=Z, CN=app"],
    });
    let with_log = demanding(|rule| rule[0]["rekorPublicKeyData"] = json!(log))?;
    let with_notation = demanding(|rule| *rule = json!([notation]))?;
    let with_both = demanding(|rule| *rule = json!([rule[0], notation]))?;
    let cases = [
        ("log", with_log, "found no entry"),
        ("notation", with_notation, "no signature of this kind"),
        ("both", with_both, "no signature of this kind"),
    ];
    for (name, policy, reason) in cases {
        configure_with(node, &policy, false)?;
        let mut pod = Pod::start(node, sandbox(node, name))?;
        refused(&mut pod, &stays(SIGNED, name), &[SIGNED, reason])?;
        pod.remove()?;
    }
    Ok(())
}

/// Where containerd keeps the blob `digest`.
fn blob(node: &Node, digest: &str) -> PathBuf {
    let blobs = node.layout.data.join("root/io.containerd.content.v1.content/blobs/sha256");
    blobs.join(digest.trim_start_matches("sha256:"))
}

fn what_the_node_changed_does_not_run(node: &mut Node) -> Result<()> {
    configure(node, false)?;
    let published = signed(node)?;
    let unsigned = Published::new(node, image(UNSIGNED, "unsigned")?)?;
    unsigned.import(node)?;
    let mut pod = Pod::start(node, sandbox(node, "suspicious"))?;

    // One bit of a layer's blob.
    let manifest = published.manifest()?;
    let layer = manifest["layers"][0]["digest"].as_str().context("a layer without a digest")?.to_owned();
    flip(&blob(node, &layer), 5000)?;
    refused(&mut pod, &stays(SIGNED, "bit"), &[&layer])?;
    flip(&blob(node, &layer), 5000)?;
    let good = pod.run(&stays(SIGNED, "good"))?;
    stacked(&pod, &good)?;

    // Another manifest under the name that was signed.
    node.ctr_in("k8s.io", ["images", "tag", "--force", UNSIGNED, SIGNED]).text()?;
    refused(&mut pod, &stays(SIGNED, "swapped"), &[SIGNED, "no signature"])?;
    pod.remove()
}

fn sealed(node: &Node) -> Result<Published> {
    let sealed = Published::new(node, image(SIGNED, "signed")?)?.sealed(node, SEALED)?;
    sealed.sign(node, &key("p256.pem"))?;
    sealed.bring_signatures(node)?;
    sealed.import(node)?;
    Ok(sealed)
}

fn a_sealed_image_runs_from_the_very_bytes_that_were_signed(node: &mut Node) -> Result<()> {
    configure(node, false)?;
    sealed(node)?;
    let mut pod = Pod::start(node, sandbox(node, "sealed"))?;
    let first = pod.run(&stays(SEALED, "first"))?;
    stacked(&pod, &first)?;
    let second = pod.run(&stays(SEALED, "second"))?;
    stacked(&pod, &second)?;
    let cached = node.coffer_command().args(["layers", "list"]).text()?;
    ensure!(!cached.contains("sha256"), "layers of a sealed image were converted: {cached}");
    pod.remove()
}

/// Everything that the node tells of a pod.
fn report(node: &Node, pod: &Pod) -> Result<String> {
    let path = node.layout.data.join("report.json");
    node.coffer_command().args(["report", &pod.id, "--output"]).arg(&path).text()?;
    Ok(fs::read_to_string(path)?)
}

/// The file in which the node has the sealed image's highest layer.
fn highest_layer(node: &Node) -> Result<PathBuf> {
    let snapshots = node.layout.data.join("root/io.containerd.snapshotter.v1.overlayfs/snapshots");
    let files =
        fs::read_dir(snapshots)?.filter_map(|entry| Some(entry.ok()?.path().join("fs/.coffer/3.erofs")));
    files.into_iter().find(|path| path.exists()).context("no snapshot has the sealed image's files")
}

fn a_page_that_changes_under_a_running_sealed_image_ends_the_pod(node: &mut Node) -> Result<()> {
    configure(node, false)?;
    sealed(node)?;
    let events = Events::watch(node)?;
    let mut pod = Pod::start(node, sandbox(node, "unlucky"))?;
    let main = pod.run(&stays(SEALED, "main"))?;
    let file = highest_layer(node)?;
    // In the middle of the long file, which nobody has read.
    flip(&file, fs::metadata(&file)?.len() / 2)?;
    let read = pod.sh(&main, "cat /long | wc -c");
    ensure!(read.is_err(), "changed bytes were read: {read:?}");
    let ended = pod.wait(&main)?;
    ensure!(ended.exit_code != 0, "the container ended well: {ended:?}");
    let told = report(node, &pod)?;
    ensure!(told.contains("verity"), "the report does not say why the pod ended: {told}");
    events.told("/coffer/machine-ended", &[&pod.id, "verity"])?;
    pod.remove()
}

fn a_dry_run_tells_what_would_be_refused_and_runs_it(node: &mut Node) -> Result<()> {
    configure(node, true)?;
    Published::new(node, image(UNSIGNED, "unsigned")?)?.import(node)?;
    let mut pod = Pod::start(node, sandbox(node, "rehearsal"))?;
    let unsigned = pod.run(&stays(UNSIGNED, "unsigned"))?;
    stacked(&pod, &unsigned)?;
    let told = report(node, &pod)?;
    ensure!(told.contains("no signature"), "the report does not say what would be refused: {told}");
    pod.remove()
}

fn a_guest_with_a_secure_processor_takes_no_image_without_a_measured_policy(node: &mut Node) -> Result<()> {
    configure(node, false)?;
    signed(node)?;
    let simulated = quoted(&node.layout.data.join("simulated"));
    node.write_coffer_config(&[("tee.kind", "\"sim\""), ("tee.simulated_dir", &simulated)])?;
    let with = |name: &str, files: &[(&str, &str)]| {
        let config = sandbox(node, name);
        Pod::start(
            node,
            if files.is_empty() { config } else { Initdata::of(files).annotate(config, INITDATA)? },
        )
    };
    let mut pod = with("unmeasured", &[])?;
    refused(&mut pod, &stays(SIGNED, "none"), &["image-policy.json"])?;
    pod.remove()?;
    let mut pod = with("silent", &[("coffer.toml", "")])?;
    refused(&mut pod, &stays(SIGNED, "none"), &["image-policy.json"])?;
    pod.remove()?;

    let mut pod = with("measured", &[("image-policy.json", &trusting()?)])?;
    let main = pod.run(&stays(SIGNED, "main"))?;
    stacked(&pod, &main)?;
    refused(&mut pod, &container("other", &["sleep", "1000"]), &["coffer.test/busybox", "/default"])?;
    pod.remove()?;

    let broken = with("broken", &[("image-policy.json", r#"{"default":[]}"#)]);
    let text = format!("{:#}", broken.err().context("a pod with a broken policy started")?);
    ensure!(text.contains("/default"), "the error does not say where the policy is wrong: {text}");
    Ok(())
}
