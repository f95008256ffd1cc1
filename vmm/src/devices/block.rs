//! A disk as virtio-blk (virtio 1.2, section 5.2).

use std::io;
use std::os::fd::BorrowedFd;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK,
    VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_queue::Queue;

use super::disk::{Disk, MAX_FORGET, Refusal, TURN};
use super::requests::{Carrier, Done, MAX_QUEUES, Requests};
use crate::memory::Memory;
use crate::spec::MAX_SERIAL;
use crate::virtio::{Buffer, Cause, Chain, Device, Fault, Identity, Kept, Limiter, Ring, Served, Transfer};

/// Descriptors of each queue, and the most pieces of one request: header and status are two more.
static QUEUES: [u16; MAX_QUEUES] = [256; MAX_QUEUES];
const MAX_PIECES: u32 = 254;

/// Bytes of one piece, so that the longest request that keeps to this is not longer than a turn.
const MAX_PIECE: u32 = 128 * 1024;

/// Bytes of a request's header, and of one range to be discarded or zeroed.
const HEADER: usize = 16;
const RANGE: usize = 16;

/// Sectors that may be discarded or zeroed by one range, and ranges in one request.
const MAX_RANGE: u32 = MAX_FORGET / MAX_RANGES;
const MAX_RANGES: u32 = 16;

/// The one flag that a range may have, and only one to be zeroed: it may be forgotten as well.
const UNMAP: u32 = 1;

/// The device.
#[derive(Debug)]
pub struct Block {
    sectors: Sectors,
    requests: Requests<Waiting>,
}

/// What the requests are about.
#[derive(Debug)]
struct Sectors {
    disk: Disk,
}

/// What became of a request: the status byte, and the bytes written before it.
struct Answer {
    status: u32,
    written: u32,
}

/// A request, but for its data.
struct Request<'m> {
    kind: u32,
    sector: u64,
    /// Given if it may wait.
    waits: Option<&'m Memory>,
}

/// What a request comes to: an answer now, or a transfer that waits, and how much it writes if it succeeds.
enum Outcome {
    Answer(Answer),
    Waits(Transfer, u32),
}

/// A request that waits: where its status goes, and how much was written if it succeeds.
#[derive(Debug)]
struct Waiting {
    status: Kept,
    written: u32,
}

/// First sector and number of sectors.
type Range = (u64, u64);

impl Block {
    /// A device over `disk` with so many queues, which `limiter` keeps to a limit. What would wait does so in `ring`, if there is
    /// one.
    pub fn new(disk: Disk, queues: usize, limiter: Limiter, ring: Option<Ring>) -> Block {
        Block { sectors: Sectors { disk }, requests: Requests::new(queues, 0, limiter, ring) }
    }

    fn features(&self) -> u64 {
        let always = (1 << VIRTIO_BLK_F_SEG_MAX) | (1 << VIRTIO_BLK_F_SIZE_MAX) | (1 << VIRTIO_BLK_F_FLUSH);
        let writable = (1 << VIRTIO_BLK_F_DISCARD) | (1 << VIRTIO_BLK_F_WRITE_ZEROES);
        let kind = if self.sectors.disk.is_read_only() { 1 << VIRTIO_BLK_F_RO } else { writable };
        always | kind | if self.requests.count() > 1 { 1 << VIRTIO_BLK_F_MQ } else { 0 }
    }
}

impl Carrier for Sectors {
    type Kept = Waiting;

