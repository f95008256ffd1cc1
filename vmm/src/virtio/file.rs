#![allow(unsafe_code)] // One call moves all pieces of a request only if it is told where the guest's memory is mapped.
//! Bytes between a file and a chain's memory, in one system call.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::buffer::{Buffer, Short};

/// Whether a call may wait for what a file lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// As long as it takes.
    Wait,
    /// Only what is in memory is moved; if nothing is, the error is that it would wait.
    Never,
}

impl Patience {
    fn flags(self) -> libc::c_int {
        match self {
            Patience::Wait => 0,
            Patience::Never => libc::RWF_NOWAIT,
        }
    }
}

/// Fills `buffer` from the file's `offset`: gives the number of bytes.
pub fn read_at(file: impl AsFd, buffer: &Buffer<'_>, offset: u64, patience: Patience) -> io::Result<usize> {
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    let (file, flags) = (file.as_fd().as_raw_fd(), patience.flags());
    // SAFETY: see `with_pieces`.
    with_pieces(buffer, |pieces, count| unsafe { libc::preadv2(file, pieces, count, offset, flags) })
}

/// Writes `buffer` to the file's `offset`: gives the number of bytes.
pub fn write_at(file: impl AsFd, buffer: &Buffer<'_>, offset: u64, patience: Patience) -> io::Result<usize> {
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    let (file, flags) = (file.as_fd().as_raw_fd(), patience.flags());
    // SAFETY: see `with_pieces`.
    with_pieces(buffer, |pieces, count| unsafe { libc::pwritev2(file, pieces, count, offset, flags) })
}

/// Fills `buffer` from what has no offset: gives the number of bytes.
pub fn read_from(source: impl AsFd, buffer: &Buffer<'_>) -> io::Result<usize> {
    let source = source.as_fd().as_raw_fd();
    // SAFETY: see `with_pieces`.
    with_pieces(buffer, |pieces, count| unsafe { libc::readv(source, pieces, count) })
}

/// Writes `buffer` to what has no offset: gives the number of bytes.
pub fn write_to(target: impl AsFd, buffer: &Buffer<'_>) -> io::Result<usize> {
    let target = target.as_fd().as_raw_fd();
    // SAFETY: see `with_pieces`.
    with_pieces(buffer, |pieces, count| unsafe { libc::writev(target, pieces, count) })
}

/// Calls `call` with the buffer's pieces, again when a signal came before it did anything.
///
/// The pieces lie in the guest's memory, which stays mapped as long as the buffer borrows it, and which everybody,
/// the kernel and the guest included, reads and writes at any time: what the call finds or leaves there is never a
/// reference of Rust's.
fn with_pieces(
    buffer: &Buffer<'_>,
    call: impl Fn(*const libc::iovec, libc::c_int) -> isize,
) -> io::Result<usize> {
    let pieces = pieces(buffer);
    // A buffer has at most 1024 pieces.
    let count = libc::c_int::try_from(pieces.len()).map_err(io::Error::other)?;
    loop {
        let moved = call(pieces.as_ptr(), count);
        match usize::try_from(moved) {
            Ok(moved) => return Ok(moved),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// Where the pieces of `buffer` are mapped. The guest's memory stays so as long as it is there: no guard is to be held.
pub(super) fn pieces(buffer: &Buffer<'_>) -> Short<libc::iovec> {
    let piece = |slice: &vm_memory::VolatileSlice<'_>| {
        let guard = slice.ptr_guard_mut();
        libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() }
    };
    buffer.slices().iter().map(piece).collect()
}
