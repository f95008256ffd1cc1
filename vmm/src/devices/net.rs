//! An attached tap queue as virtio-net (virtio 1.2, section 5.1), or a seat that a tap may come to and leave again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};
use virtio_queue::{Queue, QueueOwnedT, QueueT};

use super::seat::Seat;
use super::tap::{HEADER, NetError, Tap};
use crate::memory::Memory;
use crate::spec::{Limit, Nic};
use crate::virtio::{Access, Buffer, Cause, Device, Fault, Identity, Limiter, Served, pop, write_to};

/// Numbers of the queues.
const RX: usize = 0;
const TX: usize = 1;
const QUEUES: &[u16] = &[256, 256];

/// Where in the header the number of buffers is.
const BUFFERS: usize = 10;

/// The longest packet that a tap gives, header included.
const PACKET: usize = HEADER + 65_550;

/// Packets moved per direction and call, before other devices have their turn.
const BUDGET: usize = 128;

/// The most packets that are thrown away when a driver starts: more than a tap's queue holds, which is 500.
const MAX_STALE: usize = 1024;

/// The device.
#[derive(Debug)]
pub struct Net {
    tap: Option<Tap>,
    /// Where the tap comes from, if it was not there from the start.
    seat: Option<Seat>,
    mac: [u8; 6],
    mtu: u16,
    /// What the driver has taken.
    features: u64,
    /// Whether the tap is still to be told of the features, by the thread that may ask the kernel for it.
    untold: bool,
    /// What keeps each direction to its limit.
    received: Limiter,
    sent: Limiter,
    /// A packet that the guest had no room for.
    packet: Vec<u8>,
    waiting: usize,
    dropped: u64,
}

impl Net {
    /// Takes over the tap of `nic`, each of whose directions has this limit.
    pub fn new(nic: Nic, limit: Limit) -> Result<Net, NetError> {
        let Nic { tap, mac, mtu } = nic;
        Ok(Net { tap: Some(Tap::new(tap)?), ..Net::empty(mac, mtu, limit) })
    }

    /// An interface whose tap comes and goes with the seat.
    pub fn seat(mac: [u8; 6], mtu: u16, limit: Limit) -> io::Result<(Net, Seat)> {
        let seat = Seat::new()?;
        Ok((Net { seat: Some(seat.clone()), ..Net::empty(mac, mtu, limit) }, seat))
    }

    fn empty(mac: [u8; 6], mtu: u16, limit: Limit) -> Net {
        Net {
            tap: None,
            seat: None,
            mac,
            mtu,
            features: 0,
            untold: false,
            received: Limiter::new(limit),
            sent: Limiter::new(limit),
            packet: Vec::new(),
            waiting: 0,
            dropped: 0,
        }
    }

    fn features() -> u64 {
        [
            VIRTIO_NET_F_CSUM,
            VIRTIO_NET_F_GUEST_CSUM,
            VIRTIO_NET_F_MTU,
            VIRTIO_NET_F_MAC,
            VIRTIO_NET_F_GUEST_TSO4,
            VIRTIO_NET_F_GUEST_TSO6,
            VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_F_HOST_TSO6,
            VIRTIO_NET_F_MRG_RXBUF,
        ]
        .into_iter()
        .fold(0, |features, bit| features | 1 << bit)
    }

    /// From the guest to the tap.
    fn transmit(&mut self, memory: &Memory, queue: &mut Queue, served: &mut Served) -> Result<(), Fault> {
        for _ in 0..BUDGET {
            if let Some(wait) = self.sent.wait() {
                served.wait(wait);
                return Ok(());
            }
            let Some(chain) = pop(queue, memory).map_err(Fault::of(TX))? else { return Ok(()) };
            let head = chain.head_index();
            let packet = Buffer::collect(memory, chain, Access::Read);
            self.sent.spend(packet.as_ref().map_or(0, |packet| body(packet.len())));
            match packet {
                Ok(packet) if packet.len() > HEADER && packet.len() <= PACKET => {
                    // A full tap drops, as a wire does; what it calls invalid is the guest's fault.
                    let sent = self.tap.as_ref().is_some_and(|tap| write_to(tap, &packet).is_ok());
                    self.dropped = self.dropped.saturating_add(u64::from(!sent));
                }
                _ => served.malformed += 1,
            }
            queue.add_used(memory, head, 0).map_err(Fault::of(TX))?;
            served.used(TX);
        }
        served.again = true;
        Ok(())
    }

