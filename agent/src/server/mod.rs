//! The agent's RPC service: the one place that knows the wire's requests, answers and status codes.
//!
//! ```text
//! ttrpc, vsock AGENT_PORT ── service ── requests: message → our types ── pod
//!                                    └─ answers: our types → message, PodError → status
//! ```
//!
//! A call that changes something runs in a task of its own, because ttrpc drops a call's future when its time is over
//! or its connection ends, and half a container must not stay behind.

mod answers;
mod listen;
mod requests;
mod service;

pub(crate) use listen::listen;

#[allow(missing_docs, unreachable_pub, unused_imports, dead_code, clippy::all)] // Generated, not ours to change.
mod stubs {
    use coffer_protocol::agent;
    pub(super) mod wire {
        include!(concat!(env!("OUT_DIR"), "/agent_ttrpc.rs"));
    }
}
