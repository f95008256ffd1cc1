#![allow(unsafe_code)] // The kernel is told of memory that it reads and fills while the program goes on.
//! Transfers between files and the guest's memory that wait: the kernel carries them out beside the program, in an io_uring.
//!
//! ```text
//! begin ─▶ (send: io_uring_enter) ─▶ a thread of the kernel's waits ─▶ event ─▶ finished ─▶ what was given with it
//! forget ─▶ what was given with it is dropped at once, and nothing begun until all that was forgotten is over
//! ```
//! Every transfer goes to a thread of the kernel's: tried at once, as the kernel does otherwise, it could wait for a file
//! system's own blocks. Not here: whether a transfer would wait, which the disk finds out, and what its end means.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, opcode, register::Restriction};

use super::file::{Patience, read_at, write_at};
use super::kept::Kept;
use crate::event::Event;

/// The most transfers at once: the ring has so many places. What is more waits in the guest's queue.
const MOST: u32 = 64;

/// The most threads that wait for one machine's transfers, of all its rings together: as many as places of one.
const THREADS: u32 = MOST;

/// How long a driver that takes a device back is held for what it began there: memory that it then uses for something else
/// should not be written to any more.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is looked whether that is over, by a thread that may not wait for an event.
const LOOK: Duration = Duration::from_millis(1);

/// An io_uring that reads, writes and makes safe, and nothing else.
pub struct Ring {
    uring: IoUring,
    woken: Event,
}

impl Ring {
    /// Makes one that signals `woken` whenever a transfer has ended. Made before the process gives up its rights: later
    /// it may not, and some nodes let only root.
    pub fn new(woken: Event) -> io::Result<Ring> {
        let uring = IoUring::builder().setup_r_disabled().build(MOST)?;
        let submitter = uring.submitter();
        submitter.register_eventfd(woken.as_fd().as_raw_fd())?;
        // A kernel that is not to be told of a number chooses one itself, by that of its processors.
        let _ = submitter.register_iowq_max_workers(&mut [THREADS, 0]);
        submitter.register_restrictions(&mut [
            Restriction::sqe_op(opcode::Readv::CODE),
            Restriction::sqe_op(opcode::Writev::CODE),
            Restriction::sqe_op(opcode::Fsync::CODE),
            Restriction::sqe_flags_required(Flags::ASYNC.bits()),
        ])?;
        submitter.register_enable_rings()?;
        Ok(Ring { uring, woken })
    }
}

#[cfg(test)]
impl Ring {
    /// A ring for the test `name`, which is skipped where the kernel gives none.
    pub(crate) fn for_test(name: &str, woken: io::Result<Event>) -> Option<Ring> {
        use std::io::Write;
        let said = |error: &io::Error| {
            let _ = writeln!(io::stderr(), "skipped: {name}: no io_uring: {error}");
        };
        woken.and_then(Ring::new).inspect_err(said).ok()
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("woken", &self.woken).finish_non_exhaustive()
    }
}

/// What is to be done with a file.
#[derive(Debug)]
pub struct Transfer {
    file: Arc<File>,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// Fill memory from an offset on.
    Read(Kept, u64),
    /// Write memory from an offset on.
    Write(Kept, u64),
    /// Make safe what was written.
    Sync,
}

/// What a transfer has come to.
enum Turn {
    /// It is over.
    Over(io::Result<()>),
    /// A part was moved, and the rest is to be.
    Rest,
    /// The kernel has no thread for it.
    Refused,
}

impl Transfer {
    /// Fills `memory` from `offset` on, where `moved` bytes of it are there already.
    pub fn read(file: Arc<File>, memory: Kept, offset: u64, moved: usize) -> Transfer {
        let mut transfer = Transfer { file, work: Work::Read(memory, offset) };
        transfer.skip(moved);
        transfer
    }

    /// Writes `memory` from `offset` on, where `moved` bytes of it are written already.
    pub fn write(file: Arc<File>, memory: Kept, offset: u64, moved: usize) -> Transfer {
        let mut transfer = Transfer { file, work: Work::Write(memory, offset) };
        transfer.skip(moved);
        transfer
    }

    /// Makes safe what was written.
    pub fn sync(file: Arc<File>) -> Transfer {
        Transfer { file, work: Work::Sync }
    }

    fn skip(&mut self, moved: usize) {
        if let Work::Read(memory, offset) | Work::Write(memory, offset) = &mut self.work {
            memory.skip(moved);
            *offset = offset.saturating_add(moved as u64);
        }
    }

