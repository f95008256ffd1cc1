#![allow(unsafe_code)] // A tap's header size and offloads are set by ioctls.
//! An attached tap queue as virtio-net (virtio 1.2, section 5.1).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_MTU,
};
use virtio_queue::{Queue, QueueOwnedT, QueueT};

use crate::memory::Memory;
use crate::spec::{Limit, Nic};
use crate::virtio::{Access, Buffer, Cause, Device, Fault, Identity, Limiter, Served, pop, write_to};

/// Numbers of the queues.
const RX: usize = 0;
const TX: usize = 1;
const QUEUES: &[u16] = &[256, 256];

/// Bytes before each packet: `struct virtio_net_hdr_v1`, whose last field is the number of buffers.
const HEADER: usize = 12;
const BUFFERS: usize = 10;

/// The longest packet that a tap gives, header included.
const PACKET: usize = HEADER + 65_550;

/// Packets moved per direction and call, before other devices have their turn.
const BUDGET: usize = 128;

/// The most packets that are thrown away when a driver starts: more than a tap's queue holds, which is 500.
const MAX_STALE: usize = 1024;

/// What the tap may leave to whoever gets its packets (`linux/if_tun.h`).
const TUN_F_CSUM: u32 = 1;
const TUN_F_TSO4: u32 = 2;
const TUN_F_TSO6: u32 = 4;

/// Why a tap cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Its header size cannot be set, or it cannot be made non-blocking.
    #[error("cannot set up the tap: it must be attached, with IFF_VNET_HDR")]
    Tap(#[source] io::Error),
}

/// The device.
#[derive(Debug)]
pub struct Net {
    tap: File,
    mac: [u8; 6],
    mtu: u16,
    merge: bool,
    /// Features whose offloads the tap is still to be told of, by the thread that may ask the kernel for it.
    changed: Option<u64>,
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
        let tap = File::from(nic.tap);
        rustix::io::ioctl_fionbio(&tap, true).map_err(|error| NetError::Tap(error.into()))?;
        let size = libc::c_int::try_from(HEADER).unwrap_or(0);
        // SAFETY: the request reads an int, which lives through the call.
        let outcome = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, &size) };
        if outcome < 0 {
            return Err(NetError::Tap(io::Error::last_os_error()));
        }
        Ok(Net {
            tap,
            mac: nic.mac,
            mtu: nic.mtu,
            merge: false,
            changed: None,
            received: Limiter::new(limit),
            sent: Limiter::new(limit),
            packet: Vec::new(),
            waiting: 0,
            dropped: 0,
        })
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

    /// Tells the tap what the guest can do itself.
    fn set_offloads(&self, features: u64) {
        let has = |bit: u32| features >> bit & 1 == 1;
        let mut offloads = 0;
        if has(VIRTIO_NET_F_GUEST_CSUM) {
            offloads |= TUN_F_CSUM;
            offloads |= if has(VIRTIO_NET_F_GUEST_TSO4) { TUN_F_TSO4 } else { 0 };
            offloads |= if has(VIRTIO_NET_F_GUEST_TSO6) { TUN_F_TSO6 } else { 0 };
        }
        // SAFETY: the request takes a number. A tap that refuses it does everything itself, as before.
        unsafe { libc::ioctl(self.tap.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) };
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
                    self.dropped += u64::from(write_to(&self.tap, &packet).is_err());
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
        loop {
            match rustix::io::read(&self.tap, &mut self.packet[..]) {
                Ok(length) => {
                    self.waiting = if length > HEADER { length } else { 0 };
                    return length > HEADER;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
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
                Ok(buffer) if !buffer.is_empty() && (self.merge || buffer.len() >= self.waiting) => {
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
        Identity { kind: VIRTIO_ID_NET, features: Net::features(), queues: QUEUES }
    }

    fn configuration(&self, offset: u64, data: &mut [u8]) {
        // struct virtio_net_config: address, status, pairs of queues, MTU.
        let mut configuration = [0; 12];
        let fields = self.mac.into_iter().chain([0, 0, 1, 0]).chain(self.mtu.to_le_bytes());
        for (place, byte) in configuration.iter_mut().zip(fields) {
            *place = byte;
        }
        let rest = usize::try_from(offset).ok().and_then(|offset| configuration.get(offset..)).unwrap_or(&[]);
        for (place, byte) in data.iter_mut().zip(rest) {
            *place = *byte;
        }
    }

    fn start(&mut self, features: u64) {
        self.merge = features >> VIRTIO_NET_F_MRG_RXBUF & 1 == 1;
        self.changed = Some(features);
    }

    fn stop(&mut self) {
        self.waiting = 0;
        self.packet = Vec::new();
    }

    fn serve(&mut self, memory: &Memory, queues: &mut [Queue], cause: Cause) -> Result<Served, Fault> {
        let mut served = Served::default();
        let [rx, tx] = queues else { return Ok(served) };
        if let Some(features) = self.changed.take() {
            self.set_offloads(features);
            // What the tap holds already may lean on offloads of the driver before.
            let mut left = MAX_STALE;
            while left > 0 && self.read() {
                left -= 1;
            }
            self.waiting = 0;
        }
        if tx.ready() && cause != Cause::Host && cause != Cause::Queue(RX) {
            self.transmit(memory, tx, &mut served)?;
        }
        if rx.ready() && cause != Cause::Queue(TX) {
            self.receive(memory, rx, &mut served)?;
        }
        Ok(served)
    }

    fn host(&self) -> Option<BorrowedFd<'_>> {
        Some(self.tap.as_fd())
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
        let tap = File::from(OwnedFd::from(ours));
        let mut net = Net {
            tap,
            mac: [2; 6],
            mtu: 1500,
            merge: false,
            changed: None,
            received: Limiter::new(Limit::default()),
            sent: Limiter::new(Limit::default()),
            packet: Vec::new(),
            waiting: 0,
            dropped: 0,
        };
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
