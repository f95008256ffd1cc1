//! A disk as virtio-blk (virtio 1.2, section 5.2).

use std::os::fd::BorrowedFd;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_queue::{Queue, QueueT};

use super::disk::{Disk, MAX_FORGET, Refusal, TURN};
use crate::memory::Memory;
use crate::spec::MAX_SERIAL;
use crate::virtio::{Buffer, Cause, Chain, Device, Fault, Identity, Limiter, Served, pop};

/// Descriptors of the queue, and the most pieces of one request: header and status are two more.
const QUEUES: &[u16] = &[256];
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

/// Requests carried out per call, before other devices have their turn.
const BUDGET: usize = 64;

/// The device.
#[derive(Debug)]
pub struct Block {
    disk: Disk,
    limiter: Limiter,
}

/// What became of a request: the status byte, and the bytes written before it.
struct Answer {
    status: u32,
    written: u32,
}

/// First sector and number of sectors.
type Range = (u64, u64);

impl Block {
    /// A device over `disk`, which `limiter` keeps to a limit.
    pub fn new(disk: Disk, limiter: Limiter) -> Block {
        Block { disk, limiter }
    }

    fn features(&self) -> u64 {
        let always = (1 << VIRTIO_BLK_F_SEG_MAX) | (1 << VIRTIO_BLK_F_SIZE_MAX) | (1 << VIRTIO_BLK_F_FLUSH);
        let writable = (1 << VIRTIO_BLK_F_DISCARD) | (1 << VIRTIO_BLK_F_WRITE_ZEROES);
        always | if self.disk.is_read_only() { 1 << VIRTIO_BLK_F_RO } else { writable }
    }

    /// Carries out one chain: gives the number of bytes written into it, and how much work it was, or nothing for a chain
    /// that is no request.
    fn handle(&self, chain: Chain<'_>) -> Option<(u32, u64)> {
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
        let answer = self.carry_out(kind, sector, &data, space);
        status.copy_from(&[u8::try_from(answer.status).unwrap_or(1)]);
        Some((answer.written.checked_add(1)?, work))
    }

    fn carry_out(&self, kind: u32, sector: u64, data: &Buffer<'_>, space: Buffer<'_>) -> Answer {
        let length = u32::try_from(space.len()).unwrap_or(0);
        if data.len() as u64 > TURN || space.len() as u64 > TURN {
            return Answer { status: VIRTIO_BLK_S_IOERR, written: 0 };
        }
        let (outcome, written) = match kind {
            VIRTIO_BLK_T_IN => (self.disk.read(sector, &space), length),
            VIRTIO_BLK_T_OUT => (self.disk.write(sector, data), 0),
            VIRTIO_BLK_T_FLUSH => (self.disk.flush(), 0),
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES if !self.disk.is_read_only() => {
                (self.ranges(kind, data), 0)
            }
            VIRTIO_BLK_T_GET_ID => return self.tell_serial(space),
            _ => return Answer { status: VIRTIO_BLK_S_UNSUPP, written: 0 },
        };
        match outcome {
            Ok(()) => Answer { status: VIRTIO_BLK_S_OK, written },
            Err(Refusal::Unable) => Answer { status: VIRTIO_BLK_S_UNSUPP, written: 0 },
            Err(Refusal::Request | Refusal::Host) => Answer { status: VIRTIO_BLK_S_IOERR, written: 0 },
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

impl Device for Block {
    fn identity(&self) -> Identity {
        Identity { kind: VIRTIO_ID_BLOCK, features: self.features(), queues: QUEUES }
    }

    fn configuration(&self, offset: u64, data: &mut [u8]) {
        // struct virtio_blk_config, up to write_zeroes_may_unmap.
        let mut configuration = [0; 57];
        let mut put = |at: usize, bytes: &[u8]| {
            for (place, byte) in configuration.iter_mut().skip(at).zip(bytes) {
                *place = *byte;
            }
        };
        put(0, &self.disk.sectors().to_le_bytes());
        put(8, &MAX_PIECE.to_le_bytes());
        put(12, &MAX_PIECES.to_le_bytes());
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

    fn stop(&mut self) {}

    fn serve(&mut self, memory: &Memory, queues: &mut [Queue], _cause: Cause) -> Result<Served, Fault> {
        let mut served = Served::default();
        let Some(queue) = queues.first_mut().filter(|queue| queue.ready()) else { return Ok(served) };
        let mut done = 0;
        for _ in 0..BUDGET {
            if let Some(wait) = self.limiter.wait() {
                served.wait(wait);
                return Ok(served);
            }
            let Some(chain) = pop(queue, memory).map_err(Fault::of(0))? else { return Ok(served) };
            let head = chain.head_index();
            let handled = Chain::collect(memory, chain).ok().and_then(|chain| self.handle(chain));
            served.malformed += u64::from(handled.is_none());
            let (written, work) = handled.unwrap_or((0, 0));
            queue.add_used(memory, head, written).map_err(Fault::of(0))?;
            served.used(0);
            self.limiter.spend(work);
            done += work;
            if done >= TURN {
                break;
            }
        }
        served.again = true;
        Ok(served)
    }

    fn host(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Backing, create};
    use crate::spec::{self, Limit};
    use std::os::unix::fs::FileExt;
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
        (Block::new(Disk::new(spec).unwrap(), Limiter::new(Limit::default())), file)
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
}
