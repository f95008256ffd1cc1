//! virtio-rng (virtio 1.2, section 5.4): the host's random numbers.

use std::os::fd::BorrowedFd;

use rustix::rand::{GetRandomFlags, getrandom};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_queue::{Queue, QueueT};

use crate::memory::Memory;
use crate::virtio::{Access, Buffer, Cause, Device, Fault, Identity, Served, pop};

/// Bytes given per request: a kernel asks for 64. A guest that asks for more asks again.
const MOST: usize = 256;

/// Requests answered per call.
const BUDGET: usize = 64;

/// The device.
#[derive(Debug, Clone, Copy, Default)]
pub struct Random;

impl Device for Random {
    fn identity(&self) -> Identity {
        Identity { kind: VIRTIO_ID_RNG, features: 0, queues: &[64] }
    }

    fn configuration(&self, _offset: u64, _data: &mut [u8]) {}

    fn start(&mut self, _features: u64) {}

    fn stop(&mut self) {}

    fn serve(&mut self, memory: &Memory, queues: &mut [Queue], _cause: Cause) -> Result<Served, Fault> {
        let mut served = Served::default();
        let Some(queue) = queues.first_mut().filter(|queue| queue.ready()) else { return Ok(served) };
        for _ in 0..BUDGET {
            let Some(chain) = pop(queue, memory).map_err(Fault::of(0))? else { return Ok(served) };
            let head = chain.head_index();
            let filled = Buffer::collect(memory, chain, Access::Write).ok().and_then(|buffer| fill(buffer));
            served.malformed += u64::from(filled.is_none());
            queue.add_used(memory, head, filled.unwrap_or(0)).map_err(Fault::of(0))?;
            served.used(0);
        }
        served.again = true;
        Ok(served)
    }

    fn hosts(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }
}

fn fill(buffer: Buffer<'_>) -> Option<u32> {
    let length = buffer.len().min(MOST);
    let (buffer, _) = buffer.split(length)?;
    let mut bytes = [0; MOST];
    let bytes = bytes.get_mut(..length)?;
    // The kernel gives up to 256 bytes at once, or none.
    let given = getrandom(&mut *bytes, GetRandomFlags::empty()).ok()?;
    (given == length && buffer.copy_from(bytes)).then(|| u32::try_from(length).ok())?
}
