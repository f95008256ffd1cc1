//! One node at a time on a machine, and what a machine must have for one at all.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};

use crate::leftovers;
use crate::packages::install;
use crate::progress::say;

/// The right to have a node, as long as it lives: against other tests of this process and of others.
pub(super) struct Turn {
    _lock: File,
}

/// Waits for the turn, installs what is missing, and removes what tests that died have left.
pub(super) fn take_turn() -> Result<Turn> {
    let lock = File::create("/run/coffer-test.lock").context("cannot make the lock of the tests")?;
    lock.lock()?;
    install()?;
    for layout in leftovers::stale() {
        say(&format!("removing what the dead test {} left", layout.tag));
        leftovers::remove(&layout)?;
    }
    Ok(Turn { _lock: lock })
}

/// What this machine lacks for a node, if anything.
pub(super) fn lacking() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root: it starts containerd and makes network namespaces".into());
    }
    let missing = ["/dev/net/tun", "/proc/sys/net/ipv4"].into_iter().find(|path| !Path::new(path).exists());
    if let Some(path) = missing {
        return Some(format!("needs {path}"));
    }
    let systems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    (!systems.contains("overlay")).then(|| "needs overlayfs in the kernel".into())
}
