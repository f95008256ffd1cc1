//! `coffer-agent`: PID 1 of a pod's guest. It sets the guest up, serves the shim's calls on vsock and runs containers.
//!
//! ```text
//! kernel ── execve ── main ── boot ── server (ttrpc, AGENT_PORT) ── container, sandbox, image, network, volume
//!                                  └─ stream (bytes, STREAM_PORT) ── container's pipes, loopback ports, volume shares
//! ```
//!
//! One thread, one tokio runtime. Nothing here opens a shell, and nothing listens but the two vsock ports.

mod container;
mod volume;

fn main() {}