    fn carry_out<'m>(
        &self,
        memory: &'m Memory,
        chain: Chain<'m>,
        may_wait: bool,
    ) -> Option<(Done<Waiting>, u64)> {
        let (header, data) = chain.readable.split(HEADER)?;
        let mut fields = [0; HEADER];
        header.copy_to(&mut fields);
        let room = chain.writable.len().checked_sub(1)?;
        let (space, status) = chain.writable.split(room)?;
        let kind = u32::from_le_bytes([fields[0], fields[1], fields[2], fields[3]]);
        let sector = fields.get(8..).and_then(|rest| rest.try_into().ok()).map_or(0, u64::from_le_bytes);
        let work = match kind {
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => TURN,
            _ => (data.len() as u64).saturating_add(space.len() as u64).min(TURN),
        };
        let request = Request { kind, sector, waits: may_wait.then_some(memory) };
        let done = match self.request(request, &data, space) {
            Outcome::Answer(answer) => Done::Over(answer.give(&status)?),
            Outcome::Waits(transfer, written) => {
                Done::Waits(transfer, Waiting { status: Kept::new(&status, memory)?, written })
            }
        };
        Some((done, work))
    }

    fn answer(kept: Waiting, outcome: io::Result<()>) -> u32 {
        let answer = Answer::of(outcome.map_err(|_| Refusal::Host), kept.written);
        answer.give(&kept.status.buffer()).unwrap_or(0)
    }
}

impl Sectors {
    fn request(&self, request: Request<'_>, data: &Buffer<'_>, space: Buffer<'_>) -> Outcome {
        let Request { kind, sector, waits } = request;
        let length = u32::try_from(space.len()).unwrap_or(0);
        if data.len() as u64 > TURN || space.len() as u64 > TURN {
            return Outcome::Answer(Answer { status: VIRTIO_BLK_S_IOERR, written: 0 });
        }
        let (outcome, written) = match kind {
            VIRTIO_BLK_T_IN => (self.disk.read(sector, &space, waits), length),
            VIRTIO_BLK_T_OUT => (self.disk.write(sector, data, waits), 0),
            VIRTIO_BLK_T_FLUSH => (self.disk.flush(waits), 0),
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES if !self.disk.is_read_only() => {
                (self.ranges(kind, data).map(|()| None), 0)
            }
            VIRTIO_BLK_T_GET_ID => return Outcome::Answer(self.tell_serial(space)),
            _ => return Outcome::Answer(Answer { status: VIRTIO_BLK_S_UNSUPP, written: 0 }),
        };
        match outcome {
            Ok(Some(transfer)) => Outcome::Waits(transfer, written),
            Ok(None) => Outcome::Answer(Answer::of(Ok(()), written)),
            Err(refusal) => Outcome::Answer(Answer::of(Err(refusal), written)),
        }
    }

    fn tell_serial(&self, space: Buffer<'_>) -> Answer {
        let mut serial = [0; MAX_SERIAL];
        for (place, byte) in serial.iter_mut().zip(self.disk.serial().bytes()) {
            *place = byte;
        }
        match space.split(MAX_SERIAL) {
            Some((space, _)) if space.copy_from(&serial) => Answer { status: VIRTIO_BLK_S_OK, written: 20 },
            _ => Answer { status: VIRTIO_BLK_S_IOERR, written: 0 },
        }
    }

    /// Discards or zeroes every range that the request lists, or none.
    fn ranges(&self, kind: u32, data: &Buffer<'_>) -> Result<(), Refusal> {
        let most = usize::try_from(MAX_RANGES).unwrap_or(0) * RANGE;
        if data.is_empty() || data.len() > most || !data.len().is_multiple_of(RANGE) {
            return Err(Refusal::Request);
        }
        let mut list = vec![0; data.len()];
        data.copy_to(&mut list);
        let ranges = list.chunks_exact(RANGE).map(|range| self.range(kind, range));
        let ranges: Vec<Range> = ranges.collect::<Result<_, _>>()?;
        ranges.into_iter().try_for_each(|(sector, sectors)| match kind {
            VIRTIO_BLK_T_DISCARD => self.disk.discard(sector, sectors),
            _ => self.disk.zero(sector, sectors),
        })
    }

