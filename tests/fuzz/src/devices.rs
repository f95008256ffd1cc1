//! Every device behind its registers, with a driver that means ill: an input says which features it takes, where its rings
//! lie and what is in them, round after round.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::OnceLock;

use coffer_vmm::bus::Registers;
use coffer_vmm::devices::{Balloon, Block, Disk, Disks, Net, Random, Scsi, Tap, Vsock};
use coffer_vmm::event::Event;
use coffer_vmm::memory::{Backing, Memory, Shown, create};
use coffer_vmm::spec::{self, Limit};
use coffer_vmm::virtio::{Cause, Device, Interrupt, Limiter, Next, Ring, Transport};
use coffer_vmm::vsock::packet::{HEADER_LEN, Packet};
use coffer_vmm::vsock::{self};
use vm_memory::{Bytes, GuestAddress};

use crate::boot::file;

/// MiB of the guest's memory.
const MEMORY: u32 = 4;

/// Of a ring's three parts, and of what its descriptors point to.
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const RING: u64 = 0x10_000;
const DATA: u64 = 0x10_0000;
const DATA_LENGTH: usize = 0x8000;

/// Descriptors of a ring, and rounds of one input.
const SIZE: u16 = 16;
const ROUNDS: usize = 6;

/// The most rings that a device has.
const RINGS: usize = 4;

/// The guest's context id.
const CID: u64 = 3;

/// Reads an input piece by piece; at its end there are zeros.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let (now, later) = self.0.split_at(N.min(self.0.len()));
        taken.iter_mut().zip(now).for_each(|(to, from)| *to = *from);
        self.0 = later;
        taken
    }

    fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.bytes())
    }

    fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    fn part(&mut self, most: usize) -> &'a [u8] {
        let (now, later) = self.0.split_at(most.min(self.0.len()));
        self.0 = later;
        now
    }
}

fn memory() -> &'static Memory {
    static MADE: OnceLock<Memory> = OnceLock::new();
    MADE.get_or_init(|| create(MEMORY, Backing { huge_pages: false, prefault: false }).expect("memory"))
}

/// Drives a device by an input.
fn drive(device: Box<dyn Device>, input: &[u8]) {
    let memory = memory();
    let mut script = Script(input);
    let page = Shown::new(1).expect("a page").page(0).expect("the first page");
    let line = Interrupt::new(Event::new().expect("an event"), page);
    let transport = Transport::new(device, memory.clone(), line, Event::new().expect("an event"))
        .expect("a device's rings");
    take_over(&transport, &mut script);
    for _ in 0..ROUNDS {
        for ring in 0..RINGS {
            fill(memory, ring, &mut script);
        }
        let data = script.part(DATA_LENGTH);
        memory.write_slice(data, GuestAddress(DATA)).expect("data lies in memory");
        for cause in (0..RINGS).map(Cause::Queue).chain([Cause::Host(0), Cause::Host(1), Cause::Again]) {
            // A device that always has more to do would keep the others waiting; a few times are enough to see a loop of its
            // own, which libFuzzer's time limit ends.
            let mut again = transport.serve(cause);
            for _ in 0..4 {
                again = if again == Next::AtOnce { transport.serve(Cause::Again) } else { again };
            }
        }
        if script.0.is_empty() {
            break;
        }
        // Anything, anywhere in the registers.
        let (offset, value) = (u64::from(script.short() & 0x1ff), script.word());
        if script.byte() & 7 == 0 {
            transport.write(offset, &value.to_le_bytes());
        }
        let mut read = [0; 4];
        transport.read(offset, &mut read);
    }
    // A device that is let go of must be able to start again.
    write(&transport, 0x70, 0);
    take_over(&transport, &mut Script(&[]));
    transport.serve(Cause::Again);
}

fn write(transport: &Transport, offset: u64, value: u32) {
    transport.write(offset, &value.to_le_bytes());
}

