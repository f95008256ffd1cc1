//! A tap's attached queues as virtio-net (virtio 1.2, section 5.1), or a seat that a tap may come to and leave again.
//!
//! ```text
//! queue of the tap 0 ◀──▶ pair 0: receive, transmit        of these the guest says how many it uses: one at first.
//! queue of the tap 1 ◀──▶ pair 1: receive, transmit        The kernel gives packets to the queues of those only.
//! …                                control ──▶ how many
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_ERR, VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ,
    VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS, VIRTIO_NET_OK, VIRTIO_NET_S_LINK_UP,
};
use virtio_queue::{Queue, QueueOwnedT, QueueT};

use super::seat::Seat;
use super::tap::{HEADER, NetError, Tap};
use crate::memory::Memory;
use crate::spec::{Limit, MAX_NIC_QUEUES, Nic};
use crate::virtio::{Access, Buffer, Cause, Chain, Device, Fault, Identity, Limiter, Served, pop, write_to};

/// All pairs of queues, and the control queue.
static QUEUES: [u16; 2 * MAX_NIC_QUEUES + 1] = [256; 2 * MAX_NIC_QUEUES + 1];

/// Where in the header the number of buffers is.
const BUFFERS: usize = 10;

/// The longest packet that a tap gives, header included.
const PACKET: usize = HEADER + 65_550;

/// Packets moved per direction and call, before other devices have their turn.
const BUDGET: usize = 128;

/// Commands carried out per call.
const COMMANDS: usize = 16;

/// The most packets that are thrown away when a driver starts: more than a tap's queue holds, which is 500.
const MAX_STALE: usize = 1024;

/// The device.
#[derive(Debug)]
pub struct Net {
    /// One at least.
    pairs: Vec<Pair>,
    /// Where the tap comes from, if it was not there from the start.
    seat: Option<Seat>,
    mac: [u8; 6],
    mtu: u16,
    /// What the driver has taken.
    features: u64,
    /// Whether the tap is still to be told of the features, by the thread that may ask the kernel for it.
    untold: bool,
    /// Whose turn it is.
    turn: usize,
    /// What keeps each direction to its limit, all pairs together.
    received: Limiter,
    sent: Limiter,
    /// Where packets are read to.
    packet: Vec<u8>,
    dropped: u64,
}

/// A queue of the tap, and what it keeps for its pair of the guest's queues.
#[derive(Debug)]
struct Pair {
    tap: Option<Tap>,
    /// Whether the kernel gives it packets.
    attached: bool,
    /// A packet that the guest had no room for; empty if there is none.
    waiting: Vec<u8>,
}

impl Pair {
    fn new(tap: Option<Tap>) -> Pair {
        Pair { tap, attached: true, waiting: Vec::new() }
    }

    /// Sees to it that the kernel gives it packets, or does not; says whether that is so.
    fn attach(&mut self, attached: bool) -> bool {
        if self.attached != attached && self.tap.as_ref().is_some_and(|tap| tap.attach(attached)) {
            self.attached = attached;
        }
        self.attached == attached
    }
}

impl Net {
    /// Takes over the queues of the tap of `nic`, each of whose directions has this limit.
    pub fn new(nic: Nic, limit: Limit) -> Result<Net, NetError> {
        let Nic { tap, more, mac, mtu } = nic;
        let found = 1 + more.len();
        if found > MAX_NIC_QUEUES {
            return Err(NetError::Queues { found });
        }
        let mut net = Net::empty(mac, mtu, limit);
        let taps = std::iter::once(tap).chain(more);
        net.pairs = taps.map(|tap| Ok(Pair::new(Some(Tap::new(tap)?)))).collect::<Result<_, NetError>>()?;
        Ok(net)
    }

    /// An interface whose tap comes and goes with the seat.
    pub fn seat(mac: [u8; 6], mtu: u16, limit: Limit) -> io::Result<(Net, Seat)> {
        let seat = Seat::new()?;
        Ok((Net { seat: Some(seat.clone()), ..Net::empty(mac, mtu, limit) }, seat))
    }

    fn empty(mac: [u8; 6], mtu: u16, limit: Limit) -> Net {
        Net {
            pairs: vec![Pair::new(None)],
            seat: None,
            mac,
            mtu,
            features: 0,
            untold: false,
            turn: 0,
            received: Limiter::new(limit),
            sent: Limiter::new(limit),
            packet: Vec::new(),
            dropped: 0,
        }
    }

