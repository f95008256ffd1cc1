#![allow(unsafe_code)] // One call moves all pieces of a request only if it is told where the guest's memory is mapped.
//! Bytes between a file and a chain's memory, in one system call.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::buffer::{Buffer, Short};

/// Fills `buffer` from the file's `offset`: gives the number of bytes.
pub fn read_at(file: impl AsFd, buffer: &Buffer<'_>, offset: u64) -> io::Result<usize> {
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    let file = file.as_fd().as_raw_fd();
    // SAFETY: see `with_pieces`.
    with_pieces(buffer, |pieces, count| unsafe { libc::preadv(file, pieces, count, offset) })
}

/// Writes `buffer` to the file's `offset`: gives the number of bytes.
pub fn write_at(file: impl AsFd, buffer: &Buffer<'_>, offset: u64) -> io::Result<usize> {
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    let file = file.as_fd().as_raw_fd();
    // SAFETY: see `with_pieces`.
    with_pieces(buffer, |pieces, count| unsafe { libc::pwritev(file, pieces, count, offset) })
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
    let guards: Short<_> = buffer.slices().iter().map(vm_memory::VolatileSlice::ptr_guard_mut).collect();
    let piece = |guard: &vm_memory::volatile_memory::PtrGuardMut| libc::iovec {
        iov_base: guard.as_ptr().cast(),
        iov_len: guard.len(),
    };
    let pieces: Short<libc::iovec> = guards.iter().map(piece).collect();
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