/// What a driver does first, with features and sizes of the input's choice.
fn take_over(transport: &Transport, script: &mut Script<'_>) {
    let unwanted = script.long();
    let features =
        transport.identity().features & !unwanted | 1 << 32 | u64::from(script.byte() & 1) << 29 | 1 << 28;
    for status in [1, 3] {
        write(transport, 0x70, status);
    }
    for (word, bits) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
        write(transport, 0x24, word);
        write(transport, 0x20, u32::try_from(bits).unwrap_or(0));
    }
    write(transport, 0x70, 11);
    for (index, _) in transport.identity().queues.iter().enumerate() {
        let ring = RING * (index as u64 + 1);
        write(transport, 0x30, u32::try_from(index).unwrap_or(0));
        write(transport, 0x38, u32::from(SIZE));
        let moved = if script.byte() == 0xff { u64::from(script.word()) } else { 0 };
        for (register, place) in [(0x80, DESCRIPTORS), (0x90, AVAILABLE), (0xa0, USED)] {
            write(
                transport,
                register,
                u32::try_from((ring + place).wrapping_add(moved) & 0xffff_ffff).unwrap_or(0),
            );
        }
        write(transport, 0x44, 1);
    }
    write(transport, 0x70, 15);
}

/// Fills a ring: chains of descriptors, mostly into [`DATA`], now and then anywhere.
fn fill(memory: &Memory, ring: usize, script: &mut Script<'_>) {
    let ring = RING * (ring as u64 + 1);
    let put =
        |at: u64, bytes: &[u8]| memory.write_slice(bytes, GuestAddress(ring + at)).expect("a ring in memory");
    for number in 0..u64::from(script.byte() % 8) {
        let kind = script.byte();
        let address = match kind >> 5 {
            7 => script.long(),
            _ => DATA + u64::from(script.short()) % (DATA_LENGTH as u64),
        };
        let length = if kind & 0x10 == 0 { u32::from(script.byte()) } else { script.word() };
        let next = if kind & 0x08 == 0 { (number as u16) + 1 } else { script.short() };
        let mut descriptor = [0; 16];
        for (at, bytes) in [
            (0, address.to_le_bytes().as_slice()),
            (8, &length.to_le_bytes()),
            (12, &[kind & 7, 0]),
            (14, &next.to_le_bytes()),
        ] {
            descriptor.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
        }
        put(DESCRIPTORS + number * 16, &descriptor);
    }
    let mut index = [0; 2];
    memory.read_slice(&mut index, GuestAddress(ring + AVAILABLE + 2)).expect("a ring in memory");
    let mut index = u16::from_le_bytes(index);
    for _ in 0..script.byte() % 4 {
        let head = u16::from(script.byte() % 20);
        put(AVAILABLE + 4 + u64::from(index % SIZE) * 2, &head.to_le_bytes());
        index = index.wrapping_add(1);
    }
    if script.byte() == 0xfe {
        index = script.short();
    }
    put(AVAILABLE + 2, &index.to_le_bytes());
}

/// What the first byte of an input says about disks.
struct Kind {
    read_only: bool,
    /// On a file system, where some requests wait, instead of in memory.
    may_wait: bool,
}

impl Kind {
    fn of(input: &[u8]) -> Kind {
        let first = input.first().copied().unwrap_or(0);
        // Rarely: a ring for each input takes longer than all the rest.
        Kind { read_only: first & 1 == 1, may_wait: first & 0xf0 == 0xf0 }
    }

    /// A disk of 64 KiB.
    fn disk(&self, serial: &str, read_only: bool) -> Disk {
        let file = if self.may_wait { stored() } else { file(&[0x5a; STORED]) };
        let file = OwnedFd::from(file);
        Disk::new(spec::Disk { serial: serial.to_owned(), file, read_only }).expect("a disk")
    }

    fn ring(&self, event: Event) -> Option<Ring> {
        self.may_wait.then(|| Ring::new(event).ok()).flatten()
    }
}

