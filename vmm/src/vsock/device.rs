//! The device itself: carries out what the table decides, between two queues of the guest's and the host's sockets.
//!
//! A monitor that drives it watches [`Device::as_fd`] and the queues' notifications, calls [`Device::poll_host`] for
//! the one and [`Device::serve`] for both. A fault in a ring stops the device for good: it closes every connection and
//! takes no more, so that whoever uses them learns of it, and the process lives on.

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, connect, socket_with,
};
use virtio_queue::{Queue, QueueOwnedT, QueueT};

use super::link::{Greeting, Link, Read, Role};
use super::links::{Change, Happening, Links};
use super::packet::{Ends, HEADER_LEN, Key, Malformed, Packet};
use super::places::{MANY, Place, Places};
use super::table::{Table, Task, Turn};
use crate::memory::Memory;
use crate::virtio::{Access, Buffer, pop};

/// The most connections and clients that may be there at once.
pub const MAX_CONNECTIONS: usize = 4096;

/// Descriptor chains taken from one queue before the others have their turn.
const BUDGET: usize = 256;

/// Number of the queue that the device fills for the guest.
pub const RX: usize = 0;

/// Number of the queue that the guest fills for the device.
pub const TX: usize = 1;

/// Bytes of a packet without payload.
const HEADER: u32 = HEADER_LEN as u32;

/// How every socket of the host's is made.
const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

const RECV: Ends = Ends { recv: true, send: false };
const SEND: Ends = Ends { recv: false, send: true };
const BOTH: Ends = Ends { recv: true, send: true };

/// A ring that contradicts itself.
#[derive(Debug, thiserror::Error)]
#[error("the guest's ring {ring} is corrupt, the device stops: {reason}")]
pub struct RingFault {
    ring: usize,
    reason: virtio_queue::Error,
}

impl RingFault {
    /// A fault of this ring.
    pub fn new(ring: usize, reason: virtio_queue::Error) -> RingFault {
        RingFault { ring, reason }
    }

    /// Which ring it is, and in what way it is corrupt.
    pub fn into_parts(self) -> (usize, virtio_queue::Error) {
        (self.ring, self.reason)
    }
}

/// What a call of [`Device::serve`] did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Served {
    /// Per queue, whether chains were given back, so that the guest may have to be interrupted.
    pub used: [bool; 2],
    /// Whether there is more to do at once.
    pub again: bool,
}

/// How often the guest or a client did what it must not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Chains and packets that could not be understood.
    pub malformed: u64,
    /// Connections ended because the guest broke their rules.
    pub violations: u64,
    /// Connections refused because there were too many, or nobody listened.
    pub refused: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} malformed, {} violations, {} refused", self.malformed, self.violations, self.refused)
    }
}

/// The device.
#[derive(Debug)]
pub struct Device {
    guest_cid: u64,
    listener: UnixListener,
    dial: PathBuf,
    table: Table,
    links: Links,
    counts: Counts,
    stopped: bool,
}

impl AsFd for Device {
    /// Readable when [`Device::poll_host`] has something to do.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.links.as_fd()
    }
}

impl Device {
    /// A device for the guest `guest_cid`: its clients connect to `listener`, and what the guest connects to is
    /// `<dial>_<port>`.
    pub fn new(guest_cid: u64, listener: UnixListener, dial: &Path, limit: usize) -> io::Result<Device> {
        listener.set_nonblocking(true)?;
        let links = Links::new(limit.min(MAX_CONNECTIONS), listener.as_fd())?;
        let (table, counts) = (Table::default(), Counts::default());
        Ok(Device { guest_cid, listener, dial: dial.to_owned(), table, links, counts, stopped: false })
    }

    /// The guest's context id.
    pub fn guest_cid(&self) -> u64 {
        self.guest_cid
    }

    /// How often somebody did what it must not.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Number of connections.
    pub fn connections(&self) -> usize {
        self.table.connections()
    }

    /// Ends every connection: the guest's driver started anew and knows none of them.
    pub fn reset(&mut self) {
        self.table = Table::default();
        self.links.clear();
        self.stopped = false;
    }

    /// Ends every connection, and refuses those to come until [`Device::reset`].
    pub fn stop(&mut self) {
        self.reset();
        self.stopped = true;
    }

    /// Moves packets both ways until nothing is left to do, or each queue had its budget.
    pub fn serve(&mut self, memory: &Memory, rx: &mut Queue, tx: &mut Queue) -> Result<Served, RingFault> {
        let mut served = Served::default();
        if self.stopped {
            return Ok(served);
        }
        let outcome =
            self.pump_tx(memory, tx, &mut served).map_err(|reason| RingFault::new(TX, reason)).and_then(
                |()| self.pump_rx(memory, rx, &mut served).map_err(|reason| RingFault::new(RX, reason)),
            );
        if outcome.is_err() {
            self.stop();
        }
        outcome.map(|()| served)
    }

