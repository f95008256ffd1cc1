//! virtio-balloon (virtio 1.2, section 5.5) for one of its uses: the guest reports pages that it does not use, and they go
//! back to the node at once. Nothing is ever taken from the guest.

use std::os::fd::BorrowedFd;

use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use virtio_queue::{Queue, QueueT};

use crate::memory::{Memory, give_back};
use crate::virtio::{Cause, Device, Fault, Identity, Served, pop};

/// Free pages are reported on a queue of their own: the third, as the two optional ones between are not offered.
const FEATURE_REPORTING: u64 = 1 << 5;
const QUEUES: &[u16] = &[16, 16, 32];

/// Reports taken per call, before other devices have their turn.
const BUDGET: usize = 32;

/// The device.
#[derive(Debug, Clone, Copy, Default)]
pub struct Balloon;

impl Device for Balloon {
    fn identity(&self) -> Identity {
        Identity { kind: VIRTIO_ID_BALLOON, features: FEATURE_REPORTING, queues: QUEUES }
    }

    fn configuration(&self, _offset: u64, _data: &mut [u8]) {
        // All zero: no page is asked for.
    }

    fn start(&mut self, _features: u64) {}

    fn stop(&mut self) {}

    fn serve(&mut self, memory: &Memory, queues: &mut [Queue], _cause: Cause) -> Result<Served, Fault> {
        let mut served = Served::default();
        for (index, queue) in queues.iter_mut().enumerate().filter(|(_, queue)| queue.ready()) {
            for _ in 0..BUDGET {
                let Some(chain) = pop(queue, memory).map_err(Fault::of(index))? else { break };
                let head = chain.head_index();
                for page in chain.filter(|_| index == 2) {
                    // What cannot be given back, such as the kernel's own file, stays: no harm to anybody.
                    give_back(memory, page.addr().0, u64::from(page.len()));
                }
                queue.add_used(memory, head, 0).map_err(Fault::of(index))?;
                served.used(index);
            }
        }
        // A queue that had more than its budget is looked at again with the next notification or by this.
        served.again = served.used != 0;
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
    use virtio_queue::desc::{RawDescriptor, split::Descriptor};
    use virtio_queue::mock::MockSplitQueue;
    use vm_memory::{Bytes, GuestAddress};

    fn report(memory: &Memory, ranges: &[(u64, u32)]) {
        let last = ranges.len() - 1;
        let descriptors: Vec<RawDescriptor> = (0_u16..)
            .zip(ranges)
            .map(|(index, (address, length))| {
                let flags = 2 | u16::from(usize::from(index) < last);
                Descriptor::new(*address, *length, flags, index + 1).into()
            })
            .collect();
        let mock = MockSplitQueue::create(memory, GuestAddress(0), 16);
        mock.build_desc_chain(&descriptors).unwrap();
        let mut queues = [Queue::new(16).unwrap(), Queue::new(16).unwrap(), mock.create_queue().unwrap()];
        let served = Balloon.serve(memory, &mut queues, Cause::Queue(2)).unwrap();
        assert_eq!(served.used, 4);
    }

    #[test]
    fn reported_pages_are_gone_and_their_neighbours_stay() {
        let memory = create(4, Backing::default()).unwrap();
        memory.write_slice(&[1; 3 * 4096], GuestAddress(0x10_0000)).unwrap();
        report(&memory, &[(0x10_1000, 4096)]);
        let read = |at| memory.read_obj::<u8>(GuestAddress(at)).unwrap();
        assert_eq!([read(0x10_0000), read(0x10_1000), read(0x10_2000)], [1, 0, 1]);
    }

    #[test]
    fn a_report_of_memory_that_the_guest_does_not_have_changes_nothing() {
        let memory = create(4, Backing::default()).unwrap();
        memory.write_slice(&[1; 4096], GuestAddress(0x10_0000)).unwrap();
        report(&memory, &[(u64::MAX - 4095, 4096), (4 << 20, 4096), (0x10_0001, 4096), (0x10_0000, 0)]);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x10_0000)).unwrap(), 1);
    }
}
