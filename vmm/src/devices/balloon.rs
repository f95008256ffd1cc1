//! virtio-balloon (virtio 1.2, section 5.5) for one of its uses: the guest reports pages that it does not use, and they go
//! back to the node at once. Nothing is ever taken from the guest.

use std::os::fd::BorrowedFd;

use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use virtio_queue::{DescriptorChain, Queue, QueueT};

use crate::memory::{Memory, give_back};
use crate::virtio::{BadChain, Cause, Device, Fault, Identity, Served, pop, walk};

/// Free pages are reported on a queue of their own: the third, as the two optional ones between are not offered.
const FEATURE_REPORTING: u64 = 1 << 5;
const QUEUES: &[u16] = &[16, 16, 32];
const REPORTS: usize = 2;

/// The most ranges of one report: as many as Linux puts into one, which is as many as the queue has descriptors.
const MAX_RANGES: usize = 32;

/// Reports taken per queue and call, before other devices have their turn: each may be much work for the node's kernel.
const BUDGET: usize = 4;

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
            let mut left = BUDGET;
            while let Some(chain) = pop(queue, memory).map_err(Fault::of(index))? {
                let head = chain.head_index();
                if index == REPORTS && take_back(memory, chain).is_err() {
                    served.malformed += 1;
                }
                queue.add_used(memory, head, 0).map_err(Fault::of(index))?;
                served.used(index);
                left -= 1;
                if left == 0 {
                    served.again = true;
                    break;
                }
            }
        }
        Ok(served)
    }

    fn host(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Gives the pages of a report back: all of its ranges are the device's to write, or none is taken.
fn take_back(memory: &Memory, report: DescriptorChain<&Memory>) -> Result<(), BadChain> {
    let mut ranges = Vec::with_capacity(MAX_RANGES);
    walk(report, MAX_RANGES, |range| {
        ranges.push((range.addr().0, u64::from(range.len())));
        if range.is_write_only() { Ok(()) } else { Err(BadChain) }
    })?;
    for (address, length) in ranges {
        // What cannot be given back, such as the kernel's own file, stays: no harm to anybody.
        give_back(memory, address, length);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Backing, create};
    use virtio_queue::desc::{RawDescriptor, split::Descriptor};
    use virtio_queue::mock::MockSplitQueue;
    use vm_memory::{Bytes, GuestAddress};

    const NEXT: u16 = 1;
    const WRITE: u16 = 2;

    fn serve(memory: &Memory, chains: &[RawDescriptor]) -> Served {
        let mock = MockSplitQueue::create(memory, GuestAddress(0), 64);
        mock.add_desc_chains(chains, 0).unwrap();
        let mut queues = [Queue::new(16).unwrap(), Queue::new(16).unwrap(), mock.create_queue().unwrap()];
        Balloon.serve(memory, &mut queues, Cause::Queue(2)).unwrap()
    }

    fn report_with(memory: &Memory, flags: u16, ranges: &[(u64, u32)]) -> Served {
        let last = ranges.len() - 1;
        let descriptors: Vec<RawDescriptor> = (0_u16..)
            .zip(ranges)
            .map(|(index, (address, length))| {
                let next = if usize::from(index) < last { NEXT } else { 0 };
                Descriptor::new(*address, *length, flags | next, index + 1).into()
            })
            .collect();
        let served = serve(memory, &descriptors);
        assert_eq!(served.used, 4);
        served
    }

    fn report(memory: &Memory, ranges: &[(u64, u32)]) {
        assert_eq!(report_with(memory, WRITE, ranges).malformed, 0);
    }

    fn is_there(memory: &Memory, address: u64) -> bool {
        memory.read_obj::<u8>(GuestAddress(address)).unwrap() == 1
    }

    #[test]
    fn a_report_of_pages_that_are_not_the_devices_to_write_changes_nothing() {
        let memory = create(4, Backing::default()).unwrap();
        memory.write_slice(&[1; 4096], GuestAddress(0x10_0000)).unwrap();
        assert_eq!(report_with(&memory, 0, &[(0x10_0000, 4096)]).malformed, 1);
        assert!(is_there(&memory, 0x10_0000));
    }

    #[test]
    fn a_report_of_more_ranges_than_fit_the_queue_changes_nothing() {
        let memory = create(4, Backing::default()).unwrap();
        memory.write_slice(&[1; 4096], GuestAddress(0x10_0000)).unwrap();
        assert_eq!(report_with(&memory, WRITE, &[(0x10_0000, 4096); 33]).malformed, 1);
        assert!(is_there(&memory, 0x10_0000));
        assert_eq!(report_with(&memory, WRITE, &[(0x10_0000, 4096); 32]).malformed, 0);
        assert!(!is_there(&memory, 0x10_0000));
    }

    #[test]
    fn a_call_takes_a_few_reports_and_leaves_the_rest_for_later() {
        let memory = create(4, Backing::default()).unwrap();
        let range = |_| Descriptor::new(0x10_0000, 4096, WRITE, 0).into();
        assert!(serve(&memory, &(0..5).map(range).collect::<Vec<_>>()).again);
        assert!(!serve(&memory, &(0..3).map(range).collect::<Vec<_>>()).again);
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
