//! How a shim process comes to be and goes: the command line of containerd's runtime v2.
//!
//! ```text
//! containerd ── start  ── parent: socket, daemon child, prints the address ── exits
//!                           └── daemon: serves the Task API until the pod is gone
//!            ── delete ── cleans up after a daemon that died, prints a DeleteResponse
//!            ── -info  ── prints what this runtime can do
//! ```
//! Standard output and standard error of `start` carry the answer and nothing else, because containerd parses both.
//! Never here: anything about a pod but its id and where its files are.

mod command;
mod daemon;
mod delete;
mod flags;
mod info;
mod socket;
mod start;
mod wire;

pub(crate) use command::run;
