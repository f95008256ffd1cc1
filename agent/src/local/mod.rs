//! The socket through which a container asks for secrets while it runs, limited to what the initdata lets that one ask for.
//!
//! ```text
//! container ── /run/coffer/secrets.sock ── door: one socket, one container ── request ── grant? ── answer
//!                                                                     held, or the verifier: attest
//! GET /cdh/resource/TENANT/KIND/TAG   the secret's bytes
//! GET /aa/token?token_type=kbs        {"token": …}: the verifier's word on this guest, without a key to it
//! GET /aa/evidence?runtime_data=…     evidence over at most 64 bytes; &encoding=base64 when they are in base64
//!
//! 200   400 not understood   403 may not   404 no such secret   405 not GET   410 taken back
//! 429 too often   431 too long   503 nobody can say now
//! ```
//! A socket of its own tells a container from the others of its pod, who share its network. The paths are those of
//! Confidential Containers' local interface. HTTP/1.1, one request on a connection.
//!
//! Containers are hostile here: each has few connections, little time, short requests and a pace, and a secret is wiped
//! from the agent's copies of an answer once it is written.
//!
//! Never here: what a container may, which the initdata says, and whether the guest is given anything, which the verifier says.

mod answer;
mod door;
mod pace;
mod request;

pub(crate) use door::Door;

/// Below it each container's socket has a directory of its own.
const DOORS: &str = "/run/coffer/local";

/// Where a container finds the directory with its socket.
pub(crate) const INSIDE: &str = "/run/coffer";

/// The socket's name.
const SOCKET: &str = "secrets.sock";
