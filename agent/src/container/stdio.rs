//! The standard descriptors of a process: pipes, the null device, or a terminal.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;
use rustix::fs::{Mode, OFlags};

/// What a process gets as its standard descriptors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StdioRequest {
    /// A pipe for standard input; else the null device.
    pub(crate) stdin: bool,
    /// A pipe for standard output; else the null device.
    pub(crate) stdout: bool,
    /// A pipe for standard error; else the null device.
    pub(crate) stderr: bool,
    /// A terminal of this size for all three instead.
    pub(crate) terminal: Option<WindowSize>,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct WindowSize {
    /// Width.
    pub(crate) columns: u16,
    /// Height.
    pub(crate) rows: u16,
}

/// The agent's ends of a process's standard descriptors, non-blocking and close-on-exec.
#[derive(Debug)]
pub(crate) enum Stdio {
    /// `None` where the process has the null device.
    Pipes {
        /// To write to.
        stdin: Option<OwnedFd>,
        /// To read from.
        stdout: Option<OwnedFd>,
        /// To read from.
        stderr: Option<OwnedFd>,
    },
    /// The master, to read from and write to. Reading fails with EIO when no process has the terminal open.
    Terminal(OwnedFd),
}

/// The process's ends.
#[derive(Debug)]
pub(super) struct Ends([OwnedFd; 3]);

impl Ends {
    pub(super) fn borrow(&self) -> [BorrowedFd<'_>; 3] {
        self.0.each_ref().map(AsFd::as_fd)
    }
}

impl StdioRequest {
    /// Makes the pipes; `None` where there will be a terminal instead.
    pub(super) fn open(&self) -> io::Result<Option<(Stdio, Ends)>> {
        if self.terminal.is_some() {
            return Ok(None);
        }
        let (stdin, stdin_end) = to_process(self.stdin)?;
        let (stdout, stdout_end) = from_process(self.stdout)?;
        let (stderr, stderr_end) = from_process(self.stderr)?;
        Ok(Some((Stdio::Pipes { stdin, stdout, stderr }, Ends([stdin_end, stdout_end, stderr_end]))))
    }
}

/// The agent's end and the process's.
fn to_process(wanted: bool) -> io::Result<(Option<OwnedFd>, OwnedFd)> {
    if !wanted {
        return Ok((None, null()?));
    }
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    rustix::io::ioctl_fionbio(&write, true)?;
    Ok((Some(write), read))
}

fn from_process(wanted: bool) -> io::Result<(Option<OwnedFd>, OwnedFd)> {
    if !wanted {
        return Ok((None, null()?));
    }
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    Ok((Some(read), write))
}

fn null() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}
