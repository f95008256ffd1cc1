//! virtio-balloon (virtio 1.2, section 5.5): the guest reports pages that it does not use, unasked, and gives pages that it is
//! asked for. Both go back to the node at once.
//!
//! ```text
//! inflate   numbers of pages that the guest gives away ─▶ they go back to the node
//! deflate   numbers of pages that it takes again      ─▶ it finds zeros in them
//! report    ranges that nobody uses just now          ─▶ they go back to the node
//! ```

use std::io;
use std::os::fd::BorrowedFd;

use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use virtio_queue::{DescriptorChain, Queue, QueueT};

use super::ration::Ration;
use crate::memory::{Memory, give_back};
use crate::virtio::{Access, BadChain, Buffer, Cause, Device, Fault, Identity, Served, pop, walk};

/// Free pages are reported on a queue of their own: the third, as the two optional ones between are not offered. A guest
/// that runs out of memory takes what it gave before it ends a process.
const FEATURE_DEFLATE_ON_OOM: u64 = 1 << 2;
const FEATURE_REPORTING: u64 = 1 << 5;
const FEATURES: u64 = FEATURE_DEFLATE_ON_OOM | FEATURE_REPORTING;
const QUEUES: &[u16] = &[16, 16, 32];
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const REPORTS: usize = 2;

/// Bytes of a page, as numbers of pages mean it.
const PAGE: u64 = 4096;

/// The most pages of one request: four times as many as Linux puts into one.
const MAX_PAGES: usize = 1024;

/// The most ranges of one report: as many as Linux puts into one, which is as many as the queue has descriptors.
const MAX_RANGES: usize = 32;

/// Requests taken per queue and call, before other devices have their turn: each may be much work for the node's kernel.
const BUDGET: usize = 4;

/// The device.
#[derive(Debug)]
pub struct Balloon {
    ration: Ration,
    /// Pages that the driver has been told to give, and that it has given.
    told: u32,
    given: u32,
}

impl Balloon {
    /// The device of a guest with `memory_mib`, and what it is asked by.
    pub fn new(memory_mib: u32) -> io::Result<(Balloon, Ration)> {
        let ration = Ration::new(memory_mib)?;
        Ok((Balloon { ration: ration.clone(), told: 0, given: 0 }, ration))
    }

    /// Takes one request; gives whether it was understood.
    fn take(
        &mut self,
        queue: usize,
        memory: &Memory,
        chain: DescriptorChain<&Memory>,
    ) -> Result<(), BadChain> {
        match queue {
            INFLATE => {
                let mut pages = page_numbers(memory, chain)?;
                self.count(self.given.saturating_add(give_away(memory, &mut pages)));
            }
            DEFLATE => {
                let taken = page_numbers(memory, chain)?.len();
                self.count(self.given.saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX)));
            }
            REPORTS => take_back(memory, chain)?,
            _ => {}
        }
        Ok(())
    }

    fn count(&mut self, given: u32) {
        self.given = given;
        self.ration.note(given);
    }
}

impl Device for Balloon {
    fn identity(&self) -> Identity {
        Identity { kind: VIRTIO_ID_BALLOON, features: FEATURES, queues: QUEUES }
    }

    fn configuration(&self, offset: u64, data: &mut [u8]) {
        // How many pages the guest is to give. How many it has given it writes behind that, where nobody reads it.
        let wanted = self.told.to_le_bytes();
        let rest = usize::try_from(offset).ok().and_then(|offset| wanted.get(offset..)).unwrap_or_default();
        data.iter_mut().zip(rest).for_each(|(place, byte)| *place = *byte);
    }

    fn start(&mut self, _features: u64) {}

    fn stop(&mut self) {
        // Whatever was given is a new driver's to use.
        self.count(0);
    }

