//! The door to guest memory: one descriptor chain as a list of bounded slices.
//!
//! The guest wrote the chain and can rewrite the memory it names at any time. So descriptors are read once, every
//! range is checked against the guest's memory, and whoever needs to trust bytes copies them out first.

use smallvec::SmallVec;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};

use crate::memory::Memory;

/// A chain that names memory the guest does not have, mixes reading and writing, has too many pieces, or does not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadChain;

/// Which way a chain's memory is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The device reads what the driver wrote.
    Read,
    /// The device writes what the driver will read.
    Write,
}

/// The most pieces of memory in one chain: as many as one call of the kernel takes.
const MAX_SLICES: usize = 1024;

/// What is listed of most chains' parts, without being allocated: the one buffer of a packet, data and status of a short request.
pub(crate) type Short<T> = SmallVec<[T; 2]>;

/// Takes the next chain. If there is none, asks the guest to say when there is one, and looks once more.
pub fn pop<'m>(
    queue: &mut Queue,
    memory: &'m Memory,
) -> Result<Option<DescriptorChain<&'m Memory>>, virtio_queue::Error> {
    if let Some(chain) = queue.iter(memory)?.next() {
        return Ok(Some(chain));
    }
    queue.enable_notification(memory)?;
    Ok(queue.iter(memory)?.next())
}

/// Looks at each descriptor of a chain, of which there may be `most`, one at least, and the last of which says so.
pub fn walk(
    chain: DescriptorChain<&Memory>,
    most: usize,
    mut look: impl FnMut(Descriptor) -> Result<(), BadChain>,
) -> Result<(), BadChain> {
    let mut more = true;
    // One over the most is looked for, so that a chain that goes on is told from one that ends.
    for (index, descriptor) in chain.take(most.saturating_add(1)).enumerate() {
        if index >= most {
            return Err(BadChain);
        }
        more = descriptor.has_next();
        look(descriptor)?;
    }
    if more { Err(BadChain) } else { Ok(()) }
}

/// A chain as most devices have it: first what the device reads, then what it writes.
#[derive(Debug)]
pub struct Chain<'m> {
    /// By this number it is given back.
    pub head: u16,
    /// What the driver wrote for the device.
    pub readable: Buffer<'m>,
    /// What the device fills for the driver.
    pub writable: Buffer<'m>,
}

impl<'m> Chain<'m> {
    /// Collects both parts of `chain`; a chain that reads after it wrote is bad.
    pub fn collect(memory: &'m Memory, chain: DescriptorChain<&'m Memory>) -> Result<Chain<'m>, BadChain> {
        let head = chain.head_index();
        let mut parts = [Buffer::default(), Buffer::default()];
        walk(chain, MAX_SLICES, |descriptor| {
            let [readable, writable] = &mut parts;
            let part = match (descriptor.is_write_only(), writable.is_empty()) {
                (true, _) => writable,
                (false, true) => readable,
                (false, false) => return Err(BadChain),
            };
            part.extend(memory, descriptor.addr(), descriptor.len())
        })?;
        let [readable, writable] = parts;
        Ok(Chain { head, readable, writable })
    }
}

/// A chain's memory.
#[derive(Debug, Default)]
pub struct Buffer<'m> {
    slices: Short<VolatileSlice<'m>>,
    len: usize,
}