    fn pump_tx(
        &mut self,
        memory: &Memory,
        queue: &mut Queue,
        served: &mut Served,
    ) -> Result<(), virtio_queue::Error> {
        for _ in 0..BUDGET {
            if self.table.is_clogged() {
                // Whoever takes a reset off the table serves this queue again.
                return Ok(());
            }
            let Some(chain) = pop(queue, memory)? else { return Ok(()) };
            let head = chain.head_index();
            self.take(Buffer::collect(memory, chain, Access::Read).ok());
            queue.add_used(memory, head, 0)?;
            served.used[TX] = true;
        }
        served.again = true;
        Ok(())
    }

    /// Takes one packet of the guest's.
    fn take(&mut self, buffer: Option<Buffer<'_>>) {
        let Some((header, payload)) = buffer.and_then(|buffer| buffer.split(HEADER_LEN)) else {
            self.counts.malformed += 1;
            return;
        };
        let mut bytes = [0; HEADER_LEN];
        header.copy_to(&mut bytes);
        let parsed = Packet::parse(&bytes, self.guest_cid).and_then(|packet| trim(packet, payload));
        match parsed {
            Ok((packet, payload)) => self.obey(packet, &payload),
            Err(malformed) => {
                self.counts.malformed += 1;
                if let Malformed::Answerable(key) = malformed {
                    self.table.reset(key);
                }
            }
        }
    }

    fn obey(&mut self, packet: Packet, payload: &Buffer<'_>) {
        match self.table.on_packet(packet) {
            Task::None => {}
            Task::Dial(request) => self.dial(request),
            Task::Greet(number, host_port) => {
                if let Some(link) = self.links.get(number)
                    && !link.greet(host_port)
                {
                    self.table.host_closed(packet.key, RECV);
                }
            }
            Task::Deliver(number, key) => self.deliver(number, key, payload),
            Task::Shut(number, ends) => {
                if let Some(link) = self.links.get(number) {
                    link.shut(ends);
                }
            }
            Task::Finish(number) => self.finish(number),
            Task::Abort(number) => {
                self.counts.violations += 1;
                self.links.remove(number);
            }
        }
    }

    fn dial(&mut self, request: Packet) {
        let key = request.key;
        let link = dial(&self.dial, key.host_port).map(|stream| Link::new(stream, Role::Attached(key)));
        match link.ok().and_then(|link| self.links.insert(link)) {
            Some(number) => self.table.dialled(key, request.credit, number),
            None => {
                self.counts.refused += 1;
                self.table.reset(key);
            }
        }
    }

    fn deliver(&mut self, number: u32, key: Key, payload: &Buffer<'_>) {
        let Some(link) = self.links.get(number) else { return };
        let written = link.deliver(payload);
        self.table.forwarded(key, written.bytes);
        if written.gone {
            link.discard();
            self.table.host_closed(key, RECV);
        }
        self.links.settle(number);
    }

    fn finish(&mut self, number: u32) {
        match self.links.get(number) {
            Some(link) if link.is_waiting() => link.role = Role::Finishing,
            _ => self.end(number),
        }
    }

    /// Closes the link of a connection that is over.
    fn end(&mut self, number: u32) {
        self.links.remove(number);
        self.table.released(number);
    }

    fn pump_rx(
        &mut self,
        memory: &Memory,
        queue: &mut Queue,
        served: &mut Served,
    ) -> Result<(), virtio_queue::Error> {
        let clogged = self.table.is_clogged();
        let (mut left, mut most) = (BUDGET, 1);
        while left > 0 {
            if !self.table.has_turn() {
                served.again |= clogged;
                return Ok(());
            }
            let Some(chain) = pop(queue, memory)? else {
                served.again |= clogged && !self.table.is_clogged();
                return Ok(());
            };
            left -= 1;
            let head = chain.head_index();
            let Some(place) = Place::of(memory, chain) else {
                self.counts.malformed += 1;
                queue.add_used(memory, head, 0)?;
                served.used[RX] = true;
                continue;
            };
            match self.table.turn() {
                None => queue.go_to_previous_position(),
                Some(Turn::Packet(packet)) => {
                    place.header.copy_from(&packet.build(self.guest_cid));
                    queue.add_used(memory, head, HEADER)?;
                    served.used[RX] = true;
                }
                Some(Turn::Read { key, link, room }) => {
                    // Who is alone, and had more than the last call took, is given more by one call.
                    let now = if self.table.has_turn() { 1 } else { most.min(left + 1) };
                    let places = Places::begin(place, (memory, &mut *queue), now, room)?;
                    let length = self.read(key, link, &places.payload);
                    let full = usize::try_from(length) == Ok(places.payload.len());
                    most = if full { MANY } else { 1 };
                    let packets = self.hand_over(key, length, places, (memory, &mut *queue))?;
                    served.used[RX] |= packets > 0;
                    left = left.saturating_sub(packets.saturating_sub(1));
                }
            }
        }
        served.again = true;
        Ok(())
    }

