//! The kubelet's side of the Container Runtime Interface: as much of it as the tests ask for.
//!
//! ```text
//! messages   the interface's messages, the fields that are used
//! grpc       one call over a Unix socket
//! client     the calls, each bounded in time
//! streams    exec, attach and port-forward over the URL that a call answered
//! ```

mod client;
mod grpc;
pub mod messages;
mod streams;

pub use client::Cri;
pub use grpc::CallError;
pub use streams::{Carried, Stream};