impl<'m> Buffer<'m> {
    /// Collects the memory of `chain`, all of which must be for `access`.
    pub fn collect(
        memory: &'m Memory,
        chain: DescriptorChain<&Memory>,
        access: Access,
    ) -> Result<Buffer<'m>, BadChain> {
        let mut buffer = Buffer::default();
        walk(chain, MAX_SLICES, |descriptor| {
            if descriptor.is_write_only() != (access == Access::Write) {
                return Err(BadChain);
            }
            buffer.extend(memory, descriptor.addr(), descriptor.len())
        })?;
        Ok(buffer)
    }

    /// These slices, in order, of which there are no more than a chain has.
    pub(crate) fn of(slices: Short<VolatileSlice<'m>>) -> Buffer<'m> {
        let len = slices.iter().map(VolatileSlice::len).sum();
        Buffer { slices, len }
    }

    fn extend(&mut self, memory: &'m Memory, address: GuestAddress, length: u32) -> Result<(), BadChain> {
        let length = usize::try_from(length).map_err(|_| BadChain)?;
        for slice in GuestMemoryBackend::get_slices(memory, address, length) {
            self.push(slice.map_err(|_| BadChain)?)?;
        }
        Ok(())
    }

    fn push(&mut self, slice: VolatileSlice<'m>) -> Result<(), BadChain> {
        if self.slices.len() >= MAX_SLICES {
            return Err(BadChain);
        }
        self.len = self.len.checked_add(slice.len()).ok_or(BadChain)?;
        self.slices.push(slice);
        Ok(())
    }

    /// Puts `other` behind it, and says whether there was room for its pieces.
    pub fn append(&mut self, other: Buffer<'m>) -> bool {
        if self.slices.len() + other.slices.len() > MAX_SLICES {
            return false;
        }
        let Some(len) = self.len.checked_add(other.len) else { return false };
        self.slices.extend(other.slices);
        self.len = len;
        true
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its slices, in order.
    pub fn slices(&self) -> &[VolatileSlice<'m>] {
        &self.slices
    }

    /// The first `len` bytes, and what follows them; `None` if there are fewer.
    pub fn split(mut self, len: usize) -> Option<(Buffer<'m>, Buffer<'m>)> {
        let rest = self.len.checked_sub(len)?;
        let (mut whole, mut missing) = (0, len);
        while let Some(slice) = self.slices.get(whole).filter(|slice| slice.len() <= missing) {
            missing -= slice.len();
            whole += 1;
        }
        // Nothing is copied, and where nothing follows nothing is allocated: most requests are split between descriptors.
        let mut back: Short<_> = self.slices.drain(whole..).collect();
        if missing > 0 {
            let first = back.first_mut()?;
            let (head, tail) = first.split_at(missing).ok()?;
            *first = tail;
            self.slices.push(head);
        }
        Some((Buffer { slices: self.slices, len }, Buffer { slices: back, len: rest }))
    }

    /// Copies the whole buffer out into `bytes`, which must be as long.
    pub fn copy_to(&self, bytes: &mut [u8]) -> bool {
        let mut rest = bytes;
        for slice in &self.slices {
            let Some((now, later)) = rest.split_at_mut_checked(slice.len()) else { return false };
            slice.copy_to(now);
            rest = later;
        }
        rest.is_empty()
    }

    /// Copies `bytes` over the whole buffer, which must be as long.
    pub fn copy_from(&self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        for slice in &self.slices {
            let Some((now, later)) = rest.split_at_checked(slice.len()) else { return false };
            slice.copy_from(now);
            rest = later;
        }
        rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_queue::desc::RawDescriptor;
    use virtio_queue::mock::MockSplitQueue;
    use vm_memory::Bytes;

    const NEXT: u16 = 1;
    const WRITE: u16 = 2;

    fn memory() -> Memory {
        Memory::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap()
    }

    fn collect(memory: &Memory, descriptors: &[Descriptor], access: Access) -> Result<Vec<usize>, BadChain> {
        let mock = MockSplitQueue::new(memory, 16);
        let raw: Vec<_> = descriptors.iter().map(|descriptor| RawDescriptor::from(*descriptor)).collect();
        mock.build_desc_chain(&raw).unwrap();
        let mut queue: Queue = mock.create_queue().unwrap();
        let chain = queue.pop_descriptor_chain(memory).unwrap();
        Buffer::collect(memory, chain, access)
            .map(|buffer| buffer.slices().iter().map(VolatileSlice::len).collect())
    }

    #[test]
    fn a_chain_of_two_is_collected_in_order() {
        let descriptors = [Descriptor::new(0x4000, 44, NEXT, 1), Descriptor::new(0x5000, 100, 0, 0)];
        assert_eq!(collect(&memory(), &descriptors, Access::Read), Ok(vec![44, 100]));
    }

    #[test]
    fn a_chain_that_mixes_directions_is_bad() {
        let descriptors = [Descriptor::new(0x4000, 44, NEXT, 1), Descriptor::new(0x5000, 100, WRITE, 0)];
        assert_eq!(collect(&memory(), &descriptors, Access::Read), Err(BadChain));
    }

    #[test]
    fn a_chain_that_does_not_end_is_bad() {
        let loops = [Descriptor::new(0x4000, 16, NEXT, 1), Descriptor::new(0x5000, 16, NEXT, 0)];
        let leads_nowhere = [Descriptor::new(0x4000, 16, NEXT, 99)];
        for descriptors in [&loops[..], &leads_nowhere] {
            assert_eq!(collect_as_it_is(&memory(), descriptors), Err(BadChain));
        }
    }

    #[test]
    fn a_chain_of_empty_descriptors_has_an_end_as_well() {
        let memory = memory();
        // A table of 2000 descriptors, each of which has no byte and leads to the next.
        let table: Vec<u8> = (1..=2000_u16)
            .flat_map(|next| [&[0; 12][..], &NEXT.to_le_bytes(), &next.to_le_bytes()].concat())
            .collect();
        memory.write_slice(&table, GuestAddress(0x4000)).unwrap();
        let indirect = Descriptor::new(0x4000, 2000 * 16, 4, 0);
        let mut seen = 0;
        let outcome = with_chain(&memory, &[indirect], |chain| {
            walk(chain, MAX_SLICES, |_| {
                seen += 1;
                Ok(())
            })
        });
        assert_eq!((outcome, seen), (Err(BadChain), MAX_SLICES));
    }

    /// Hands over the chain that begins with the first of these descriptors, which are not changed.
    fn with_chain<'m, T>(
        memory: &'m Memory,
        descriptors: &[Descriptor],
        then: impl FnOnce(DescriptorChain<&'m Memory>) -> T,
    ) -> T {
        let mock = MockSplitQueue::new(memory, 16);
        for (index, descriptor) in (0_u16..).zip(descriptors) {
            mock.desc_table().store(index, RawDescriptor::from(*descriptor)).unwrap();
        }
        mock.avail().ring().ref_at(0).unwrap().store(0);
        mock.avail().idx().store(1);
        let mut queue: Queue = mock.create_queue().unwrap();
        then(pop(&mut queue, memory).unwrap().unwrap())
    }

    fn collect_as_it_is(memory: &Memory, descriptors: &[Descriptor]) -> Result<usize, BadChain> {
        let read = |chain| Buffer::collect(memory, chain, Access::Read).map(|buffer| buffer.len());
        with_chain(memory, descriptors, read)
    }

    fn parts(memory: &Memory, descriptors: &[Descriptor]) -> Result<(usize, usize), BadChain> {
        let mock = MockSplitQueue::new(memory, 16);
        let raw: Vec<_> = descriptors.iter().map(|descriptor| RawDescriptor::from(*descriptor)).collect();
        mock.build_desc_chain(&raw).unwrap();
        let mut queue: Queue = mock.create_queue().unwrap();
        let chain = pop(&mut queue, memory).unwrap().unwrap();
        Chain::collect(memory, chain).map(|chain| (chain.readable.len(), chain.writable.len()))
    }

    #[test]
    fn a_request_has_what_is_read_and_what_is_written() {
        let descriptors = [Descriptor::new(0x4000, 16, NEXT, 1), Descriptor::new(0x5000, 513, WRITE, 0)];
        assert_eq!(parts(&memory(), &descriptors), Ok((16, 513)));
    }

    #[test]
    fn a_request_that_reads_after_it_wrote_is_bad() {
        let descriptors = [Descriptor::new(0x4000, 16, NEXT | WRITE, 1), Descriptor::new(0x5000, 16, 0, 0)];
        assert_eq!(parts(&memory(), &descriptors), Err(BadChain));
    }

    #[test]
    fn a_buffer_takes_no_more_pieces_than_the_kernel_does() {
        let memory = memory();
        let mut buffer = Buffer::default();
        for _ in 0..MAX_SLICES {
            buffer.extend(&memory, GuestAddress(0), 1).unwrap();
        }
        assert_eq!(buffer.extend(&memory, GuestAddress(0), 1), Err(BadChain));
    }

    #[test]
    fn memory_beyond_the_guests_end_is_bad() {
        assert_eq!(collect(&memory(), &[Descriptor::new(0xff00, 0x200, 0, 0)], Access::Read), Err(BadChain));
    }

    #[test]
    fn an_address_that_overflows_is_bad() {
        let descriptor = Descriptor::new(u64::MAX - 10, 100, WRITE, 0);
        assert_eq!(collect(&memory(), &[descriptor], Access::Write), Err(BadChain));
    }

    #[test]
    fn a_split_within_a_slice_keeps_every_byte() {
        let memory = memory();
        memory.write_slice(b"headpayload", GuestAddress(0x100)).unwrap();
        let slice = GuestMemoryBackend::get_slice(&memory, GuestAddress(0x100), 11).unwrap();
        let (head, payload) = Buffer { slices: smallvec::smallvec![slice], len: 11 }.split(4).unwrap();
        let (mut first, mut second) = ([0; 4], [0; 7]);
        assert!(head.copy_to(&mut first) && payload.copy_to(&mut second));
        assert_eq!((&first, &second), (b"head", b"payload"));
    }

    #[test]
    fn a_split_between_slices_or_at_an_end_keeps_every_slice_whole() {
        let memory = memory();
        let parts = |at: usize| {
            let mut buffer = Buffer::default();
            for length in [16, 512, 1] {
                buffer.extend(&memory, GuestAddress(0x100), length).unwrap();
            }
            let (front, back) = buffer.split(at).unwrap();
            assert_eq!((front.len(), back.len()), (at, 529 - at));
            [front, back].map(|part| part.slices().iter().map(VolatileSlice::len).collect::<Vec<_>>())
        };
        assert_eq!(parts(0), [vec![], vec![16, 512, 1]]);
        assert_eq!(parts(16), [vec![16], vec![512, 1]]);
        assert_eq!(parts(528), [vec![16, 512], vec![1]]);
        assert_eq!(parts(529), [vec![16, 512, 1], vec![]]);
        assert_eq!(parts(20), [vec![16, 4], vec![508, 1]]);
    }

    #[test]
    fn a_split_beyond_the_end_is_refused() {
        assert!(Buffer { slices: Short::new(), len: 0 }.split(1).is_none());
    }
}