    /// From the tap to the guest.
    fn receive(&mut self, memory: &Memory, queue: &mut Queue, served: &mut Served) -> Result<(), Fault> {
        for _ in 0..BUDGET {
            if let Some(wait) = self.received.wait() {
                served.wait(wait);
                return Ok(());
            }
            if self.waiting == 0 {
                if !self.read() {
                    return Ok(());
                }
                // Once for each packet, also for one that the guest has no room for yet.
                self.received.spend(body(self.waiting));
            }
            match self.give(memory, queue, served)? {
                Given::All => self.waiting = 0,
                Given::TooLong => {
                    self.waiting = 0;
                    self.dropped = self.dropped.saturating_add(1);
                }
                Given::NoRoom => return Ok(()),
            }
        }
        served.again = true;
        Ok(())
    }

    /// Reads a packet; `false` if there is none.
    fn read(&mut self) -> bool {
        self.packet.resize(PACKET, 0);
        let read = self.tap.as_ref().and_then(|tap| tap.read(&mut self.packet));
        self.waiting = read.unwrap_or(0);
        read.is_some()
    }

    /// Takes over what the seat has now; says whether that is new.
    fn look_at_seat(&mut self) -> bool {
        let Some(tap) = self.seat.as_ref().and_then(Seat::news) else { return false };
        (self.tap, self.waiting, self.untold) = (tap, 0, true);
        true
    }

    /// Tells the tap what the guest can do itself, and throws away what it holds: that may lean on offloads of the driver before.
    fn tell_tap(&mut self) {
        if let Some(tap) = self.tap.as_ref().filter(|_| self.untold) {
            tap.set_offloads(self.features);
            let mut left = MAX_STALE;
            while left > 0 && self.read() {
                left -= 1;
            }
            self.waiting = 0;
        }
        self.untold = false;
    }

    fn merges(&self) -> bool {
        self.features >> VIRTIO_NET_F_MRG_RXBUF & 1 == 1
    }