    /// Reads a range and checks it (virtio 1.2, section 5.2.6.2).
    fn range(&self, kind: u32, range: &[u8]) -> Result<Range, Refusal> {
        let number = |from: usize, to: usize| {
            let bytes = range.get(from..to).unwrap_or(&[]).iter().rev();
            bytes.fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
        };
        let (sector, sectors, flags) = (number(0, 8), number(8, 12), number(12, 16));
        let known = if kind == VIRTIO_BLK_T_WRITE_ZEROES { u64::from(UNMAP) } else { 0 };
        if flags & !known != 0 {
            return Err(Refusal::Unable);
        }
        if sectors > u64::from(MAX_RANGE) {
            return Err(Refusal::Request);
        }
        self.disk.check(sector, sectors).map(|()| (sector, sectors))
    }
}

impl Answer {
    /// The answer to a request that came to `outcome`, and that writes so much if it succeeds.
    fn of(outcome: Result<(), Refusal>, written: u32) -> Answer {
        match outcome {
            Ok(()) => Answer { status: VIRTIO_BLK_S_OK, written },
            Err(Refusal::Unable) => Answer { status: VIRTIO_BLK_S_UNSUPP, written: 0 },
            Err(Refusal::Request | Refusal::Host) => Answer { status: VIRTIO_BLK_S_IOERR, written: 0 },
        }
    }

    /// Tells the driver: gives the number of bytes written in all.
    fn give(&self, status: &Buffer<'_>) -> Option<u32> {
        status.copy_from(&[u8::try_from(self.status).unwrap_or(1)]);
        self.written.checked_add(1)
    }
}

impl Device for Block {
    fn identity(&self) -> Identity {
        let queues = QUEUES.get(..self.requests.count()).unwrap_or(&[]);
        Identity { kind: VIRTIO_ID_BLOCK, features: self.features(), queues }
    }

    fn configuration(&self, offset: u64, data: &mut [u8]) {
        // struct virtio_blk_config, up to write_zeroes_may_unmap.
        let mut configuration = [0; 57];
        let mut put = |at: usize, bytes: &[u8]| {
            for (place, byte) in configuration.iter_mut().skip(at).zip(bytes) {
                *place = *byte;
            }
        };
        put(0, &self.sectors.disk.sectors().to_le_bytes());
        put(8, &MAX_PIECE.to_le_bytes());
        put(12, &MAX_PIECES.to_le_bytes());
        put(34, &u16::try_from(self.requests.count()).unwrap_or(1).to_le_bytes());
        put(36, &MAX_RANGE.to_le_bytes());
        put(40, &MAX_RANGES.to_le_bytes());
        put(44, &8_u32.to_le_bytes()); // discard on 4 KiB
        put(48, &MAX_RANGE.to_le_bytes());
        put(52, &MAX_RANGES.to_le_bytes());
        put(56, &[1]);
        let rest = usize::try_from(offset).ok().and_then(|offset| configuration.get(offset..)).unwrap_or(&[]);
        for (place, byte) in data.iter_mut().zip(rest) {
            *place = *byte;
        }
    }

    fn start(&mut self, _features: u64) {}

    fn stop(&mut self) {
        self.requests.forget();
    }

    fn settle(&mut self) {
        self.requests.settle();
    }

    fn serve(&mut self, memory: &Memory, queues: &mut [Queue], cause: Cause) -> Result<Served, Fault> {
        let mut served = Served::default();
        self.requests.serve(&self.sectors, memory, queues, cause, &mut served)?;
        Ok(served)
    }

    fn hosts(&self) -> Vec<BorrowedFd<'_>> {
        self.requests.host().into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::memory::{Backing, create};
    use crate::spec::{self, Limit, Rate};
    use rustix::event::{PollFd, PollFlags, poll};
    use std::io::Write;
    use std::num::NonZeroU64;
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;
    use virtio_queue::QueueT;
    use virtio_queue::desc::{RawDescriptor, split::Descriptor};
    use virtio_queue::mock::MockSplitQueue;
    use vm_memory::{Bytes, GuestAddress};

    const NEXT: u16 = 1;
    const WRITE: u16 = 2;