    fn features(&self) -> u64 {
        let always = [
            VIRTIO_NET_F_CSUM,
            VIRTIO_NET_F_GUEST_CSUM,
            VIRTIO_NET_F_MTU,
            VIRTIO_NET_F_MAC,
            VIRTIO_NET_F_GUEST_TSO4,
            VIRTIO_NET_F_GUEST_TSO6,
            VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_F_HOST_TSO6,
            VIRTIO_NET_F_MRG_RXBUF,
        ];
        let seat = self.seat.is_some().then_some(VIRTIO_NET_F_STATUS);
        let several: &[u32] =
            if self.pairs.len() > 1 { &[VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MQ] } else { &[] };
        always
            .into_iter()
            .chain(seat)
            .chain(several.iter().copied())
            .fold(0, |features, bit| features | 1 << bit)
    }

    fn has(&self, feature: u32) -> bool {
        self.features >> feature & 1 == 1
    }

    /// How many pairs this driver knows of.
    fn known(&self) -> usize {
        if self.has(VIRTIO_NET_F_MQ) { self.pairs.len() } else { 1 }
    }

    /// From the guest to the tap, up to `left` packets.
    fn transmit(
        &mut self,
        memory: &Memory,
        (number, queue): (usize, &mut Queue),
        left: &mut usize,
        served: &mut Served,
    ) -> Result<(), Fault> {
        while *left > 0 {
            if let Some(wait) = self.sent.wait() {
                served.wait(wait);
                return Ok(());
            }
            let Some(chain) = pop(queue, memory).map_err(Fault::of(number))? else { return Ok(()) };
            let head = chain.head_index();
            let packet = Buffer::collect(memory, chain, Access::Read);
            self.sent.spend(packet.as_ref().map_or(0, |packet| body(packet.len())));
            match packet {
                Ok(packet) if packet.len() > HEADER && packet.len() <= PACKET => {
                    // A full tap drops, as a wire does; what it calls invalid is the guest's fault.
                    let tap = self.pairs.get(number / 2).and_then(|pair| pair.tap.as_ref());
                    let sent = tap.is_some_and(|tap| write_to(tap, &packet).is_ok());
                    self.dropped = self.dropped.saturating_add(u64::from(!sent));
                }
                _ => served.malformed += 1,
            }
            queue.add_used(memory, head, 0).map_err(Fault::of(number))?;
            served.used(number);
            *left -= 1;
        }
        served.again = true;
        Ok(())
    }

    /// From the tap to the guest, up to `left` packets.
    fn receive(
        &mut self,
        memory: &Memory,
        (number, queue): (usize, &mut Queue),
        left: &mut usize,
        served: &mut Served,
    ) -> Result<(), Fault> {
        let merges = self.has(VIRTIO_NET_F_MRG_RXBUF);
        let Some(pair) = self.pairs.get_mut(number / 2) else { return Ok(()) };
        while *left > 0 {
            if let Some(wait) = self.received.wait() {
                served.wait(wait);
                return Ok(());
            }
            let mut new = None;
            if pair.waiting.is_empty() {
                let Some(length) = read(pair, &mut self.packet) else { return Ok(()) };
                // Once for each packet, also for one that the guest has no room for yet.
                self.received.spend(body(length));
                new = Some(length);
            }
            let packet = match new {
                Some(length) => self.packet.get_mut(..length).unwrap_or_default(),
                None => &mut pair.waiting,
            };
            match give(packet, memory, (number, &mut *queue), merges, served)? {
                Given::All => pair.waiting.clear(),
                Given::TooLong => {
                    pair.waiting.clear();
                    self.dropped = self.dropped.saturating_add(1);
                }
                Given::NoRoom => {
                    if let Some(length) = new {
                        pair.waiting = self.packet.get(..length).unwrap_or_default().to_vec();
                    }
                    return Ok(());
                }
            }
            *left -= 1;
        }
        served.again = true;
        Ok(())
    }

    /// Takes over what the seat has now; says whether that is new.
    fn look_at_seat(&mut self) -> bool {
        let Some(tap) = self.seat.as_ref().and_then(Seat::news) else { return false };
        (self.pairs, self.untold) = (vec![Pair::new(tap)], true);
        true
    }

