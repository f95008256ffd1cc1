//! One open descriptor that tasks can wait for: pipes, terminals, sockets.
#![allow(unsafe_code)] // Registering a descriptor with the runtime asks for a promise about its lifetime.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{Shutdown, shutdown};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor in non-blocking mode, known to the runtime.
#[derive(Debug)]
pub(crate) struct Descriptor {
    fd: AsyncFd<OwnedFd>,
}

impl Descriptor {
    /// Takes the descriptor over. Call within the runtime.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        // SAFETY: an `OwnedFd` keeps its one descriptor open until it is dropped. The `AsyncFd` is private and only
        // lent as a shared reference, so nobody can exchange the `OwnedFd` in it; it leaves by `into_inner` alone.
        let fd = unsafe { AsyncFd::register(fd) }?;
        Ok(Descriptor { fd })
    }

    /// Waits until there is something to read, or the end.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.fd.readable().await?.retain_ready();
        Ok(())
    }

    /// Reads what is there, at once; `WouldBlock` when nothing is.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.try_io(Interest::READABLE, |fd| Ok(nix::unistd::read(fd, buffer)?))
    }

    /// Waits for data, then reads it; 0 at the end.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.readable().await?;
            match self.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Writes all of `bytes`, waiting as often as needed.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.fd.writable().await?.retain_ready();
            match self.try_io(Interest::WRITABLE, |fd| Ok(nix::unistd::write(fd, bytes)?)) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Runs a system call that reads, again and again until it does not say `EAGAIN`.
    pub(crate) async fn when_readable<T>(
        &self,
        mut call: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            self.readable().await?;
            match self.try_io(Interest::READABLE, &mut call) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Tells a socket's other side that no more bytes come.
    pub(crate) fn end_of_output(&self) -> io::Result<()> {
        Ok(shutdown(self.fd.as_raw_fd(), Shutdown::Write)?)
    }

    /// Gives the descriptor back; it stays in non-blocking mode.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd.into_inner()
    }

    fn try_io<T>(
        &self,
        interest: Interest,
        mut call: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        self.fd.try_io(interest, |fd| {
            loop {
                match call(fd.as_fd()) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    result => return result,
                }
            }
        })
    }
}
