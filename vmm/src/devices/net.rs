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
use crate::spec::Nic;
use crate::virtio::{Access, Buffer, Cause, Device, Fault, Identity, Served, pop, write_to};

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
    /// A packet that the guest had no room for.
    packet: Vec<u8>,
    waiting: usize,
    dropped: u64,
}

impl Net {
    /// Takes over the tap of `nic`.
    pub fn new(nic: Nic) -> Result<Net, NetError> {
        let tap = File::from(nic.tap);
        rustix::io::ioctl_fionbio(&tap, true).map_err(|error| NetError::Tap(error.into()))?;
        let size = libc::c_int::try_from(HEADER).unwrap_or(0);
        // SAFETY: the request reads an int, which lives through the call.
        let outcome = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, &size) };
        if outcome < 0 {
            return Err(NetError::Tap(io::Error::last_os_error()));
        }
        let packet = Vec::new();
        let (merge, changed) = (false, None);
        Ok(Net { tap, mac: nic.mac, mtu: nic.mtu, merge, changed, packet, waiting: 0, dropped: 0 })
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
            let Some(chain) = pop(queue, memory).map_err(Fault::of(TX))? else { return Ok(()) };
            let head = chain.head_index();
            match Buffer::collect(memory, chain, Access::Read) {
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
            if self.waiting == 0 && !self.read() {
                return Ok(());
            }
            match self.give(memory, queue, served)? {
                Given::All => self.waiting = 0,
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
            let Some(chain) = pop(queue, memory).map_err(Fault::of(RX))? else {
                for _ in &buffers {
                    queue.go_to_previous_position();
                }
                return Ok(Given::NoRoom);
            };
            let head = chain.head_index();
            match Buffer::collect(memory, chain, Access::Write) {
                Ok(buffer) if !buffer.is_empty() && (self.merge || buffer.len() >= self.waiting) => {
                    room += buffer.len();
                    buffers.push((head, buffer));
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

/// What became of a packet.
enum Given {
    All,
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
