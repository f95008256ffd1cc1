//! What shim and agent say to each other: messages, ports and stream headers, as plain values.
//!
//! ```text
//! shim ── vsock AGENT_PORT  ── ttrpc `coffer.agent.v1.Agent` ──────────── agent
//! shim ── vsock STREAM_PORT ── one line StreamHeader, one line reply, then bytes ── agent
//! agent ─ vsock READY_PORT (on the host) ── the agent connects once it listens, and holds the connection
//! ```
//! Never here: sockets, files, clocks, async, unsafe.
#![forbid(unsafe_code)]

mod stream;

pub use generated::agent;
pub use stream::{StreamHeader, StreamHeaderError, StreamKind, parse_reply, reply_error, reply_ok};

#[allow(missing_docs, unreachable_pub, clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/proto/mod.rs"));
}

/// Version of this protocol. A shim and an agent whose versions differ by more than one refuse each other.
pub const PROTOCOL_VERSION: u32 = 1;

/// Guest vsock port of the ttrpc service.
pub const AGENT_PORT: u32 = 1024;

/// Guest vsock port of byte streams: stdio, port forwarding, file shares.
pub const STREAM_PORT: u32 = 1025;

/// Host vsock port on which the shim awaits the agent's single "ready" connection. It carries no bytes; when it
/// closes, the guest is gone.
pub const READY_PORT: u32 = 1023;

/// Context id of every guest: pods do not see each other, so all may share one.
pub const GUEST_CID: u64 = 3;

/// Prefix of an OCI mount's `source` that names a pod-level volume: `coffer-volume:<id>[/<path inside it>]`.
pub const VOLUME_SOURCE: &str = "coffer-volume:";
