//! The pod's network: a tap beside every interface that CNI left, and a redirection for port-forwarding.
//!
//! ```text
//! pod's network namespace     eth0 (veth, keeps its address) ◄── tc mirred ──► cof2 (tap) ◄── fd ── hypervisor
//!                             lo   127.0.0.1:* ── nft redirect ──► our listener ── shim ── vsock ── guest
//! ```
//! Never here: a process in that namespace, a file descriptor that keeps it alive (a tap's lives as long as the
//! machine), a change of an address or route that CNI set.

mod attach;
mod link;
mod namespace;
mod nft;
mod probe;
mod redirect;
mod tap;
mod traffic;

use std::io;
use std::path::PathBuf;

use coffer_protocol::agent::NetworkConfig;
use coffer_vmm::spec::Nic;

pub use attach::{attach, detach, rescan};
pub(crate) use attach::{remove_table, remove_tap};
pub use probe::{NetAbilities, probe};
pub use redirect::{Redirect, original_dst, redirect_loopback};
pub use tap::open as open_tap;

/// A pod's interfaces, as the machine gets them and as the agent sets them up.
#[derive(Debug, Default)]
pub struct PodNetwork {
    /// One per interface, in the order of `config.interfaces`.
    pub nics: Vec<Nic>,
    /// Interfaces, routes and neighbours for the guest.
    pub config: NetworkConfig,
}

/// Why a pod's network could not be joined to its guest.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The namespace cannot be entered.
    #[error("cannot enter the network namespace {path}")]
    Namespace {
        /// Its path.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A netlink request failed.
    #[error("cannot {action} in network namespace {path}: {reason}")]
    Netlink {
        /// What was tried.
        action: String,
        /// The namespace.
        path: PathBuf,
        /// The kernel's answer.
        reason: String,
    },
    /// The listener for port-forwarding cannot be made.
    #[error("cannot listen on the loopback of network namespace {path}")]
    Listen {
        /// The namespace.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The record could not be written.
    #[error("cannot write down what the pod's network is about to get")]
    Record(#[source] crate::record::RecordError),
}