    /// Tells the tap what the guest can do itself, and lets only the first of its queues have packets, as for every new driver.
    fn tell_tap(&mut self) {
        if std::mem::take(&mut self.untold) {
            if let Some(tap) = self.pairs.first().and_then(|pair| pair.tap.as_ref()) {
                tap.set_offloads(self.features);
            }
            self.use_pairs(1);
            // What the tap holds may lean on offloads of the driver before.
            for pair in self.pairs.iter_mut().filter(|pair| pair.attached) {
                let mut left = MAX_STALE;
                while left > 0 && read(pair, &mut self.packet).is_some() {
                    left -= 1;
                }
                pair.waiting.clear();
            }
        }
    }

    /// Has the kernel give packets to the first `count` queues of the tap, and says whether it does.
    fn use_pairs(&mut self, count: usize) -> bool {
        let several = self.pairs.len() > 1;
        let pairs = self.pairs.iter_mut().enumerate();
        // All of them are told, also after one that refuses.
        !several || pairs.fold(true, |all, (number, pair)| pair.attach(number < count) && all)
    }

    /// Carries out what the driver asks for beside packets.
    fn obey(
        &mut self,
        memory: &Memory,
        (number, queue): (usize, &mut Queue),
        served: &mut Served,
    ) -> Result<(), Fault> {
        for _ in 0..COMMANDS {
            let Some(chain) = pop(queue, memory).map_err(Fault::of(number))? else { return Ok(()) };
            let head = chain.head_index();
            let written = match Chain::collect(memory, chain) {
                Ok(Chain { readable, writable, .. }) if !writable.is_empty() => {
                    let answer = if self.command(readable) { VIRTIO_NET_OK } else { VIRTIO_NET_ERR };
                    let place = writable.split(1).map(|(place, _)| place);
                    u32::from(
                        place.is_some_and(|place| place.copy_from(&[u8::try_from(answer).unwrap_or(1)])),
                    )
                }
                _ => {
                    served.malformed += 1;
                    0
                }
            };
            queue.add_used(memory, head, written).map_err(Fault::of(number))?;
            served.used(number);
        }
        served.again = true;
        Ok(())
    }

    /// `struct virtio_net_ctrl_hdr`, class and command, and what belongs to it: here how many pairs are used. Says whether it
    /// is done.
    fn command(&mut self, request: Buffer<'_>) -> bool {
        let mut bytes = [0; 4];
        let [class, command, pairs @ ..] = match request.copy_to(&mut bytes) {
            true if request.len() == bytes.len() => bytes,
            _ => return false,
        };
        let pairs = usize::from(u16::from_le_bytes(pairs));
        let is_known =
            (u32::from(class), u32::from(command)) == (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET);
        is_known && (1..=self.known()).contains(&pairs) && self.use_pairs(pairs)
    }
}

/// Bytes of a packet behind its header.
fn body(length: usize) -> u64 {
    length.saturating_sub(HEADER) as u64
}

/// Reads a packet: its length, or nothing if there is none.
fn read(pair: &Pair, packet: &mut Vec<u8>) -> Option<usize> {
    packet.resize(PACKET, 0);
    pair.tap.as_ref().and_then(|tap| tap.read(packet))
}

