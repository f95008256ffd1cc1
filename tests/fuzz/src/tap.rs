//! A tap of three queues that leads nowhere.

use std::os::fd::OwnedFd;

/// A tap in a network namespace that this process is the only one of: what a fuzzed guest sends leaves nobody's machine.
pub(crate) fn alone() -> (OwnedFd, Vec<OwnedFd>) {
    let unshared = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET);
    unshared.expect("a network namespace of its own, which needs root");
    coffer_node::net::open_tap("fuzz0", 2).expect("a tap, which needs /dev/net/tun")
}
