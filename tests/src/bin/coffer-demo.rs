//! `cargo demo`: from nothing to a pod in a virtual machine of its own, and back to nothing.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use coffer_tests::artefacts;
use coffer_tests::containerd::{Runtime, Version};
use coffer_tests::cri::messages::{ContainerConfig, ImageSpec};
use coffer_tests::images::{Image, Layer, busybox};
use coffer_tests::node::{Node, Pod, container, on_node, sandbox};
use coffer_tests::publish::{Published, key, policy_of};
use coffer_tests::run::Run;
use coffer_tests::verifier::{Change, Initdata, Reference, Verifier, changed_guest};
use coffer_tests::wait;

/// Whose images the pod with the secret takes: those of one signer below the first name, of another below the second. The secret
/// is for the first alone.
const SCOPE: &str = "coffer.test/demo";
const OTHERS_SCOPE: &str = "coffer.test/others";
const SEALED: &str = "coffer.test/demo/signed:1";
const TWIN: &str = "coffer.test/demo/unsigned:1";
const OTHERS: &str = "coffer.test/others/signed:1";

/// Installs what is missing, builds everything, runs a pod of two containers in a micro-VM, has a verifier release a secret to
/// another one, and removes every trace of it.
#[derive(Parser)]
struct Arguments {
    /// Which containerd
    #[arg(long, value_enum, default_value_t = Choice::V1_7)]
    containerd: Choice,
}

#[derive(Clone, Copy, ValueEnum)]
enum Choice {
    /// Debian 12's
    #[value(name = "1.6")]
    V1_6,
    /// Debian 13's
    #[value(name = "1.7")]
    V1_7,
    /// The rolling release's
    #[value(name = "2")]
    V2,
}

