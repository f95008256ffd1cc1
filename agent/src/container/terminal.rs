//! A pseudo-terminal out of the container's own devpts.
//!
//! The container may have put anything at `/dev/pts/ptmx`, so what is opened there must be a multiplexer that lies on
//! a devpts, and the other end is asked of the kernel instead of being looked up by name.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;

use super::report::Step;
use super::rootfs::{at, copy_mount};
use super::sys;

/// `DEVPTS_SUPER_MAGIC` of the kernel's `linux/magic.h`.
const DEVPTS: i64 = 0x1cd1;

const MULTIPLEXER: &str = "/dev/pts/ptmx";

/// Both ends.
#[derive(Debug)]
pub(super) struct Terminal {
    master: OwnedFd,
    slave: OwnedFd,
}

/// Opens a new terminal of the devpts at `/dev/pts` of `root`, in columns and rows.
pub(super) fn open(root: BorrowedFd<'_>, (columns, rows): (u16, u16)) -> Step<Terminal> {
    let path = Path::new(MULTIPLEXER);
    // First as a path only: opening a stranger's file for reading may block or have effects.
    let found = rustix::fs::openat2(
        root,
        "dev/pts/ptmx",
        OFlags::PATH | OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS,
    )
    .map_err(at("open", path))?;
    if !sys::is_on(&found, DEVPTS).unwrap_or(false) {
        return Err(at("find a devpts behind", path)(Errno::NOTTY));
    }
    let master = rustix::fs::openat(
        root,
        "dev/pts/ptmx",
        OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(at("open", path))?;
    let is_devpts = sys::is_on(&master, DEVPTS).unwrap_or(false);
    if !is_devpts {
        return Err(at("find a devpts behind", path)(Errno::NOTTY));
    }
    rustix::pty::unlockpt(&master).map_err(at("unlock a terminal of", path))?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).map_err(at("open a terminal of", path))?;
    let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&slave, size).map_err(at("size a terminal of", path))?;
    Ok(Terminal { master, slave })
}

impl Terminal {
    /// Another descriptor of the process's end.
    pub(super) fn slave(&self) -> Step<OwnedFd> {
        self.slave.try_clone().map_err(|_| at("copy a terminal of", Path::new(MULTIPLEXER))(Errno::MFILE))
    }

    /// A detached mount of the process's end.
    pub(super) fn mount(&self) -> Step<OwnedFd> {
        copy_mount(&self.slave, false).map_err(at("mount a terminal of", Path::new(MULTIPLEXER)))
    }

    /// The agent's end; the process's own is closed.
    pub(super) fn into_master(self) -> OwnedFd {
        self.master
    }
}