    fn serve(&mut self, memory: &Memory, queues: &mut [Queue], _cause: Cause) -> Result<Served, Fault> {
        let wanted = self.ration.wanted();
        let mut served = Served { changed: wanted != self.told, ..Served::default() };
        self.told = wanted;
        for (index, queue) in queues.iter_mut().enumerate().filter(|(_, queue)| queue.ready()) {
            let mut left = BUDGET;
            while let Some(chain) = pop(queue, memory).map_err(Fault::of(index))? {
                let head = chain.head_index();
                if self.take(index, memory, chain).is_err() {
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

    fn hosts(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.ration.changed()]
    }
}

/// The numbers of pages in a request, of 32 bits each.
fn page_numbers(memory: &Memory, chain: DescriptorChain<&Memory>) -> Result<Vec<u32>, BadChain> {
    let buffer = Buffer::collect(memory, chain, Access::Read)?;
    let mut bytes = vec![0; buffer.len().min(MAX_PAGES * 4 + 1)];
    let (numbers, []) = bytes.as_chunks::<4>() else { return Err(BadChain) };
    let count = numbers.len();
    if count > MAX_PAGES || !buffer.copy_to(&mut bytes) {
        return Err(BadChain);
    }
    let (numbers, _) = bytes.as_chunks::<4>();
    Ok(numbers.iter().map(|number| u32::from_le_bytes(*number)).collect())
}

/// Gives pages back to the node, those beside one another at once; gives how many were the guest's to give.
fn give_away(memory: &Memory, pages: &mut [u32]) -> u32 {
    pages.sort_unstable();
    let mut given = 0;
    for run in pages.chunk_by(|page, next| page.checked_add(1) == Some(*next)) {
        let Some(first) = run.first() else { continue };
        if give_back(memory, u64::from(*first) * PAGE, run.len() as u64 * PAGE) {
            given += u32::try_from(run.len()).unwrap_or(0);
        }
    }
    given
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

    fn balloon() -> Balloon {
        Balloon::new(4).unwrap().0
    }

    fn serve(memory: &Memory, chains: &[RawDescriptor]) -> Served {
        let mock = MockSplitQueue::create(memory, GuestAddress(0), 64);
        mock.add_desc_chains(chains, 0).unwrap();
        let mut queues = [Queue::new(16).unwrap(), Queue::new(16).unwrap(), mock.create_queue().unwrap()];
        balloon().serve(memory, &mut queues, Cause::Queue(2)).unwrap()
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

    /// Has the driver of `balloon` put these numbers of pages on its queue `index`, 0x8000 in the guest's memory.
    fn put(memory: &Memory, balloon: &mut Balloon, index: usize, pages: &[u32]) -> Served {
        let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        memory.write_slice(&bytes, GuestAddress(0x8000)).unwrap();
        let mock = MockSplitQueue::create(memory, GuestAddress(0), 64);
        let length = u32::try_from(bytes.len()).unwrap();
        mock.add_desc_chains(&[Descriptor::new(0x8000, length, 0, 0).into()], 0).unwrap();
        let mut queues = [16, 16, 32].map(|size| Queue::new(size).unwrap());
        queues[index] = mock.create_queue().unwrap();
        balloon.serve(memory, &mut queues, Cause::Queue(index)).unwrap()
    }

    #[test]
    fn pages_that_the_guest_gives_are_gone_and_counted_until_it_takes_them() {
        let memory = create(4, Backing::default()).unwrap();
        let (mut balloon, ration) = Balloon::new(4).unwrap();
        memory.write_slice(&[1; 0x20_0000], GuestAddress(0x10_0000)).unwrap();
        let pages: Vec<u32> = (0x100..0x200).rev().collect();
        assert_eq!(put(&memory, &mut balloon, INFLATE, &pages).malformed, 0);
        assert_eq!(ration.given(), 1);
        assert!(!is_there(&memory, 0x10_0000) && !is_there(&memory, 0x1f_f000));
        assert!(is_there(&memory, 0x20_0000));
        put(&memory, &mut balloon, DEFLATE, &pages);
        assert_eq!(ration.given(), 0);
    }

    #[test]
    fn pages_that_the_guest_does_not_have_are_not_given() {
        let memory = create(4, Backing::default()).unwrap();
        let (mut balloon, _) = Balloon::new(4).unwrap();
        put(&memory, &mut balloon, INFLATE, &[0x400, u32::MAX, 0x100, 0x100, 0xfff_ffff]);
        assert_eq!(balloon.given, 2);
        put(&memory, &mut balloon, DEFLATE, &[0; 100]);
        assert_eq!(balloon.given, 0);
    }

    #[test]
    fn a_request_of_half_a_number_or_of_too_many_changes_nothing() {
        let memory = create(4, Backing::default()).unwrap();
        let (mut balloon, _) = Balloon::new(4).unwrap();
        memory.write_slice(&[1; 4096], GuestAddress(0x10_0000)).unwrap();
        assert_eq!(put(&memory, &mut balloon, INFLATE, &[0x100; MAX_PAGES + 1]).malformed, 1);
        assert_eq!((balloon.given, is_there(&memory, 0x10_0000)), (0, true));
        assert_eq!(put(&memory, &mut balloon, INFLATE, &[0x100; MAX_PAGES]).malformed, 0);
        let mock = MockSplitQueue::create(&memory, GuestAddress(0), 64);
        mock.add_desc_chains(&[Descriptor::new(0x8000, 6, 0, 0).into()], 0).unwrap();
        let mut queues = [mock.create_queue().unwrap()];
        assert_eq!(balloon.serve(&memory, &mut queues, Cause::Queue(0)).unwrap().malformed, 1);
    }

    #[test]
    fn a_driver_is_told_once_how_much_the_guest_is_to_give() {
        let memory = create(4, Backing::default()).unwrap();
        let (mut balloon, ration) = Balloon::new(512).unwrap();
        ration.set(500).unwrap();
        assert!(balloon.serve(&memory, &mut [], Cause::Host(0)).unwrap().changed);
        let mut configuration = [0xee; 8];
        balloon.configuration(0, &mut configuration);
        assert_eq!(configuration, [0, 12, 0, 0, 0xee, 0xee, 0xee, 0xee]);
        assert!(!balloon.serve(&memory, &mut [], Cause::Host(0)).unwrap().changed);
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
