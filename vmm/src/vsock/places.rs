//! Buffers of the guest's that are about to take packets.
//!
//! The bytes of one connection that has much to say are read into many buffers by one call; a guest's buffer has a page.

use smallvec::SmallVec;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT};

use super::credit::Room;
use super::packet::{HEADER_LEN, MAX_PAYLOAD};
use crate::memory::Memory;
use crate::virtio::{Access, Buffer, pop};

/// The most buffers that are filled by one call.
pub(super) const MANY: usize = 32;

/// A buffer of the guest's for one packet.
#[derive(Debug)]
pub(super) struct Place<'m> {
    /// By this number it is given back.
    pub head: u16,
    /// Where the header goes.
    pub header: Buffer<'m>,
    payload: Buffer<'m>,
}

impl<'m> Place<'m> {
    /// A chain in which there is room for a header and more.
    pub(super) fn of(memory: &'m Memory, chain: DescriptorChain<&'m Memory>) -> Option<Place<'m>> {
        let head = chain.head_index();
        let buffer = Buffer::collect(memory, chain, Access::Write).ok()?;
        let (header, payload) = buffer.split(HEADER_LEN)?;
        (!payload.is_empty()).then_some(Place { head, header, payload })
    }
}

/// Where the bytes of one read go.
#[derive(Debug)]
pub(super) struct Places<'m> {
    /// All of it, in order.
    pub payload: Buffer<'m>,
    /// Number and header of each packet's buffer, and how many bytes of payload it takes.
    pub packets: SmallVec<[(u16, Buffer<'m>, u32); 1]>,
}

impl<'m> Places<'m> {
    /// A place, and up to `most` with it that are there, as far as there is room in the connection's account.
    pub(super) fn begin(
        first: Place<'m>,
        (memory, queue): (&'m Memory, &mut Queue),
        most: usize,
        room: Room,
    ) -> Result<Places<'m>, virtio_queue::Error> {
        let mut places = Places { payload: Buffer::default(), packets: SmallVec::new() };
        let mut left = room.bytes;
        places.add(first, &mut left);
        let most = most.min(usize::try_from(room.packets).unwrap_or(usize::MAX));
        while places.packets.len() < most && left > 0 {
            let Some(chain) = pop(queue, memory)? else { break };
            if !Place::of(memory, chain).is_some_and(|place| places.add(place, &mut left)) {
                // It is the next one's turn to see what is wrong with it.
                queue.go_to_previous_position();
                break;
            }
        }
        Ok(places)
    }

    fn add(&mut self, place: Place<'m>, left: &mut u32) -> bool {
        let length = u32::try_from(place.payload.len()).unwrap_or(u32::MAX).min(MAX_PAYLOAD).min(*left);
        let cut = usize::try_from(length).ok().and_then(|length| place.payload.split(length));
        if !cut.is_some_and(|(payload, _)| self.payload.append(payload)) {
            return false;
        }
        *left -= length;
        self.packets.push((place.head, place.header, length));
        true
    }
}