    /// Takes the kernel's answer: a number of bytes, or the negative of an error's number.
    fn take(&mut self, answer: i32) -> Turn {
        let moved = match usize::try_from(answer) {
            Ok(moved) => moved,
            Err(_) if [-libc::EAGAIN, -libc::EINTR, -libc::ECANCELED].contains(&answer) => {
                return Turn::Refused;
            }
            Err(_) => return Turn::Over(Err(io::Error::from_raw_os_error(answer.saturating_neg()))),
        };
        self.skip(moved);
        match &self.work {
            Work::Read(memory, _) | Work::Write(memory, _) if !memory.is_empty() => {
                // A file that ends before its disk does will not give more.
                if moved == 0 { Turn::Over(Err(io::ErrorKind::UnexpectedEof.into())) } else { Turn::Rest }
            }
            _ => Turn::Over(Ok(())),
        }
    }

    /// Does one step of it at once, as long as that takes: gives the answer that the kernel would.
    fn step(&self) -> i32 {
        let outcome = match &self.work {
            Work::Read(memory, offset) => read_at(&*self.file, &memory.buffer(), *offset, Patience::Wait),
            Work::Write(memory, offset) => write_at(&*self.file, &memory.buffer(), *offset, Patience::Wait),
            Work::Sync => self.file.sync_data().map(|()| 0),
        };
        let number = |error: io::Error| error.raw_os_error().unwrap_or(libc::EIO).saturating_neg();
        outcome.map_or_else(number, |moved| i32::try_from(moved).unwrap_or(i32::MAX))
    }

    /// Does the rest of it at once.
    fn carry_out(&mut self) -> io::Result<()> {
        loop {
            match self.take(self.step()) {
                Turn::Over(outcome) => return outcome,
                Turn::Refused => return Err(io::ErrorKind::WouldBlock.into()),
                Turn::Rest => {}
            }
        }
    }

    /// As the kernel is told of it; `number` comes back with its answer.
    fn entry(&self, number: u64) -> Entry {
        let file = Fd(self.file.as_raw_fd());
        let pieces = |memory: &Kept| (memory.pieces().as_ptr(), u32::try_from(memory.pieces().len()));
        let entry = match &self.work {
            Work::Read(memory, offset) => {
                let (first, count) = pieces(memory);
                opcode::Readv::new(file, first, count.unwrap_or(0)).offset(*offset).build()
            }
            Work::Write(memory, offset) => {
                let (first, count) = pieces(memory);
                opcode::Writev::new(file, first, count.unwrap_or(0)).offset(*offset).build()
            }
            Work::Sync => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
        };
        entry.flags(Flags::ASYNC).user_data(number)
    }
}

/// A transfer that the kernel has, and what is to be known at its end, if it still matters to anybody.
#[derive(Debug)]
struct Slot<T> {
    transfer: Transfer,
    ticket: Option<T>,
}

/// A device's transfers that wait, each with a `T` that says whose it is.
#[derive(Debug)]
pub struct Waits<T> {
    ring: Option<Ring>,
    /// By the number that the kernel knows them by. They stay until it has answered: it uses what they own.
    slots: Vec<Option<Slot<T>>>,
    in_flight: usize,
    /// Whether those in flight are a former driver's, and whether that was waited for.
    forgotten: bool,
    waited: bool,
}

impl<T> Waits<T> {
    /// With a ring; without one nothing may be begun.
    pub fn new(ring: Option<Ring>) -> Waits<T> {
        Waits { ring, slots: Vec::new(), in_flight: 0, forgotten: false, waited: false }
    }

