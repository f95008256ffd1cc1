//! Chooses by the command line what this process is: one of containerd's calls, the daemon, or one of its helpers.

use std::ffi::OsString;

use super::flags::{Action, Flags};
use super::{daemon, delete, info, start};
use crate::{hold, ninep};

/// Does what the command line asks for.
pub(crate) fn run(args: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    let mut args = args.peekable();
    if args.next_if(|word| word == hold::WORD).is_some() {
        return hold::hold(args.next().map(Into::into));
    }
    if args.next_if(|word| word == ninep::WORD).is_some() {
        return Ok(ninep::run(args)?);
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