/// Bytes of a disk.
const STORED: usize = 0x1_0000;

/// A file beside this program.
fn stored() -> File {
    static MADE: OnceLock<File> = OnceLock::new();
    let make = || {
        let program = std::env::current_exe().expect("this program");
        let file = tempfile::tempfile_in(program.parent().expect("its directory")).expect("a file");
        file.set_len(STORED as u64).expect("its length");
        file
    };
    MADE.get_or_init(make).try_clone().expect("the same file")
}

pub(crate) fn block(input: &[u8]) {
    let kind = Kind::of(input);
    let ring = kind.ring(Event::new().expect("an event"));
    let disk = kind.disk("disk", kind.read_only);
    drive(Box::new(Block::new(disk, 2, Limiter::new(Limit::default()), ring)), input);
}

pub(crate) fn scsi(input: &[u8]) {
    let kind = Kind::of(input);
    let disks = Disks::new().expect("a controller");
    disks.attach(kind.disk("one", true)).expect("a first disk");
    disks.attach(kind.disk("two", false)).expect("a second disk");
    let ring = kind.ring(disks.event().expect("an event"));
    drive(Box::new(Scsi::new(disks, 2, Limiter::new(Limit::default()), ring)), input);
}

pub(crate) fn random(input: &[u8]) {
    drive(Box::new(Random), input);
}

pub(crate) fn balloon(input: &[u8]) {
    let (balloon, ration) = Balloon::new(512).expect("a balloon");
    // The first of the input says what the guest is asked for: what it may be is for the ration to say.
    let _ = ration.set(input.first().map_or(512, |first| u32::from(*first) * 4));
    drive(Box::new(balloon), input);
}

pub(crate) fn vsock(input: &[u8]) {
    static PLACE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let place = PLACE.get_or_init(|| tempfile::tempdir().expect("a directory")).path();
    let socket = place.join("vsock");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).expect("a socket");
    let device = vsock::Device::new(CID, listener, &socket, 16).expect("a vsock device");
    drive(Box::new(Vsock::new(device)), input);
}

pub(crate) fn net(input: &[u8]) {
    let (tap, more) = tap();
    let copy = |queue: &OwnedFd| queue.try_clone().expect("a descriptor");
    // The first of the input says whether the interface was there from the start, and how many queues it has.
    let first = input.first().copied().unwrap_or(0);
    let more = more.iter().take(usize::from(first >> 1 & 3)).map(copy).collect();
    let nic = spec::Nic { tap: copy(tap), more, mac: [2, 0, 0, 0, 0, 1], mtu: 1500 };
    if first & 1 == 1 {
        let (net, seat) = Net::seat(nic.mac, nic.mtu, Limit::default()).expect("a seat");
        seat.plug(Tap::new(nic.tap).expect("a tap")).expect("an empty seat");
        return drive(Box::new(net), input);
    }
    drive(Box::new(Net::new(nic, Limit::default()).expect("an interface")), input);
}

/// A tap in a network namespace that nothing else is in.
fn tap() -> &'static (OwnedFd, Vec<OwnedFd>) {
    static MADE: OnceLock<(OwnedFd, Vec<OwnedFd>)> = OnceLock::new();
    MADE.get_or_init(crate::tap::alone)
}

/// An input is a header that a guest sent.
pub(crate) fn vsock_packet(input: &[u8]) {
    let mut script = Script(input);
    let header: [u8; HEADER_LEN] = script.bytes();
    if let Ok(packet) = Packet::parse(&header, CID) {
        // What is understood is sent back with the sides changed, and understood again by the other side's reading of it.
        let mut back = packet.build(CID);
        let (from, to) = back.split_at_mut(16);
        from.rotate_left(8);
        let ports = &mut to[..8];
        ports.rotate_left(4);
        assert_eq!(Packet::parse(&back, CID).ok().map(|again| again.op), Some(packet.op), "{packet:?}");
    }
}