fn main() -> ExitCode {
    let start = Instant::now();
    match demonstrate(Arguments::parse().containerd) {
        Ok(()) => {
            println!(
                "\nNothing of it is left; packages and kernel stay in the cache for the next time. {} s.",
                start.elapsed().as_secs()
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("coffer-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demonstrate(choice: Choice) -> Result<()> {
    let version = match choice {
        Choice::V1_6 => Version::V1_6,
        Choice::V1_7 => Version::V1_7,
        Choice::V2 => Version::V2,
    };
    println!("1. Packages, programs, guest image, a private containerd");
    on_node(version, Runtime::Coffer, show)
}

fn show(node: &mut Node) -> Result<()> {
    let who = node.cri().version()?;
    println!("   {} {} in {}", who.runtime_name, who.runtime_version, node.layout.run.display());
    println!("2. A pod of two containers");
    let start = Instant::now();
    let mut pod = Pod::start(node, sandbox(node, "demo"))?;
    let server = pod.run(&container("server", &["testbox", "serve", "0.0.0.0:8080", "hello"]))?;
    let client = pod.run(&container("client", &["sleep", "1000"]))?;
    let address = pod.cri.sandbox_status(&pod.id)?.network.context("the pod has no network")?.ip;
    println!("   pod {} at {address}, {} ms", &pod.id[..12], start.elapsed().as_millis());
    println!("   server {}", &server[..12]);
    println!("   client {}", &client[..12]);
    show_kernels(&pod, &client)?;
    show_network(&pod, &client, &address)?;
    show_trace(node, &pod)?;
    pod.remove()?;
    show_secret(node)?;
    println!("10. Everything is removed");
    wait::until_true("the node to be clean", Duration::from_secs(5), || node.added().is_empty())?;
    println!("   no process, link, mount, cgroup, socket, loop device or file of the pod is left");
    Ok(())
}

/// The busybox image with a file of its own.
fn with_a_name(name: String) -> Result<Image> {
    let mut image = busybox()?;
    image.layers.push(Layer::new().file("name", 0o644, name.as_str())?);
    Ok(Image { name, ..image })
}

/// Such an image, sealed, under this name in the node's containerd.
fn published(node: &Node, name: &str) -> Result<Published> {
    let sealed = Published::new(node, with_a_name(format!("{name}-plain"))?)?.sealed(node, name)?;
    sealed.import(node)?;
    Ok(sealed)
}

fn of(name: &str, image: &str) -> ContainerConfig {
    let image = Some(ImageSpec { image: image.to_owned() });
    ContainerConfig { image, ..container(name, &["sleep", "1000"]) }
}

fn show_kernels(pod: &Pod, client: &str) -> Result<()> {
    println!("3. Its kernel is not the node's");
    let inside = pod.sh(client, "cat /proc/version")?;
    let outside = std::fs::read_to_string("/proc/version")?;
    println!("   in the pod:  {}\n   on the node: {}", inside.trim(), outside.trim());
    ensure!(inside != outside, "the pod runs on the node's kernel");
    Ok(())
}

fn show_network(pod: &Pod, client: &str, address: &str) -> Result<()> {
    println!("4. One loopback for both containers, one address for the node");
    let inside = pod.sh(client, "testbox ask 127.0.0.1:8080 'from the other container'")?;
    let outside =
        Run::new(artefacts::testbox()?).args(["ask", &format!("{address}:8080"), "from the node"]).text()?;
    println!("   {}\n   {}", inside.trim(), outside.trim());
    Ok(())
}

fn show_trace(node: &Node, pod: &Pod) -> Result<()> {
    println!("5. Where the time of its start went");
    let run = node.coffer_command();
    let table = run.args(["trace", &pod.id]).text()?;
    table.lines().for_each(|line| println!("   {line}"));
    Ok(())
}

/// A secret that is released because the evidence verifies, and because who signed what runs in the guest is part of it; and is
/// not where another signer's image was let run, or one byte of what boots is another.
fn show_secret(node: &Node) -> Result<()> {
    println!("6. A signed and sealed image, and a secret that is released for images of its signer alone");
    println!("   (released because the guest's evidence verifies; the processor is SIMULATED)");
    let policy = policy_of(&[(SCOPE, &key("p256.pub.pem")), (OTHERS_SCOPE, &key("p384.pub.pem"))])?;
    let sealed = published(node, SEALED)?;
    sealed.sign(node, &key("p256.pem"))?;
    let others = Published::new(node, with_a_name(OTHERS.to_owned())?)?;
    others.sign(node, &key("p384.pem"))?;
    others.import(node)?;
    published(node, TWIN)?;
    let signer = sealed.signer(node, &policy)?;
    let dir = format!("\"{}\"", node.layout.data.join("simulated").display());
    let simulated = [("tee.kind", "\"sim\""), ("tee.simulated_dir", dir.as_str())];
    node.write_coffer_config(&simulated)?;
    sealed.bring_signatures(node)?;
    others.bring_signatures(node)?;
    let mut verifier = Verifier::new(node)?;
    let address = format!("\"{}\"", verifier.address());
    let with_verifier = [simulated[0], simulated[1], ("tee.verifier", address.as_str())];
    node.write_coffer_config(&with_verifier)?;
    let wishes = "[[file]]\nname = \"greeting\"\nresource = \"kbs:///acme/signed/greeting\"\n";
    let initdata = Initdata::with_images(&verifier, wishes, &policy.to_string())?;
    let measure = node.coffer_command().args(["measure", "--tee", "sim", "--vcpus", "1", "--guest"]);
    let measurement = measure.arg(node.guest()?).text()?.trim().to_owned();
    println!("   pinned: measurement {}…, initdata {}…", &measurement[..16], &initdata.digest()[..16]);
    println!("   the secret is for images signed by {signer}");
    verifier.start()?;
    let images_signed_by = Some(signer);
    let known = Reference { measurement, initdata: initdata.digest(), microcode: 71, images_signed_by };
    verifier.know(&[known])?;
    verifier.put("signed/greeting", "hello from the verifier")?;
    let config = |name: &str| initdata.annotate(sandbox(node, name), "io.coffer.initdata");
    let mut pod = Pod::start(node, config("secret")?)?;
    let reader = pod.run(&of("reader", SEALED))?;
    let secret = pod.sh(&reader, "cat /run/secrets/coffer/greeting")?;
    ensure!(secret == "hello from the verifier", "the pod read {secret:?}");
    println!("   in the pod:  /run/secrets/coffer/greeting says {secret:?}");
    println!("7. An image that differs in one file and that nobody signed, in the same pod");
    show_refusal(pod.run(&of("twin", TWIN)), "the image ")?;
    pod.remove()?;
    println!(
        "8. An image of another signer, whom the guest's policy takes too, in a pod that wishes for the same secret"
    );
    let mut pod = Pod::start(node, config("others")?)?;
    show_refusal(pod.run(&of("others", OTHERS)), "the verifier refuses")?;
    pod.remove()?;
    println!("9. The same pod with one byte of its kernel changed");
    let guest = format!("\"{}\"", changed_guest(node, Change::Kernel)?.display());
    let changed = [with_verifier[0], with_verifier[1], with_verifier[2], ("paths.guest_dir", guest.as_str())];
    node.write_coffer_config(&changed)?;
    show_refusal(Pod::start(node, config("changed")?), "the verifier refuses")
}

/// Prints why something did not start, from `words` on, which must be in it.
fn show_refusal<T>(started: Result<T>, words: &str) -> Result<()> {
    let error = started.err().context("what must be refused was started")?;
    let text = format!("{error:#}");
    let reason = text.split(words).nth(1).with_context(|| format!("a refusal without {words:?}: {text}"))?;
    println!("   refused:     {words}{reason}");
    Ok(())
}
