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

mod daemon;
mod delete;
mod flags;
mod hold;
mod info;
mod socket;
mod start;
mod wire;

pub(crate) use wire::config_path;

use std::ffi::OsString;

use flags::{Action, Flags};

/// The word by which the shim starts itself as the holder of a network namespace.
pub(crate) const HOLD_NETWORK: &str = "hold-network";

/// The word by which the shim starts itself as the file server of a share.
pub(crate) const SHARE: &str = "share";

/// Does what the command line asks for.
pub(crate) fn run(args: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    let mut args = args.peekable();
    if args.next_if(|word| word == HOLD_NETWORK).is_some() {
        return hold::hold(args.next().map(Into::into));
    }
    if args.next_if(|word| word == SHARE).is_some() {
        return Ok(crate::ninep::run(args)?);
    }
    let flags = Flags::parse(args)?;
    match flags.action {
        Action::Version => info::print_version(),
        Action::Info => info::print_info(),
        Action::Start => start::start(&flags),
        Action::Delete => delete::delete(&flags),
        Action::Serve => daemon::serve(&flags),
    }
}
