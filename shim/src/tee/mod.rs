//! A pod's secure processor, as far as the host has a part in it.
//!
//! ```text
//! initdata ── the pod's annotation ── digest ── HOST_DATA ┐
//! measured ── kernel, initrd, command line as they boot ──┤── Launch ── processor ── reports, vsock PROCESSOR_PORT
//! door ────── only the agent is let in at these ports: it shows a key that containers do not know
//! proxy ───── guest ── TLS records and nothing else ── the node's verifier, vsock VERIFIER_PORT
//! ```
//! The guest chooses REPORT_DATA and nothing else. Here only the simulated processor is played; a real one answers its guest
//! itself, and then the proxy is all that is left.
//!
//! Never here: what evidence is worth, secrets, and what is inside of TLS.

mod door;
mod initdata;
mod measured;
mod plan;
mod processor;
mod proxy;

pub(crate) use plan::{Plan, Served, TeeError};