    /// What becomes readable when a transfer has ended.
    pub fn host(&self) -> Option<BorrowedFd<'_>> {
        self.ring.as_ref().map(|ring| ring.woken.as_fd())
    }

    /// Whether anything may be begun at all.
    pub fn is_possible(&self) -> bool {
        self.ring.is_some()
    }

    /// Whether there is room for one more now, and nothing of a former driver's is left.
    pub fn has_room(&self) -> bool {
        !self.forgotten && self.in_flight < MOST as usize
    }

    /// Begins a transfer, for which there must be room; to be followed by [`Waits::send`].
    pub fn begin(&mut self, transfer: Transfer, ticket: T) {
        assert!(self.has_room(), "a transfer is begun for which there is no room");
        let free = self.slots.iter().position(Option::is_none);
        let number = free.unwrap_or(self.slots.len());
        if free.is_none() {
            self.slots.push(None);
        }
        let placed = self.place(number, Slot { transfer, ticket: Some(ticket) });
        assert!(placed, "a transfer is begun without a ring");
    }

    /// Gives a slot to the kernel, which is told with the next call. `false`: there is no ring.
    fn place(&mut self, number: usize, slot: Slot<T>) -> bool {
        let (Some(ring), Some(place)) = (&mut self.ring, self.slots.get_mut(number)) else {
            return false;
        };
        let entry = slot.transfer.entry(number as u64);
        *place = Some(slot);
        // SAFETY: what the entry points to, the list of pieces and the guest's memory that they are in, and the file, are
        // owned by the slot, behind pointers that do not move with it. The slot stays until the kernel has answered, or for
        // ever. The kernel reads and writes the guest's memory, which is never a reference of Rust's.
        let pushed = unsafe { ring.uring.submission().push(&entry) };
        // As many places as slots, each of which has one entry at most.
        assert!(pushed.is_ok(), "the ring is full before all of its places are taken");
        self.in_flight += 1;
        true
    }

    /// Tells the kernel of what was begun. `false` when it cannot take all of it now: it is to be told again soon.
    pub fn send(&mut self) -> bool {
        if self.in_flight == 0 {
            return true;
        }
        let Some(ring) = &mut self.ring else { return true };
        if ring.uring.submission().is_empty() {
            return true;
        }
        ring.uring.submit().is_ok() && ring.uring.submission().is_empty()
    }

    /// The next transfer that has ended: what was given with it, and how it ended. To be followed by [`Waits::send`].
    pub fn finished(&mut self) -> Option<(T, io::Result<()>)> {
        while let Some((number, mut slot, answer)) = self.answered() {
            let Some(ticket) = slot.ticket.take() else { continue };
            let outcome = match slot.transfer.take(answer) {
                Turn::Over(outcome) => outcome,
                Turn::Refused => slot.transfer.carry_out(),
                Turn::Rest => {
                    slot.ticket = Some(ticket);
                    self.place(number, slot);
                    continue;
                }
            };
            return Some((ticket, outcome));
        }
        None
    }

    /// The next slot that the kernel has given back, with its number and the kernel's answer.
    fn answered(&mut self) -> Option<(usize, Slot<T>, i32)> {
        while self.in_flight > 0 {
            let answer = self.ring.as_mut()?.uring.completion().next()?;
            let number = usize::try_from(answer.user_data()).ok()?;
            // Each is taken once, whatever is answered.
            if let Some(slot) = self.slots.get_mut(number).and_then(Option::take) {
                self.in_flight -= 1;
                self.forgotten &= self.in_flight > 0;
                return Some((number, slot, answer.result()));
            }
        }
        None
    }

    /// The driver is gone: nobody is told any more how what is in flight ends. What the kernel was not told of moves nothing.
    pub fn forget(&mut self) {
        let unsent = self.ring.as_mut().is_some_and(|ring| !ring.uring.submission().is_empty());
        for slot in self.slots.iter_mut().flatten() {
            slot.ticket = None;
            if unsent {
                slot.transfer.skip(usize::MAX);
            }
        }
        self.waited &= self.forgotten;
        self.forgotten = self.in_flight > 0;
    }

    /// Waits for what was forgotten, but not long, only once, and without any system call that a processor's thread may not make.
    pub fn settle(&mut self) {
        let (nothing, nobody, start) = (Mutex::new(()), Condvar::new(), Instant::now());
        while !self.waited && self.reap_forgotten() {
            self.waited = start.elapsed() >= PATIENCE;
            let held = nothing.lock().unwrap_or_else(PoisonError::into_inner);
            drop(nobody.wait_timeout(held, LOOK));
        }
    }

    /// Whether something of a former driver's is still in flight, so that nothing may be begun yet.
    pub fn is_held(&mut self) -> bool {
        self.reap_forgotten()
    }

    fn reap_forgotten(&mut self) -> bool {
        while self.forgotten && self.answered().is_some() {}
        self.forgotten
    }
}