    /// Gives the waiting packet to the guest, in as many buffers as it takes.
    fn give(&mut self, memory: &Memory, queue: &mut Queue, served: &mut Served) -> Result<Given, Fault> {
        let mut buffers: Vec<(u16, Buffer<'_>)> = Vec::with_capacity(1);
        let mut room = 0;
        while room < self.waiting {
            let full = buffers.len() >= usize::from(queue.size());
            let Some(chain) = pop(queue, memory).map_err(Fault::of(RX))? else {
                for _ in &buffers {
                    queue.go_to_previous_position();
                }
                // A packet that a whole ring has no room for would stop all that follow.
                return Ok(if full { Given::TooLong } else { Given::NoRoom });
            };
            if full {
                // More buffers than there are places for them, and none of them was given back.
                return Err(Fault::of(RX)(virtio_queue::Error::InvalidAvailRingIndex));
            }
            let head = chain.head_index();
            match Buffer::collect(memory, chain, Access::Write) {
                Ok(buffer) if !buffer.is_empty() && (self.merges() || buffer.len() >= self.waiting) => {
                    room += buffer.len();
                    buffers.push((head, buffer));
                }
                Ok(buffer) if !buffer.is_empty() => {
                    // Packets are not spread over buffers, and the driver's are as long as it takes packets.
                    for _ in 0..=buffers.len() {
                        queue.go_to_previous_position();
                    }
                    return Ok(Given::TooLong);
                }
                _ => {
                    // Not for this packet nor another: given back empty, if it does not stand between two that are kept.
                    served.malformed += 1;
                    buffers.push((head, Buffer::default()));
                }
            }
        }
        self.fill(memory, queue, buffers)?;
        served.used(RX);
        Ok(Given::All)
    }

    fn fill(
        &mut self,
        memory: &Memory,
        queue: &mut Queue,
        buffers: Vec<(u16, Buffer<'_>)>,
    ) -> Result<(), Fault> {
        let useful = buffers.iter().filter(|(_, buffer)| !buffer.is_empty()).count();
        let count = u16::try_from(useful).unwrap_or(u16::MAX);
        if let Some(place) = self.packet.get_mut(BUFFERS..HEADER) {
            place.copy_from_slice(&count.to_le_bytes());
        }
        let mut rest = self.packet.get(..self.waiting).unwrap_or(&[]);
        for (head, buffer) in buffers {
            let (now, later) = rest.split_at(buffer.len().min(rest.len()));
            if let Some((place, _)) = buffer.split(now.len()) {
                place.copy_from(now);
            }
            let length = u32::try_from(now.len()).unwrap_or(0);
            queue.add_used(memory, head, length).map_err(Fault::of(RX))?;
            rest = later;
        }
        Ok(())
    }
}

/// Bytes of a packet behind its header.
fn body(length: usize) -> u64 {
    length.saturating_sub(HEADER) as u64
}

/// What became of a packet.
enum Given {
    All,
    /// The guest will have no room for it.
    TooLong,
    /// The guest has no room yet.
    NoRoom,
}

impl Device for Net {
    fn identity(&self) -> Identity {
        let status = if self.seat.is_some() { 1 << VIRTIO_NET_F_STATUS } else { 0 };
        Identity { kind: VIRTIO_ID_NET, features: Net::features() | status, queues: QUEUES }
    }

    fn configuration(&self, offset: u64, data: &mut [u8]) {
        // struct virtio_net_config: address, status, pairs of queues, MTU.
        let up = if self.tap.is_some() { VIRTIO_NET_S_LINK_UP } else { 0 };
        let status = u16::try_from(up).unwrap_or(0).to_le_bytes();
        let mut configuration = [0; 12];
        let fields = self.mac.into_iter().chain(status).chain([1, 0]).chain(self.mtu.to_le_bytes());
        for (place, byte) in configuration.iter_mut().zip(fields) {
            *place = byte;
        }
        let rest = usize::try_from(offset).ok().and_then(|offset| configuration.get(offset..)).unwrap_or(&[]);
        for (place, byte) in data.iter_mut().zip(rest) {
            *place = *byte;
        }
    }

    fn start(&mut self, features: u64) {
        (self.features, self.untold) = (features, true);
    }

    fn stop(&mut self) {
        self.waiting = 0;
        self.packet = Vec::new();
    }

    fn serve(&mut self, memory: &Memory, queues: &mut [Queue], cause: Cause) -> Result<Served, Fault> {
        let mut served = Served { changed: self.look_at_seat(), ..Served::default() };
        let [rx, tx] = queues else { return Ok(served) };
        self.tell_tap();
        if tx.ready() && cause != Cause::Host && cause != Cause::Queue(RX) {
            self.transmit(memory, tx, &mut served)?;
        }
        if rx.ready() && cause != Cause::Queue(TX) {
            self.receive(memory, rx, &mut served)?;
        }
        Ok(served)
    }

    fn host(&self) -> Option<BorrowedFd<'_>> {
        self.seat.as_ref().map(Seat::changed).or_else(|| self.tap.as_ref().map(AsFd::as_fd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Rate;
    use crate::virtio::Next;
    use std::num::NonZeroU64;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;
    use virtio_queue::desc::{RawDescriptor, split::Descriptor};
    use virtio_queue::mock::MockSplitQueue;
    use vm_memory::{Bytes, GuestAddress};

    const WRITE: u16 = 2;

    fn memory() -> Memory {
        Memory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
    }

    /// A device whose tap is one end of a pair of sockets, with a driver that has been served once, and the other end.
    fn net(memory: &Memory, merge: bool) -> (Net, UnixDatagram) {
        let (ours, wire) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let tap = Tap::of(OwnedFd::from(ours));
        let mut net = Net { tap: Some(tap), ..Net::empty([2; 6], 1500, Limit::default()) };
        net.start(if merge { 1 << VIRTIO_NET_F_MRG_RXBUF } else { 0 });
        let mut queues = [Queue::new(16).unwrap(), Queue::new(16).unwrap()];
        net.serve(memory, &mut queues, Cause::Again).unwrap();
        (net, wire)
    }

    /// Receives into buffers of these lengths: gives what came of it, and how many buffers went back.
    fn receive(net: &mut Net, memory: &Memory, lengths: &[u32]) -> (Result<Served, Fault>, u16) {
        let mock = MockSplitQueue::create(memory, GuestAddress(0), 16);
        let buffers: Vec<RawDescriptor> =
            lengths.iter().map(|length| Descriptor::new(0x1_0000, *length, WRITE, 0).into()).collect();
        mock.add_desc_chains(&buffers, 0).unwrap();
        let mut queues = [mock.create_queue().unwrap(), Queue::new(16).unwrap()];
        let served = net.serve(memory, &mut queues, Cause::Host);
        (served, mock.used().idx().load())
    }

    #[test]
    fn a_packet_longer_than_the_drivers_buffers_does_not_hold_up_those_behind_it() {
        let memory = memory();
        let (mut net, wire) = net(&memory, false);
        wire.send(&[1; 200]).unwrap();
        wire.send(&[2; 90]).unwrap();
        let (served, used) = receive(&mut net, &memory, &[100, 100]);
        assert_eq!((served.unwrap().malformed, used, net.dropped), (0, 1, 1));
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x1_0000)).unwrap(), 2);
    }

    #[test]
    fn a_packet_is_spread_over_buffers_that_may_be_merged() {
        let memory = memory();
        let (mut net, wire) = net(&memory, true);
        wire.send(&[1; 200]).unwrap();
        assert_eq!(receive(&mut net, &memory, &[100]).1, 0);
        assert_eq!(receive(&mut net, &memory, &[100, 100, 100]).1, 2);
    }

    #[test]
    fn a_packet_longer_than_a_whole_ring_is_dropped() {
        let memory = memory();
        let (mut net, wire) = net(&memory, true);
        wire.send(&[1; 200]).unwrap();
        wire.send(&[2; 90]).unwrap();
        let (served, used) = receive(&mut net, &memory, &[10; 16]);
        assert!(served.is_ok());
        assert_eq!((used, net.dropped), (9, 1));
    }

    #[test]
    fn packets_beyond_the_limit_wait_and_are_not_lost() {
        let memory = memory();
        let (mut net, wire) = net(&memory, false);
        let now = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&now);
        let rate = Rate { per_second: NonZeroU64::new(80).unwrap(), burst: NonZeroU64::MIN };
        let limit = Limit { bytes: Some(rate), operations: None };
        net.received =
            Limiter::with(limit, Box::new(move || Duration::from_secs(told.load(Ordering::SeqCst))));
        wire.send(&[1; HEADER + 80]).unwrap();
        wire.send(&[2; HEADER + 80]).unwrap();
        let (served, used) = receive(&mut net, &memory, &[100, 100]);
        assert_eq!((served.unwrap().next(), used), (Next::In(Duration::from_secs(1)), 1));
        now.store(1, Ordering::SeqCst);
        let (served, used) = receive(&mut net, &memory, &[100, 100]);
        assert_eq!((served.unwrap().next(), used), (Next::In(Duration::from_secs(1)), 1));
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x1_0000)).unwrap(), 2);
    }

    fn link(net: &Net) -> u16 {
        let mut status = [0xee; 2];
        net.configuration(6, &mut status);
        u16::from_le_bytes(status)
    }

    #[test]
    fn a_seat_has_a_link_while_it_has_a_tap_and_drops_what_is_sent_without() {
        let memory = memory();
        let (mut net, seat) = Net::seat([2; 6], 1500, Limit::default()).unwrap();
        net.start(0);
        assert_eq!((receive(&mut net, &memory, &[100]).1, link(&net)), (0, 0));
        let (ours, wire) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        wire.send(&[1; 90]).unwrap();
        seat.plug(Tap::of(ours.into())).unwrap();
        let (served, used) = receive(&mut net, &memory, &[100]);
        assert_eq!((served.unwrap().changed, used, link(&net)), (true, 0, 1));
        wire.send(&[2; 90]).unwrap();
        let (served, used) = receive(&mut net, &memory, &[100]);
        assert_eq!((served.unwrap().changed, used), (false, 1));
        drop(seat.unplug().unwrap());
        assert!(receive(&mut net, &memory, &[100]).0.unwrap().changed);
        assert_eq!(link(&net), 0);
        assert!(wire.send(&[3; 90]).is_err(), "the tap is still open");
    }

    #[test]
    fn what_the_tap_held_before_a_driver_came_does_not_reach_it() {
        let memory = memory();
        let (mut net, wire) = net(&memory, false);
        wire.send(&[1; 90]).unwrap();
        net.stop();
        net.start(0);
        assert_eq!(receive(&mut net, &memory, &[100]).1, 0);
        wire.send(&[2; 90]).unwrap();
        assert_eq!(receive(&mut net, &memory, &[100]).1, 1);
    }
}
