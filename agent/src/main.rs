//! `coffer-agent`: PID 1 of a pod's guest. It sets the guest up, serves the shim's calls on vsock and runs containers.
//!
//! ```text
//! kernel ── execve ── main ── boot ── server (ttrpc, AGENT_PORT) ── container, sandbox, image, network, volume
//!                                  └─ stream (bytes, STREAM_PORT) ── container's pipes, loopback ports, volume shares
//! ```
//!
//! One thread, one tokio runtime. Nothing here opens a shell, and nothing listens but the two vsock ports.

mod boot;
mod chain;
mod container;
mod descriptor;
mod image;
mod network;
mod stream;
mod volume;

fn main() {
    let started = boot::clock::since_boot_nanos();
    if nix::unistd::getpid().as_raw() != 1 {
        eprintln!("coffer-agent is PID 1 of a guest and nothing else");
        std::process::exit(2);
    }
    boot::reset::on_panic();
    if let Err(error) = boot::start() {
        boot::reset::give_up(&chain::Chain(&error).to_string());
    }
    let _ = started;
}