impl<T> Drop for Waits<T> {
    fn drop(&mut self) {
        if self.in_flight > 0 {
            // The kernel still uses what they own.
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memory;
    use crate::virtio::Buffer;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::io::{PipeReader, PipeWriter, Write};
    use std::os::fd::OwnedFd;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

    /// A place for transfers, unless the kernel gives no ring: the test `name` is then skipped.
    fn waits(name: &str) -> Option<Waits<u32>> {
        Ring::for_test(name, Event::new()).map(|ring| Waits::new(Some(ring)))
    }

    fn memory() -> Memory {
        Memory::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap()
    }

    fn kept(memory: &Memory, address: u64, length: usize) -> Kept {
        let slice = GuestMemoryBackend::get_slice(memory, GuestAddress(address), length).unwrap();
        Kept::new(&Buffer::of([slice].into_iter().collect()), memory).unwrap()
    }

    /// A file that is read as soon as something is written to the other end, and not before.
    fn slow() -> (Arc<File>, PipeWriter) {
        let (reader, writer): (PipeReader, PipeWriter) = io::pipe().unwrap();
        (Arc::new(File::from(OwnedFd::from(reader))), writer)
    }

    /// Waits for the end of a transfer.
    fn end(waits: &mut Waits<u32>) -> (u32, io::Result<()>) {
        loop {
            if let Some(ended) = waits.finished() {
                return ended;
            }
            assert!(waits.send());
            let woken = &waits.ring.as_ref().unwrap().woken;
            let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
            match poll(&mut [PollFd::new(woken, PollFlags::IN)], Some(&limit)) {
                Ok(0) => panic!("no transfer ends"),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("{error}"),
            }
            woken.take();
        }
    }

    #[test]
    fn what_waits_ends_when_there_is_something_and_is_told_once() {
        let Some(mut waits) = waits("what_waits_ends_when_there_is_something_and_is_told_once") else {
            return;
        };
        let (memory, (file, mut other)) = (memory(), slow());
        waits.begin(Transfer::read(file, kept(&memory, 0x100, 4), 512, 0), 7);
        assert!(waits.send() && waits.finished().is_none());
        other.write_all(b"told").unwrap();
        let (ticket, outcome) = end(&mut waits);
        assert_eq!((ticket, outcome.is_ok()), (7, true));
        assert_eq!(memory.read_obj::<[u8; 4]>(GuestAddress(0x100)).unwrap(), *b"told");
        assert!(waits.finished().is_none());
    }

    #[test]
    fn what_comes_in_parts_goes_on_where_it_was() {
        let Some(mut waits) = waits("what_comes_in_parts_goes_on_where_it_was") else { return };
        let (memory, (file, mut other)) = (memory(), slow());
        waits.begin(Transfer::read(file, kept(&memory, 0x100, 6), 0, 2), 7);
        assert!(waits.send());
        other.write_all(b"on").unwrap();
        while waits.finished().is_none() {
            assert!(waits.send());
            if memory.read_obj::<u8>(GuestAddress(0x103)).unwrap() == b'n' {
                break;
            }
            std::thread::yield_now();
        }
        other.write_all(b"es").unwrap();
        assert!(end(&mut waits).1.is_ok());
        assert_eq!(memory.read_obj::<[u8; 6]>(GuestAddress(0x100)).unwrap(), *b"\0\0ones");
    }

    #[test]
    fn a_file_that_ends_too_soon_is_refused() {
        let Some(mut waits) = waits("a_file_that_ends_too_soon_is_refused") else { return };
        let (memory, (file, other)) = (memory(), slow());
        waits.begin(Transfer::read(file, kept(&memory, 0x100, 4), 0, 0), 7);
        drop(other);
        assert_eq!(end(&mut waits).1.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_was_forgotten_is_told_nobody_and_holds_up_what_is_new() {
        let Some(mut waits) = waits("what_was_forgotten_is_told_nobody_and_holds_up_what_is_new") else {
            return;
        };
        let (memory, (file, mut other)) = (memory(), slow());
        waits.begin(Transfer::read(file, kept(&memory, 0x100, 4), 0, 0), 7);
        assert!(waits.send());
        waits.forget();
        assert!(waits.is_held() && !waits.has_room());
        other.write_all(b"late").unwrap();
        while waits.is_held() {
            std::thread::yield_now();
        }
        assert!(waits.has_room() && waits.finished().is_none());
    }

    #[test]
    fn a_reset_waits_for_what_is_nearly_done() {
        let Some(mut waits) = waits("a_reset_waits_for_what_is_nearly_done") else { return };
        let (memory, (file, mut other)) = (memory(), slow());
        waits.begin(Transfer::read(file, kept(&memory, 0x100, 4), 0, 0), 7);
        assert!(waits.send());
        other.write_all(b"done").unwrap();
        waits.forget();
        waits.settle();
        assert!(waits.has_room() && waits.in_flight == 0);
        assert_eq!(memory.read_obj::<[u8; 4]>(GuestAddress(0x100)).unwrap(), *b"done");
    }

    #[test]
    fn what_takes_long_is_waited_for_once() {
        let Some(mut waits) = waits("what_takes_long_is_waited_for_once") else { return };
        let (memory, (file, _other)) = (memory(), slow());
        waits.begin(Transfer::read(file, kept(&memory, 0x100, 4), 0, 0), 7);
        assert!(waits.send());
        for _ in 0..2 {
            waits.forget();
            waits.settle();
            assert!(waits.waited && waits.is_held());
        }
    }

    #[test]
    fn what_the_kernel_was_not_told_of_moves_nothing_after_a_reset() {
        let Some(mut waits) = waits("what_the_kernel_was_not_told_of_moves_nothing_after_a_reset") else {
            return;
        };
        let (memory, (file, mut other)) = (memory(), slow());
        other.write_all(b"late").unwrap();
        waits.begin(Transfer::read(file, kept(&memory, 0x100, 4), 0, 0), 7);
        waits.forget();
        while waits.is_held() {
            assert!(waits.send());
        }
        assert_eq!(memory.read_obj::<[u8; 4]>(GuestAddress(0x100)).unwrap(), [0; 4]);
    }

    #[test]
    fn as_many_wait_as_the_ring_has_places_and_places_are_used_again() {
        let name = "as_many_wait_as_the_ring_has_places_and_places_are_used_again";
        let Some(mut waits) = waits(name) else { return };
        let (memory, (file, mut other)) = (memory(), slow());
        for number in 0..MOST {
            assert!(waits.has_room());
            waits.begin(Transfer::read(Arc::clone(&file), kept(&memory, 0x100, 1), 0, 0), number);
        }
        assert!(waits.send() && !waits.has_room());
        other.write_all(&[1; 65]).unwrap();
        end(&mut waits).1.unwrap();
        waits.begin(Transfer::read(file, kept(&memory, 0x100, 1), 0, 0), MOST);
        let mut ended: Vec<u32> = (0..MOST).map(|_| end(&mut waits).0).collect();
        ended.sort_unstable();
        ended.dedup();
        assert_eq!((ended.len(), waits.slots.len(), waits.in_flight), (64, 64, 0));
    }

    #[test]
    fn a_file_is_written_made_safe_and_read() {
        let Some(mut waits) = waits("a_file_is_written_made_safe_and_read") else { return };
        let (memory, file) = (memory(), Arc::new(tempfile::tempfile().unwrap()));
        memory.write_slice(b"content", GuestAddress(0x100)).unwrap();
        let to = kept(&memory, 0x200, 7);
        let steps = [
            Transfer::write(Arc::clone(&file), kept(&memory, 0x100, 7), 512, 0),
            Transfer::sync(Arc::clone(&file)),
            Transfer::read(file, to, 512, 0),
        ];
        for transfer in steps {
            waits.begin(transfer, 0);
            end(&mut waits).1.unwrap();
        }
        assert_eq!(memory.read_obj::<[u8; 7]>(GuestAddress(0x200)).unwrap(), *b"content");
    }

    #[test]
    fn the_ring_does_nothing_else_for_anybody() {
        let Some(mut waits) = waits("the_ring_does_nothing_else_for_anybody") else { return };
        let ring = &mut waits.ring.as_mut().unwrap().uring;
        let (path, outside) = (c"/dev/null", Fd(libc::AT_FDCWD));
        let refused = [
            opcode::OpenAt::new(outside, path.as_ptr()).build().flags(Flags::ASYNC),
            opcode::Nop::new().build().flags(Flags::ASYNC),
            // Not to be done in the caller's time.
            opcode::Fsync::new(outside).build(),
        ];
        for entry in refused {
            // SAFETY: the path is a constant.
            unsafe { ring.submission().push(&entry) }.unwrap();
            ring.submit_and_wait(1).unwrap();
            assert_eq!(ring.completion().next().unwrap().result(), -libc::EACCES);
        }
        assert!(ring.submitter().register_eventfd(0).is_err());
    }

    #[test]
    fn a_transfer_for_which_the_kernel_has_no_thread_is_done_here() {
        let (memory, file) = (memory(), Arc::new(tempfile::tempfile().unwrap()));
        memory.write_slice(b"content", GuestAddress(0x100)).unwrap();
        let mut transfer = Transfer::write(Arc::clone(&file), kept(&memory, 0x100, 7), 0, 0);
        assert!(matches!(transfer.take(-libc::EAGAIN), Turn::Refused));
        transfer.carry_out().unwrap();
        assert_eq!(file.metadata().unwrap().len(), 7);
        let mut beyond = Transfer::read(file, kept(&memory, 0x200, 8), 0, 0);
        assert_eq!(beyond.carry_out().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
