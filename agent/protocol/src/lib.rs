//! What shim and agent say to each other: messages, ports, stream headers and digests, as plain values.
//!
//! ```text
//! shim ── vsock AGENT_PORT  ── ttrpc `coffer.agent.v1.Agent` ──────────── agent
//! shim ── vsock STREAM_PORT ── one line StreamHeader, one line reply, then bytes ── agent
//! agent ─ vsock READY_PORT (on the host) ── the agent connects once it listens, and holds the connection
//! agent ─ vsock PROCESSOR_PORT (on the host) ── a report, where the shim plays the secure processor
//! agent ─ vsock VERIFIER_PORT (on the host) ── TLS, passed on to the verifier
//! ```
//! Never here: sockets, files, clocks, async, unsafe.
#![forbid(unsafe_code)]

mod digest;
mod stream;

pub use digest::{Digest, DigestError};
pub use generated::agent;
pub use stream::{
    AGAIN, MAX_LINE, ONCE_MORE, StreamHeader, StreamHeaderError, StreamKind, parse_once_more, parse_reply,
    reply_error, reply_ok,
};

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

/// Bytes of the key that the shim gives the agent and nobody else in the guest. The agent sends it first on each connection to
/// [`PROCESSOR_PORT`] and [`VERIFIER_PORT`]: containers can connect to the host's ports as well.
pub const HOST_KEY_BYTES: usize = 32;

/// Host vsock port of the processor that signs reports, where the shim plays it: 64 bytes of REPORT_DATA in; out, length
/// u32 (little endian) and report, length u32 and table of certificates. One report per connection.
pub const PROCESSOR_PORT: u32 = 1026;

/// Host vsock port on which TLS is passed on to the verifier of this node.
pub const VERIFIER_PORT: u32 = 1027;

/// Context id of every guest: pods do not see each other, so all may share one.
pub const GUEST_CID: u64 = 3;

/// Prefix of an OCI mount's `source` that names a pod-level volume: `coffer-volume:<id>[/<path inside it>]`.
pub const VOLUME_SOURCE: &str = "coffer-volume:";

/// Id of the volume that every sandbox has from its start: the pod's shared `/dev/shm`.
pub const SHM_VOLUME: &str = "shm";

/// The most bytes of `data` in one `SyncVolume` message; ttrpc refuses messages over 4 MiB.
pub const MAX_SYNC_PART: usize = 3 << 20;

/// The most bytes of file contents in one snapshot of a `files` volume.
pub const MAX_SNAPSHOT_BYTES: u64 = 32 << 20;

/// The most entries in one snapshot of a `files` volume.
pub const MAX_SNAPSHOT_ENTRIES: usize = 8192;

/// The deepest path in a snapshot of a `files` volume, in components.
pub const MAX_SNAPSHOT_DEPTH: usize = 16;

/// The most bytes that one `ReadVolumeFile` returns.
pub const MAX_READ_BACK: u64 = 1 << 20;