    /// Reads what a link has into the guest's memory: gives the number of bytes.
    fn read(&mut self, key: Key, number: u32, payload: &Buffer<'_>) -> u32 {
        match self.links.get(number).map_or(Read::Gone, |link| link.read(payload)) {
            Read::Bytes(length) => return length,
            Read::Dry => self.table.dry(key),
            Read::End => self.table.host_closed(key, SEND),
            Read::Gone => self.table.host_closed(key, BOTH),
        }
        0
    }

    /// Gives the guest `length` bytes that were read, and keeps what buffers were not needed: gives the number of packets.
    fn hand_over(
        &mut self,
        key: Key,
        length: u32,
        places: Places<'_>,
        (memory, queue): (&Memory, &mut Queue),
    ) -> Result<usize, virtio_queue::Error> {
        let (mut rest, mut packets) = (length, 0);
        for (head, header, most) in places.packets {
            let now = rest.min(most);
            let Some(packet) = (now > 0).then(|| self.table.sent(key, now)).flatten() else {
                queue.go_to_previous_position();
                continue;
            };
            header.copy_from(&packet.build(self.guest_cid));
            queue.add_used(memory, head, HEADER.saturating_add(now))?;
            rest -= now;
            packets += 1;
        }
        Ok(packets)
    }

    /// Looks at the host's sockets. What came of it is moved by the next [`Device::serve`].
    pub fn poll_host(&mut self) -> io::Result<()> {
        loop {
            let (happenings, mut more) = self.links.events()?;
            for happening in happenings {
                match happening {
                    Happening::Clients => {
                        self.accept();
                        // What they have said already is the next thing to look at.
                        more = true;
                    }
                    Happening::Link { number, change } => self.attend(number, change),
                }
            }
            if !more {
                return Ok(());
            }
        }
    }

    fn accept(&mut self) {
        // Ends with WouldBlock; any other failure leaves the client in the backlog until the next one comes.
        while let Ok(socket) = accept_with(&self.listener, FLAGS) {
            let link = Link::new(UnixStream::from(socket), Role::Greeting);
            if self.stopped || self.links.insert(link).is_none() {
                self.counts.refused += 1;
            }
        }
    }

    fn attend(&mut self, number: u32, change: Change) {
        let Some(link) = self.links.get(number) else { return };
        match link.role {
            Role::Greeting => match link.read_greeting() {
                Greeting::Incomplete if !change.hung_up => {}
                Greeting::Connect(port) => {
                    let key = self.table.call(port, number);
                    link.role = Role::Attached(key);
                }
                Greeting::Incomplete | Greeting::Wrong => self.links.remove(number),
            },
            Role::Attached(key) => {
                self.attend_attached(key, number, change);
                self.links.settle(number);
            }
            Role::Finishing => {
                if link.flush().gone || !link.is_waiting() {
                    self.end(number);
                }
            }
        }
    }

    fn attend_attached(&mut self, key: Key, number: u32, change: Change) {
        if change.hung_up && self.table.is_calling(key) {
            self.table.hang_up(key);
            self.links.remove(number);
            return;
        }
        let Some(link) = self.links.get(number) else { return };
        if change.writable {
            let written = link.flush();
            self.table.forwarded(key, written.bytes);
            if written.gone {
                self.table.host_closed(key, RECV);
            }
        }
        if change.hung_up {
            link.discard();
            self.table.host_closed(key, RECV);
        }
        if change.readable || change.hung_up {
            self.table.readable(key);
        }
    }
}

/// Cuts the payload to what the header says; a header that promises more than the chain holds is malformed.
fn trim(packet: Packet, payload: Buffer<'_>) -> Result<(Packet, Buffer<'_>), Malformed> {
    let length = match packet.op {
        super::packet::Op::Data { len } => len,
        _ => 0,
    };
    let length = usize::try_from(length).map_err(|_| Malformed::Answerable(packet.key))?;
    let (payload, _) = payload.split(length).ok_or(Malformed::Answerable(packet.key))?;
    Ok((packet, payload))
}

/// Connects to `<dial>_<port>` without waiting: a listener whose backlog is full refuses like one that is not there.
fn dial(dial: &Path, port: u32) -> io::Result<UnixStream> {
    let mut path = dial.as_os_str().to_owned();
    path.push(format!("_{port}"));
    let address = SocketAddrUnix::new(PathBuf::from(path)).map_err(|_| ErrorKind::InvalidInput)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
    connect(&socket, &address)?;
    Ok(UnixStream::from(socket))
}