/// Gives a packet to the guest, in as many buffers as it takes, of which there may be several if it `merges` them.
fn give(
    packet: &mut [u8],
    memory: &Memory,
    (number, queue): (usize, &mut Queue),
    merges: bool,
    served: &mut Served,
) -> Result<Given, Fault> {
    let mut buffers: Vec<(u16, Buffer<'_>)> = Vec::with_capacity(1);
    let mut room = 0;
    while room < packet.len() {
        let full = buffers.len() >= usize::from(queue.size());
        let Some(chain) = pop(queue, memory).map_err(Fault::of(number))? else {
            for _ in &buffers {
                queue.go_to_previous_position();
            }
            // A packet that a whole ring has no room for would stop all that follow.
            return Ok(if full { Given::TooLong } else { Given::NoRoom });
        };
        if full {
            // More buffers than there are places for them, and none of them was given back.
            return Err(Fault::of(number)(virtio_queue::Error::InvalidAvailRingIndex));
        }
        let head = chain.head_index();
        match Buffer::collect(memory, chain, Access::Write) {
            Ok(buffer) if !buffer.is_empty() && (merges || buffer.len() >= packet.len()) => {
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
    fill(packet, memory, (number, queue), buffers)?;
    served.used(number);
    Ok(Given::All)
}

fn fill(
    packet: &mut [u8],
    memory: &Memory,
    (number, queue): (usize, &mut Queue),
    buffers: Vec<(u16, Buffer<'_>)>,
) -> Result<(), Fault> {
    let useful = buffers.iter().filter(|(_, buffer)| !buffer.is_empty()).count();
    let count = u16::try_from(useful).unwrap_or(u16::MAX);
    if let Some(place) = packet.get_mut(BUFFERS..HEADER) {
        place.copy_from_slice(&count.to_le_bytes());
    }
    let mut rest: &[u8] = packet;
    for (head, buffer) in buffers {
        let (now, later) = rest.split_at(buffer.len().min(rest.len()));
        if let Some((place, _)) = buffer.split(now.len()) {
            place.copy_from(now);
        }
        let length = u32::try_from(now.len()).unwrap_or(0);
        queue.add_used(memory, head, length).map_err(Fault::of(number))?;
        rest = later;
    }
    Ok(())
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
        let count = if self.pairs.len() > 1 { 2 * self.pairs.len() + 1 } else { 2 };
        let queues = QUEUES.get(..count).unwrap_or(&[]);
        Identity { kind: VIRTIO_ID_NET, features: self.features(), queues }
    }

    fn configuration(&self, offset: u64, data: &mut [u8]) {
        // struct virtio_net_config: address, status, pairs of queues, MTU.
        let up = if self.pairs.iter().any(|pair| pair.tap.is_some()) { VIRTIO_NET_S_LINK_UP } else { 0 };
        let status = u16::try_from(up).unwrap_or(0).to_le_bytes();
        let pairs = u16::try_from(self.pairs.len()).unwrap_or(1).to_le_bytes();
        let mut configuration = [0; 12];
        let fields = self.mac.into_iter().chain(status).chain(pairs).chain(self.mtu.to_le_bytes());
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
        self.packet = Vec::new();
        self.pairs.iter_mut().for_each(|pair| pair.waiting = Vec::new());
    }

    fn serve(&mut self, memory: &Memory, queues: &mut [Queue], cause: Cause) -> Result<Served, Fault> {
        let mut served = Served { changed: self.look_at_seat(), ..Served::default() };
        if queues.is_empty() {
            return Ok(served);
        }
        self.tell_tap();
        let known = self.known();
        let control = 2 * known;
        if matches!(cause, Cause::Again) || cause == Cause::Queue(control) {
            // A driver that does not know of several pairs has its control queue where the second one would be.
            let queue = queues.get_mut(control).filter(|queue| queue.ready());
            if let Some(queue) = queue.filter(|_| self.has(VIRTIO_NET_F_CTRL_VQ)) {
                self.obey(memory, (control, queue), &mut served)?;
            }
        }
        let (from, number) = match cause {
            Cause::Queue(number) if number < control => (number / 2, 1),
            Cause::Queue(_) => return Ok(served),
            Cause::Host(number) => (number.min(known - 1), 1),
            Cause::Again => (self.turn.min(known - 1), known),
        };
        let (mut sending, mut receiving) = (BUDGET, BUDGET);
        for pair in (from..known).chain(0..from).take(number) {
            let Some([rx, tx]) = queues.get_mut(2 * pair..2 * pair + 2) else { continue };
            if tx.ready() && !matches!(cause, Cause::Host(_)) && cause != Cause::Queue(2 * pair) {
                self.transmit(memory, (2 * pair + 1, tx), &mut sending, &mut served)?;
            }
            if rx.ready() && cause != Cause::Queue(2 * pair + 1) {
                self.receive(memory, (2 * pair, rx), &mut receiving, &mut served)?;
            }
        }
        // Whoever was first is last the next time.
        self.turn = if from + 1 < known { from + 1 } else { 0 };
        Ok(served)
    }

    fn hosts(&self) -> Vec<BorrowedFd<'_>> {
        match &self.seat {
            Some(seat) => vec![seat.changed()],
            None => self.pairs.iter().filter_map(|pair| pair.tap.as_ref()).map(AsFd::as_fd).collect(),
        }
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
        let mut net = Net { pairs: vec![Pair::new(Some(tap))], ..Net::empty([2; 6], 1500, Limit::default()) };
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
        let served = net.serve(memory, &mut queues, Cause::Host(0));
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

    /// A device with so many pairs of queues, whose taps are ends of sockets, and a driver that knows of them.
    fn several(count: usize) -> (Net, Vec<UnixDatagram>) {
        let (ours, wires): (Vec<_>, Vec<_>) = (0..count).map(|_| UnixDatagram::pair().unwrap()).unzip();
        let tap = |end: UnixDatagram| {
            end.set_nonblocking(true).unwrap();
            Pair::new(Some(Tap::of(end.into())))
        };
        let pairs = ours.into_iter().map(tap).collect();
        let mut net = Net { pairs, ..Net::empty([2; 6], 1500, Limit::default()) };
        net.start(net.features());
        (net, wires)
    }

    #[test]
    fn several_pairs_have_a_control_queue_behind_them_and_one_has_none() {
        let (net, _wires) = several(3);
        let mut pairs = [0; 2];
        net.configuration(8, &mut pairs);
        let offered = net.identity();
        assert_eq!((offered.queues.len(), u16::from_le_bytes(pairs)), (7, 3));
        let wanted = 1 << VIRTIO_NET_F_CTRL_VQ | 1 << VIRTIO_NET_F_MQ;
        assert_eq!(offered.features & wanted, wanted);
        let (single, _wires) = several(1);
        assert_eq!((single.identity().queues.len(), single.identity().features & wanted), (2, 0));
    }

    #[test]
    fn a_tap_with_more_queues_than_are_served_is_refused() {
        let end = || OwnedFd::from(UnixDatagram::unbound().unwrap());
        let nic =
            Nic { tap: end(), more: (0..MAX_NIC_QUEUES).map(|_| end()).collect(), mac: [2; 6], mtu: 1500 };
        assert!(matches!(Net::new(nic, Limit::default()), Err(NetError::Queues { found: 9 })));
    }

    /// What the device answers to a command of these bytes, asked in the queue of this number.
    fn answer(net: &mut Net, number: usize, command: &[u8]) -> u8 {
        let memory = memory();
        let mock = MockSplitQueue::create(&memory, GuestAddress(0), 16);
        memory.write_slice(command, GuestAddress(0x1_0000)).unwrap();
        memory.write_obj(0xee_u8, GuestAddress(0x2_0000)).unwrap();
        let length = u32::try_from(command.len()).unwrap();
        let parts = [
            RawDescriptor::from(Descriptor::new(0x1_0000, length, 1, 1)),
            Descriptor::new(0x2_0000, 1, WRITE, 0).into(),
        ];
        mock.build_desc_chain(&parts).unwrap();
        let mut queues: Vec<Queue> = (0..number).map(|_| Queue::new(16).unwrap()).collect();
        queues.push(mock.create_queue().unwrap());
        net.serve(&memory, &mut queues, Cause::Queue(number)).unwrap();
        memory.read_obj(GuestAddress(0x2_0000)).unwrap()
    }

    #[test]
    fn a_command_that_asks_for_what_there_is_not_is_refused() {
        let (mut net, _wires) = several(3);
        let (ok, refused) = (u8::try_from(VIRTIO_NET_OK).unwrap(), u8::try_from(VIRTIO_NET_ERR).unwrap());
        // The ends of sockets cannot be told which of them get packets, so all are as they were from the start.
        net.pairs.iter_mut().for_each(|pair| pair.tap = None);
        assert_eq!(answer(&mut net, 6, &[4, 0, 3, 0]), ok);
        for wrong in
            [&[4, 0, 0, 0][..], &[4, 0, 4, 0], &[4, 1, 2, 0], &[0, 0, 1, 0], &[4, 0, 3], &[4, 0, 3, 0, 0]]
        {
            assert_eq!(answer(&mut net, 6, wrong), refused, "{wrong:?}");
        }
        // A driver that does not know of several pairs has its control queue where the second one would be.
        net.start(net.features() & !(1 << VIRTIO_NET_F_MQ));
        assert_eq!(answer(&mut net, 2, &[4, 0, 2, 0]), refused);
    }

    #[test]
    fn each_pair_moves_its_own_queues_packets() {
        let memory = memory();
        let (mut net, wires) = several(2);
        net.serve(&memory, &mut [Queue::new(16).unwrap()], Cause::Again).unwrap();
        wires[1].send(&[7; 90]).unwrap();
        let mock = MockSplitQueue::create(&memory, GuestAddress(0), 16);
        let buffer: RawDescriptor = Descriptor::new(0x1_0000, 100, WRITE, 0).into();
        mock.add_desc_chains(&[buffer], 0).unwrap();
        let mut queues: Vec<Queue> = (0..5).map(|_| Queue::new(16).unwrap()).collect();
        queues[2] = mock.create_queue().unwrap();
        assert_eq!(net.serve(&memory, &mut queues, Cause::Host(0)).unwrap().used, 0);
        assert_eq!(net.serve(&memory, &mut queues, Cause::Host(1)).unwrap().used, 1 << 2);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x1_0000)).unwrap(), 7);
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
