#![allow(unsafe_code)] // Memory that is kept mapped by its owner, and not by a borrow, is known to Rust by its address only.
//! A part of the guest's memory that stays mapped after the call of the device that found it: for requests that wait.
//!
//! The guest reads and writes it all the while. It is never looked at but through volatile slices, and by the kernel.

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, VolatileSlice};

use super::buffer::Buffer;
use super::file::pieces;
use crate::memory::Memory;

/// Pieces of the guest's memory, and the memory that they lie in.
#[derive(Debug)]
pub struct Kept {
    /// Mapped as long as anybody holds it.
    _memory: Memory,
    /// Where they do not move: the kernel is told of them by their address.
    pieces: Box<[libc::iovec]>,
}

// SAFETY: the addresses are of `_memory`'s, which itself may go to another thread, and which every thread, the guest and
// the kernel may use at once as long as it is through volatile slices.
unsafe impl Send for Kept {}

impl Kept {
    /// Keeps `buffer`, which must lie in `memory`: nothing if it does not.
    pub fn new(buffer: &Buffer<'_>, memory: &Memory) -> Option<Kept> {
        let pieces: Box<[libc::iovec]> = pieces(buffer).into_iter().collect();
        pieces.iter().all(|piece| lies_in(memory, piece)).then(|| Kept { _memory: memory.clone(), pieces })
    }

    /// The pieces, as the kernel is told of them.
    pub(super) fn pieces(&self) -> &[libc::iovec] {
        &self.pieces
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.iov_len).sum()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Leaves out the first `count` bytes: what is left is never longer than before.
    pub(super) fn skip(&mut self, count: usize) {
        let mut left = count;
        for piece in &mut self.pieces {
            let now = left.min(piece.iov_len);
            piece.iov_base = piece.iov_base.wrapping_byte_add(now);
            piece.iov_len -= now;
            left -= now;
        }
    }

    /// The same as a buffer.
    pub fn buffer(&self) -> Buffer<'_> {
        let slice = |piece: &libc::iovec| {
            // SAFETY: the piece lies in a region of `_memory`, as `new` has seen and `skip` leaves it, and `_memory` keeps that
            // region mapped at least as long as the buffer borrows `self`.
            unsafe { VolatileSlice::new(piece.iov_base.cast(), piece.iov_len) }
        };
        Buffer::of(self.pieces.iter().map(slice).collect())
    }
}

fn lies_in(memory: &Memory, piece: &libc::iovec) -> bool {
    let start = piece.iov_base as u64;
    let length = piece.iov_len as u64;
    memory.iter().any(|region| {
        let first = region.as_ptr() as u64;
        start >= first && start - first <= region.len() && length <= region.len() - (start - first)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestAddress};

    fn memory() -> Memory {
        Memory::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap()
    }

    fn slices<'m>(memory: &'m Memory, ranges: &[(u64, usize)]) -> Buffer<'m> {
        let slice = |range: &(u64, usize)| {
            GuestMemoryBackend::get_slice(memory, GuestAddress(range.0), range.1).unwrap()
        };
        Buffer::of(ranges.iter().map(slice).collect())
    }

    #[test]
    fn what_is_kept_outlives_whoever_held_the_memory() {
        let memory = memory();
        memory.write_slice(b"kept", GuestAddress(0x100)).unwrap();
        let kept = Kept::new(&slices(&memory, &[(0x100, 2), (0x102, 2)]), &memory).unwrap();
        drop(memory);
        let mut found = [0; 4];
        assert!(kept.buffer().copy_to(&mut found));
        assert_eq!(&found, b"kept");
    }

    #[test]
    fn memory_of_another_guest_is_not_kept() {
        let (ours, theirs) = (memory(), memory());
        assert!(Kept::new(&slices(&theirs, &[(0x100, 2)]), &ours).is_none());
    }

    #[test]
    fn what_is_skipped_is_left_out_across_pieces() {
        let memory = memory();
        memory.write_slice(b"onetwo", GuestAddress(0x100)).unwrap();
        let mut kept = Kept::new(&slices(&memory, &[(0x100, 3), (0x103, 3)]), &memory).unwrap();
        kept.skip(4);
        let mut found = [0; 2];
        assert!(kept.buffer().copy_to(&mut found));
        assert_eq!(&found, b"wo");
        kept.skip(100);
        assert!(kept.is_empty() && kept.pieces().iter().all(|piece| lies_in(&memory, piece)));
    }
}
