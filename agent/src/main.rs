//! `coffer-agent`: PID 1 of a pod's guest. It sets the guest up, serves the shim's calls on vsock and runs containers.
//!
//! ```text
//! kernel ── execve ── main ── boot ── server (ttrpc, AGENT_PORT) ── pod ── container, sandbox, image, volume, attest
//!                                  └─ stream (bytes, STREAM_PORT) ── container's pipes, loopback ports, volume shares
//! ```
//!
//! One thread runs everything but calls that may block for long. Nothing here opens a shell, and nothing listens but
//! the two vsock ports.

mod attest;
mod boot;
mod chain;
mod container;
mod descriptor;
mod gate;
mod image;
mod local;
mod network;
mod pod;
mod sandbox;
mod scratch;
mod server;
mod stream;
mod volume;

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::chain::Chain;
use crate::container::{Runtime, RuntimeConfig};
use crate::pod::Pod;

/// The cgroup below which all containers have theirs.
const CONTAINERS: &str = "coffer";
/// Threads for calls that block: few, because each may keep an arena of its own.
const BLOCKING_THREADS: usize = 8;
/// An idle thread ends soon: the agent should be as small after a burst as before.
const THREAD_IDLE: Duration = Duration::from_secs(1);

fn main() {
    let started = boot::clock::since_boot_nanos();
    container::run_if_child();
    if nix::unistd::getpid().as_raw() != 1 {
        eprintln!("coffer-agent is PID 1 of a guest and nothing else");
        std::process::exit(2);
    }
    boot::reset::on_panic();
    let reason = match run(started) {
        Err(error) => Chain(error.as_ref()).to_string(),
    };
    boot::reset::give_up(&reason)
}

fn run(started: u64) -> Result<Infallible, Box<dyn Error>> {
    boot::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(THREAD_IDLE)
        .build()?;
    runtime.block_on(serve(started))
}

async fn serve(started: u64) -> Result<Infallible, Box<dyn Error>> {
    let config =
        RuntimeConfig { cgroup_root: PathBuf::from(boot::CGROUP_ROOT), parent: CONTAINERS.to_owned() };
    let runtime = Runtime::new(config)?;
    tracing::debug!("container runtime");
    let ooms = runtime.oom_events();
    let pod = Pod::new(runtime);
    let _ready = server::listen(pod.clone(), started).await?;
    if let Some(mut ooms) = ooms {
        while let Some(container) = ooms.recv().await {
            pod.events().oom(container);
        }
    }
    Err(Box::new(io::Error::other("the container runtime ended")))
}
