//! `hold-network`: a process that is in a network namespace and waits for its standard input to end.
//!
//! Started by the shim, never by containerd: see `pod/hooks`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use anyhow::Context;
use nix::sched::{CloneFlags, setns, unshare};

/// The word by which the shim starts itself as such a process.
pub(crate) const WORD: &str = "hold-network";

/// Enters the namespace at `path`, or a new one, says so with one byte, and waits.
pub(crate) fn hold(path: Option<PathBuf>) -> anyhow::Result<()> {
    match path {
        Some(path) => {
            let netns = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
            setns(netns, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")?;
        }
        None => unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?,
    }
    io::stdout().write_all(b"\n").and_then(|()| io::stdout().flush()).context("nobody listens")?;
    io::stdin().read_to_end(&mut Vec::new()).context("cannot wait")?;
    Ok(())
}
