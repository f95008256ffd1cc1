//! Gives the guest the addresses, routes and neighbours that the pod's network namespace has on the host.
//!
//! ```text
//! Plan ── apply ── find links by MAC → rename, MTU, addresses, up → routes → neighbours
//! ```
//!
//! Applying a plan twice changes nothing. It never asks the network for anything (no DHCP, no router solicitation, no
//! duplicate address detection): the host has done all that. Links that no plan names are left alone, since containers
//! may make their own.

mod apply;
mod links;
mod message;
mod plan;
mod routes;
mod socket;

pub(crate) use apply::{NetworkError, apply, loopback_up};
pub(crate) use plan::{Interface, Mac, Neighbor, Plan, Prefix, Route};
