//! A disk as virtio-blk (virtio 1.2, section 5.2).

use std::os::fd::BorrowedFd;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_queue::{Queue, QueueT};

use super::disk::{Disk, Refusal};
use crate::memory::Memory;
use crate::spec::MAX_SERIAL;
use crate::virtio::{Buffer, Cause, Chain, Device, Fault, Identity, Served, pop};

/// Descriptors of the queue, and the most pieces of one request: header and status are two more.
const QUEUES: &[u16] = &[256];
const MAX_PIECES: u32 = 254;

/// Bytes of a request's header, and of one range to be discarded or zeroed.
const HEADER: usize = 16;
const RANGE: usize = 16;

/// Sectors that may be discarded or zeroed by one range, and ranges in one request.
const MAX_RANGE: u32 = 1 << 22;
const MAX_RANGES: u32 = 16;

/// Requests carried out per call, before other devices have their turn.
const BUDGET: usize = 64;

/// The device.
#[derive(Debug)]
pub struct Block {
    disk: Disk,
}

/// What became of a request: the status byte, and the bytes written before it.
struct Answer {
    status: u32,
    written: u32,
}

impl Block {
    /// A device over `disk`.
    pub fn new(disk: Disk) -> Block {
        Block { disk }
    }

    fn features(&self) -> u64 {
        let always = (1 << VIRTIO_BLK_F_SEG_MAX) | (1 << VIRTIO_BLK_F_FLUSH);
        let writable = (1 << VIRTIO_BLK_F_DISCARD) | (1 << VIRTIO_BLK_F_WRITE_ZEROES);
        always | if self.disk.is_read_only() { 1 << VIRTIO_BLK_F_RO } else { writable }
    }

    /// Carries out one chain: gives the number of bytes written into it, or nothing for a chain that is no request.
    fn handle(&self, chain: Chain<'_>) -> Option<u32> {
        let (header, data) = chain.readable.split(HEADER)?;
        let mut fields = [0; HEADER];
        header.copy_to(&mut fields);
        let room = chain.writable.len().checked_sub(1)?;
        let (space, status) = chain.writable.split(room)?;
        let kind = u32::from_le_bytes([fields[0], fields[1], fields[2], fields[3]]);
        let sector = fields.get(8..).and_then(|rest| rest.try_into().ok()).map_or(0, u64::from_le_bytes);
        let answer = self.carry_out(kind, sector, &data, space);
        status.copy_from(&[u8::try_from(answer.status).unwrap_or(1)]);
        answer.written.checked_add(1)
    }

    fn carry_out(&self, kind: u32, sector: u64, data: &Buffer<'_>, space: Buffer<'_>) -> Answer {
        let length = u32::try_from(space.len()).unwrap_or(0);
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

    /// Discards or zeroes every range that the request lists.
    fn ranges(&self, kind: u32, data: &Buffer<'_>) -> Result<(), Refusal> {
        let most = usize::try_from(MAX_RANGES).unwrap_or(0) * RANGE;
        if data.is_empty() || data.len() > most || !data.len().is_multiple_of(RANGE) {
            return Err(Refusal::Request);
        }
        let mut list = vec![0; data.len()];
        data.copy_to(&mut list);
        for range in list.chunks_exact(RANGE) {
            let number = |from: usize, to: usize| {
                range
                    .get(from..to)
                    .unwrap_or(&[])
                    .iter()
                    .rev()
                    .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
            };
            let (sector, sectors) = (number(0, 8), number(8, 12));
            if sectors > u64::from(MAX_RANGE) {
                return Err(Refusal::Request);
            }
            match kind {
                VIRTIO_BLK_T_DISCARD => self.disk.discard(sector, sectors)?,
                _ => self.disk.zero(sector, sectors)?,
            }
        }
        Ok(())
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
        for _ in 0..BUDGET {
            let Some(chain) = pop(queue, memory).map_err(Fault::of(0))? else { return Ok(served) };
            let head = chain.head_index();
            let written = Chain::collect(memory, chain).ok().and_then(|chain| self.handle(chain));
            served.malformed += u64::from(written.is_none());
            queue.add_used(memory, head, written.unwrap_or(0)).map_err(Fault::of(0))?;
            served.used(0);
        }
        served.again = true;
        Ok(served)
    }

    fn host(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