    /// A disk of ones, and its file.
    fn block(sectors: u64) -> (Block, std::fs::File) {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 4096], 0).unwrap();
        file.set_len(sectors * 512).unwrap();
        let spec =
            spec::Disk { serial: "one".to_owned(), file: file.try_clone().unwrap().into(), read_only: false };
        (Block::new(Disk::new(spec).unwrap(), 1, Limiter::new(Limit::default()), None), file)
    }

    /// Sends the same request so many times: gives the last one's status, and whether there is more to do.
    fn send(block: &mut Block, kind: u32, pieces: &[(u64, u32)], times: u16) -> (u32, bool) {
        let memory = create(64, Backing::default()).unwrap();
        send_with(block, &memory, kind, (pieces, times))
    }

    fn send_with(block: &mut Block, memory: &Memory, kind: u32, what: (&[(u64, u32)], u16)) -> (u32, bool) {
        let (pieces, times) = what;
        memory.write_obj(kind, GuestAddress(0x1_0000)).unwrap();
        memory.write_obj(0xff_u8, GuestAddress(0x2_0000)).unwrap();
        let mut descriptors: Vec<RawDescriptor> = Vec::new();
        for _ in 0..times {
            let mut add = |address, length, flags| {
                let next = u16::try_from(descriptors.len() + 1).unwrap();
                descriptors.push(Descriptor::new(address, length, flags, next).into());
            };
            add(0x1_0000, 16, NEXT);
            for (address, length) in pieces {
                add(*address, *length, NEXT | if kind == VIRTIO_BLK_T_IN { WRITE } else { 0 });
            }
            add(0x2_0000, 1, WRITE);
        }
        let mock = MockSplitQueue::create(memory, GuestAddress(0), 128);
        mock.add_desc_chains(&descriptors, 0).unwrap();
        let served = block.serve(memory, &mut [mock.create_queue().unwrap()], Cause::Queue(0)).unwrap();
        (u32::from(memory.read_obj::<u8>(GuestAddress(0x2_0000)).unwrap()), served.again)
    }

    /// Sends ranges: gives the status.
    fn forget(block: &mut Block, kind: u32, ranges: &[(u64, u32, u32)]) -> u32 {
        let memory = create(2, Backing::default()).unwrap();
        let field = |(sector, sectors, flags): &(u64, u32, u32)| {
            [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
        };
        let list: Vec<u8> = ranges.iter().flat_map(field).collect();
        memory.write_slice(&list, GuestAddress(0x3_0000)).unwrap();
        send_with(block, &memory, kind, (&[(0x3_0000, u32::try_from(list.len()).unwrap())], 1)).0
    }

    #[test]
    fn a_request_longer_than_a_turn_is_refused() {
        let (mut block, _) = block(1 << 18);
        let most = u32::try_from(TURN).unwrap();
        assert_eq!(send(&mut block, VIRTIO_BLK_T_IN, &[(0x10_0000, most)], 1).0, VIRTIO_BLK_S_OK);
        let longer = [(0x10_0000, most), (0x10_0000, 512)];
        assert_eq!(send(&mut block, VIRTIO_BLK_T_IN, &longer, 1).0, VIRTIO_BLK_S_IOERR);
    }

    #[test]
    fn a_turn_ends_after_as_many_bytes_as_one_request_may_have() {
        let (mut block, _) = block(1 << 18);
        let most = u32::try_from(TURN).unwrap();
        assert!(!send(&mut block, VIRTIO_BLK_T_IN, &[(0x10_0000, 512)], 2).1);
        assert!(send(&mut block, VIRTIO_BLK_T_IN, &[(0x10_0000, most)], 2).1);
        assert!(send(&mut block, VIRTIO_BLK_T_DISCARD, &[(0x10_0000, 16)], 2).1);
    }

    #[test]
    fn the_longest_request_that_keeps_to_the_configuration_is_taken() {
        assert!(u64::from(MAX_PIECE) * u64::from(MAX_PIECES) <= TURN);
    }

    #[test]
    fn a_range_with_a_flag_that_is_not_its_own_is_not_supported() {
        let (mut block, file) = block(8);
        assert_eq!(forget(&mut block, VIRTIO_BLK_T_DISCARD, &[(0, 8, UNMAP)]), VIRTIO_BLK_S_UNSUPP);
        assert_eq!(forget(&mut block, VIRTIO_BLK_T_WRITE_ZEROES, &[(0, 8, 2)]), VIRTIO_BLK_S_UNSUPP);
        let mut byte = [0];
        file.read_exact_at(&mut byte, 0).unwrap();
        assert_eq!(byte, [1]);
        assert_eq!(forget(&mut block, VIRTIO_BLK_T_WRITE_ZEROES, &[(0, 8, UNMAP)]), VIRTIO_BLK_S_OK);
        file.read_exact_at(&mut byte, 0).unwrap();
        assert_eq!(byte, [0]);
    }

    #[test]
    fn a_list_with_a_range_that_is_refused_changes_nothing() {
        let (mut block, file) = block(1 << 20);
        for bad in [(1 << 20, 1, 0), (0, MAX_RANGE + 1, 0)] {
            assert_eq!(forget(&mut block, VIRTIO_BLK_T_WRITE_ZEROES, &[(0, 8, 0), bad]), VIRTIO_BLK_S_IOERR);
        }
        let mut byte = [0];
        file.read_exact_at(&mut byte, 0).unwrap();
        assert_eq!(byte, [1]);
    }

    /// A device whose disk gives what is written to its other end, unless the kernel gives no ring: the test `name` is then
    /// skipped.
    fn slow(name: &str) -> Option<(Block, std::io::PipeWriter)> {
        let ring = Ring::for_test(name, Event::new())?;
        let (disk, other) = Disk::slow("slow");
        Some((Block::new(disk, 1, Limiter::new(Limit::default()), Some(ring)), other))
    }

    /// Requests in a queue at `at`: each of a kind, for 512 bytes.
    fn queue<'m>(memory: &'m Memory, at: u64, kinds: &[u32]) -> MockSplitQueue<'m, Memory> {
        let mut descriptors: Vec<RawDescriptor> = Vec::new();
        for (index, kind) in (0..).zip(kinds) {
            let place = at + 0x8000 + index * 0x1000;
            memory.write_obj(*kind, GuestAddress(place)).unwrap();
            memory.write_obj(0xff_u8, GuestAddress(place + 16)).unwrap();
            for (address, length, flags) in [(0, 16, NEXT), (512, 512, NEXT | WRITE), (16, 1, WRITE)] {
                let next = u16::try_from(descriptors.len() + 1).unwrap();
                descriptors.push(Descriptor::new(place + address, length, flags, next).into());
            }
        }
        let mock = MockSplitQueue::create(memory, GuestAddress(at), 256);
        mock.add_desc_chains(&descriptors, 0).unwrap();
        mock
    }

    /// Serves the device when its event comes, until chains were given back.
    fn serve_until_used(block: &mut Block, memory: &Memory, queues: &mut [Queue]) {
        loop {
            let limit = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
            let host = PollFd::from_borrowed_fd(block.requests.host().unwrap(), PollFlags::IN);
            assert_ne!(poll(&mut [host], Some(&limit)), Ok(0), "nothing ends");
            if block.serve(memory, queues, Cause::Host(0)).unwrap().used != 0 {
                return;
            }
        }
    }

    fn used(mock: &MockSplitQueue<'_, Memory>) -> Vec<(u32, u32)> {
        let entry = |index| mock.used().ring().ref_at(usize::from(index)).unwrap().load();
        (0..mock.used().idx().load()).map(|index| (entry(index).id(), entry(index).len())).collect()
    }

    #[test]
    fn a_request_that_waits_holds_up_no_other_and_is_given_back_once() {
        let name = "a_request_that_waits_holds_up_no_other_and_is_given_back_once";
        let Some((mut block, mut other)) = slow(name) else { return };
        let memory = create(2, Backing::default()).unwrap();
        let mock = queue(&memory, 0x1_0000, &[VIRTIO_BLK_T_IN, VIRTIO_BLK_T_GET_ID]);
        let mut queues = [mock.create_queue().unwrap()];
        block.serve(&memory, &mut queues, Cause::Queue(0)).unwrap();
        assert_eq!(used(&mock), [(3, 21)]);
        other.write_all(&[7; 512]).unwrap();
        serve_until_used(&mut block, &memory, &mut queues);
        assert_eq!(memory.read_obj::<[u64; 8]>(GuestAddress(0x1_83c0)).unwrap(), [0x0707_0707_0707_0707; 8]);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x1_8010)).unwrap(), 0);
        block.serve(&memory, &mut queues, Cause::Host(0)).unwrap();
        assert_eq!(used(&mock), [(3, 21), (0, 513)]);
    }

    #[test]
    fn a_disk_that_fails_later_is_told_as_one_that_fails_at_once() {
        let Some((mut block, other)) = slow("a_disk_that_fails_later_is_told_as_one_that_fails_at_once")
        else {
            return;
        };
        let memory = create(2, Backing::default()).unwrap();
        let mock = queue(&memory, 0x1_0000, &[VIRTIO_BLK_T_IN]);
        let mut queues = [mock.create_queue().unwrap()];
        block.serve(&memory, &mut queues, Cause::Queue(0)).unwrap();
        drop(other);
        serve_until_used(&mut block, &memory, &mut queues);
        assert_eq!(used(&mock), [(0, 1)]);
        let status = memory.read_obj::<u8>(GuestAddress(0x1_8010)).unwrap();
        assert_eq!(u32::from(status), VIRTIO_BLK_S_IOERR);
    }

    #[test]
    fn more_than_the_ring_holds_waits_in_the_queue() {
        let Some((mut block, mut other)) = slow("more_than_the_ring_holds_waits_in_the_queue") else {
            return;
        };
        let memory = create(2, Backing::default()).unwrap();
        let mock = queue(&memory, 0x1_0000, &[VIRTIO_BLK_T_IN; 66]);
        let mut queues = [mock.create_queue().unwrap()];
        while block.serve(&memory, &mut queues, Cause::Again).unwrap().again {}
        assert_eq!((queues[0].next_avail(), used(&mock)), (64, vec![]));
        other.write_all(&[7; 512 * 66]).unwrap();
        while used(&mock).len() < 66 {
            serve_until_used(&mut block, &memory, &mut queues);
        }
        let mut heads: Vec<u32> = used(&mock).into_iter().map(|(head, _)| head).collect();
        heads.sort_unstable();
        assert_eq!(heads, (0..66).map(|index| index * 3).collect::<Vec<_>>());
    }

    #[test]
    fn after_a_reset_nothing_old_is_given_back_and_nothing_new_overtakes_it() {
        let name = "after_a_reset_nothing_old_is_given_back_and_nothing_new_overtakes_it";
        let Some((mut block, mut other)) = slow(name) else { return };
        let memory = create(2, Backing::default()).unwrap();
        let old = queue(&memory, 0x1_0000, &[VIRTIO_BLK_T_IN]);
        block.serve(&memory, &mut [old.create_queue().unwrap()], Cause::Queue(0)).unwrap();
        block.stop();
        let new = queue(&memory, 0x2_0000, &[VIRTIO_BLK_T_GET_ID]);
        let mut queues = [new.create_queue().unwrap()];
        block.serve(&memory, &mut queues, Cause::Again).unwrap();
        assert_eq!(used(&new), []);
        // A device that a fault has stopped is called without queues.
        block.serve(&memory, &mut [], Cause::Host(0)).unwrap();
        other.write_all(&[7; 512]).unwrap();
        serve_until_used(&mut block, &memory, &mut queues);
        assert_eq!((used(&old), used(&new)), (vec![], vec![(0, 21)]));
    }
    #[test]
    fn several_queues_are_told_of_only_where_there_are() {
        let of = |count| {
            let mut block = block(8).0;
            block.requests = Requests::new(count, 0, Limiter::new(Limit::default()), None);
            let mut told = [0; 2];
            block.configuration(34, &mut told);
            let several = block.identity().features & (1 << VIRTIO_BLK_F_MQ) != 0;
            (block.identity().queues.len(), u16::from_le_bytes(told), several)
        };
        assert_eq!([of(1), of(4), of(64)], [(1, 1, false), (4, 4, true), (8, 8, true)]);
    }

    #[test]
    fn every_queue_has_its_turn_and_one_that_is_named_is_served_alone() {
        let mut block = block(8).0;
        block.requests = Requests::new(3, 0, Limiter::new(Limit::default()), None);
        let memory = create(4, Backing::default()).unwrap();
        let long = vec![VIRTIO_BLK_T_GET_ID; 80];
        let mocks = [
            queue(&memory, 0x10_0000, &long),
            queue(&memory, 0x20_0000, &[VIRTIO_BLK_T_GET_ID]),
            queue(&memory, 0x30_0000, &[VIRTIO_BLK_T_GET_ID]),
        ];
        let mut queues: Vec<Queue> = mocks.iter().map(|mock| mock.create_queue().unwrap()).collect();
        let counts = || mocks.each_ref().map(|mock| mock.used().idx().load());
        assert_eq!(block.serve(&memory, &mut queues, Cause::Queue(2)).unwrap().used, 0b100);
        assert_eq!(counts(), [0, 0, 1]);
        assert!(block.serve(&memory, &mut queues, Cause::Queue(0)).unwrap().again);
        assert_eq!(counts(), [64, 0, 1]);
        assert_eq!(block.serve(&memory, &mut queues, Cause::Again).unwrap().used, 0b011);
        assert_eq!(counts(), [80, 1, 1]);
    }

    #[test]
    fn a_request_that_waited_is_given_back_in_its_own_queue() {
        let Some((mut block, mut other)) = slow("a_request_that_waited_is_given_back_in_its_own_queue")
        else {
            return;
        };
        let memory = create(2, Backing::default()).unwrap();
        let mocks = [queue(&memory, 0x1_0000, &[]), queue(&memory, 0x2_0000, &[VIRTIO_BLK_T_IN])];
        let mut queues: Vec<Queue> = mocks.iter().map(|mock| mock.create_queue().unwrap()).collect();
        block.serve(&memory, &mut queues, Cause::Queue(1)).unwrap();
        other.write_all(&[7; 512]).unwrap();
        serve_until_used(&mut block, &memory, &mut queues);
        assert_eq!((used(&mocks[0]), used(&mocks[1])), (vec![], vec![(0, 513)]));
    }
    #[test]
    fn what_a_limit_allows_is_shared_among_queues() {
        let mut block = block(8).0;
        let seconds = std::sync::Arc::new(AtomicU64::new(0));
        let now = std::sync::Arc::clone(&seconds);
        let clock = Box::new(move || Duration::from_secs(now.load(Ordering::Relaxed)));
        let rate = Rate { per_second: NonZeroU64::MIN, burst: NonZeroU64::MIN };
        let limit = Limit { bytes: None, operations: Some(rate) };
        block.requests = Requests::new(2, 0, Limiter::with(limit, clock), None);
        let memory = create(4, Backing::default()).unwrap();
        let many = vec![VIRTIO_BLK_T_GET_ID; 40];
        let mocks = [queue(&memory, 0x10_0000, &many), queue(&memory, 0x20_0000, &many)];
        let mut queues: Vec<Queue> = mocks.iter().map(|mock| mock.create_queue().unwrap()).collect();
        for _ in 0..40 {
            block.serve(&memory, &mut queues, Cause::Again).unwrap();
            seconds.fetch_add(1, Ordering::Relaxed);
        }
        assert_eq!(mocks.each_ref().map(|mock| mock.used().idx().load()), [20, 20]);
    }
}
