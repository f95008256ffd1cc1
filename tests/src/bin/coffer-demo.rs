//! `cargo demo`: from nothing to a pod in a virtual machine of its own, and back to nothing.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use coffer_tests::artefacts;
use coffer_tests::containerd::{Runtime, Version};
use coffer_tests::node::{Node, Pod, container, on_node, sandbox};
use coffer_tests::run::Run;
use coffer_tests::wait;

/// Installs what is missing, builds everything, runs a pod of two containers in a micro-VM, and removes every trace of it.
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
    println!("6. Everything is removed");
    pod.remove()?;
    wait::until_true("the node to be clean", Duration::from_secs(5), || node.added().is_empty())?;
    println!("   no process, link, mount, cgroup, socket, loop device or file of the pod is left");
    Ok(())
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
    let run = Run::new(node.binaries().join("coffer")).arg("--config").arg(node.layout.coffer_config());
    let table = run.args(["trace", &pod.id]).text()?;
    table.lines().for_each(|line| println!("   {line}"));
    Ok(())
}
