//! The virtio-vsock device in user space: the guest's stream sockets end in Unix sockets of the host.
//!
//! ```text
//! host client ── vsock.sock, "CONNECT <port>\n" ──▶ device ──▶ guest listener     "OK <hostport>\n" when it accepted
//! guest client ── CID 2, port P ──▶ device ──▶ vsock.sock_<P>                     a reset when nobody listens there
//!
//! packet, credit, connection, table   pure: what is on the wire, and what happens next
//! link, links                         the host's sockets
//! device                              carries out what the table decides; any monitor can drive it
//! rings, vhost_user, serve            drive it as a vhost-user backend, in a process of its own
//! ```
//! The device never waits: every socket is non-blocking, so a reader that stalls holds up its own connection and no
//! other. It never grows without bound: what waits for the host is limited by credit, connections are limited in
//! number, resets that wait for the guest stop the device from taking more of the guest's packets. It never trusts a
//! byte of the guest's: see `docs/threat-model.md`.

pub mod connection;
pub mod credit;
pub mod device;
#[cfg(test)]
mod device_tests;
mod filter;
mod link;
mod links;
pub mod packet;
mod places;
mod rings;
mod serve;
pub mod table;
mod vhost_user;

pub use device::{Counts, Device, MAX_CONNECTIONS, RingFault, Served};
pub use filter::allowed;
pub use serve::{ServeError, Setup, serve};
