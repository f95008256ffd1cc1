//! The device against a driver that the tests hold in their hands: an honest one, and hostile ones.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use proptest::prelude::*;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::device::Device;
use super::packet::{Credit, Ends, HEADER_LEN, HOST_CID, Key, Op, Packet};
use crate::memory::Memory;

const GUEST: u64 = 3;
const SIZE: u16 = 16;
const MEMORY: usize = 1 << 20;

/// Where a ring's parts are, relative to its start.
const AVAIL: u64 = 0x400;
const USED: u64 = 0x800;

const RX: u64 = 0x1000;
const TX: u64 = 0x3000;

/// Buffers of the receive ring, then those of the transmit ring.
const RX_BUFFERS: u64 = 0x10000;
const TX_BUFFERS: u64 = 0x80000;
const BUFFER: u32 = 0x1000;

/// As much as the guest says that its own buffers hold.
const WINDOW: u32 = 256 * 1024;

/// A guest's driver, its memory, and the device that serves it.
struct Driver {
    memory: Memory,
    device: Device,
    rx: Queue,
    tx: Queue,
    posted: u16,
    taken: u16,
    sent: u16,
    dir: tempfile::TempDir,
}

fn queue(at: u64) -> Queue {
    let mut queue = Queue::new(SIZE).unwrap();
    queue.try_set_desc_table_address(GuestAddress(at)).unwrap();
    queue.try_set_avail_ring_address(GuestAddress(at + AVAIL)).unwrap();
    queue.try_set_used_ring_address(GuestAddress(at + USED)).unwrap();
    queue.set_ready(true);
    queue
}

impl Driver {
    fn new(limit: usize) -> Driver {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("vsock.sock")).unwrap();
        let device = Device::new(GUEST, listener, &dir.path().join("vsock.sock"), limit).unwrap();
        let memory = Memory::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        Driver { memory, device, rx: queue(RX), tx: queue(TX), posted: 0, taken: 0, sent: 0, dir }
    }

    /// A driver with all its receive buffers posted.
    fn ready() -> Driver {
        let mut driver = Driver::new(64);
        driver.post(SIZE);
        driver
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn descriptor(&self, ring: u64, index: u16, buffer: (u64, u32), flags: u16) {
        let mut bytes = Vec::new();
        bytes.extend(buffer.0.to_le_bytes());
        bytes.extend(buffer.1.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(0_u16.to_le_bytes());
        self.write(ring + 16 * u64::from(index), &bytes);
    }

    fn offer(&self, ring: u64, count: u16, head: u16) {
        let slot = u64::from(count % SIZE);
        self.write(ring + AVAIL + 4 + 2 * slot, &head.to_le_bytes());
        self.write(ring + AVAIL + 2, &count.wrapping_add(1).to_le_bytes());
    }

    fn post(&mut self, count: u16) {
        for _ in 0..count {
            let head = self.posted % SIZE;
            let at = RX_BUFFERS + u64::from(head) * u64::from(BUFFER);
            self.descriptor(RX, head, (at, BUFFER), 2);
            self.offer(RX, self.posted, head);
            self.posted = self.posted.wrapping_add(1);
        }
    }

    /// Sends raw bytes as one chain.
    fn send_raw(&mut self, bytes: &[u8]) {
        let head = self.sent % SIZE;
        let at = TX_BUFFERS + u64::from(head) * 0x4000;
        self.write(at, bytes);
        self.descriptor(TX, head, (at, bytes.len() as u32), 0);
        self.offer(TX, self.sent, head);
        self.sent = self.sent.wrapping_add(1);
        self.serve();
    }

    fn send(&mut self, key: Key, op: Op, payload: &[u8]) {
        self.send_with(key, op, Credit { buf_alloc: WINDOW, fwd_cnt: 0 }, payload);
    }

    fn send_with(&mut self, key: Key, op: Op, credit: Credit, payload: &[u8]) {
        let mut bytes = Packet { key, op, credit }.build(GUEST).to_vec();
        bytes[0..8].copy_from_slice(&GUEST.to_le_bytes());
        bytes[8..16].copy_from_slice(&HOST_CID.to_le_bytes());
        bytes[16..20].copy_from_slice(&key.guest_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&key.host_port.to_le_bytes());
        bytes.extend(payload);
        self.send_raw(&bytes);
    }

    fn serve(&mut self) {
        self.device.poll_host().unwrap();
        while self.device.serve(&self.memory, &mut self.rx, &mut self.tx).unwrap().again {}
    }

    /// The next packet of the device's, with its payload; its buffer is posted again.
    fn receive(&mut self) -> Option<(Key, u16, Vec<u8>)> {
        self.serve();
        let used: u16 = self.memory.read_obj(GuestAddress(RX + USED + 2)).unwrap();
        if used == self.taken {
            return None;
        }
        let slot = RX + USED + 4 + 8 * u64::from(self.taken % SIZE);
        let (head, length): (u32, u32) = (
            self.memory.read_obj(GuestAddress(slot)).unwrap(),
            self.memory.read_obj(GuestAddress(slot + 4)).unwrap(),
        );
        let mut bytes = vec![0; length as usize];
        let at = RX_BUFFERS + u64::from(head) * u64::from(BUFFER);
        self.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        self.taken = self.taken.wrapping_add(1);
        self.post(1);
        let port = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let key = Key { host_port: port(16), guest_port: port(20) };
        let op = u16::from_le_bytes(bytes[30..32].try_into().unwrap());
        Some((key, op, bytes[HEADER_LEN..].to_vec()))
    }

    fn operations(&mut self) -> Vec<u16> {
        std::iter::from_fn(|| self.receive()).map(|(_, op, _)| op).collect()
    }

    fn connect(&self, port: u32) -> UnixStream {
        let mut client = UnixStream::connect(self.dir.path().join("vsock.sock")).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        client.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        client
    }

    /// A client's connection that the guest has accepted.
    fn accepted(&mut self) -> (Key, UnixStream) {
        let mut client = self.connect(1024);
        let (key, op, _) = self.receive().unwrap();
        assert_eq!((key.guest_port, op), (1024, REQUEST));
        self.send(key, Op::Response, b"");
        let mut greeting = [0; 14];
        client.read_exact(&mut greeting).unwrap();
        assert_eq!(greeting.to_vec(), format!("OK {}\n", key.host_port).into_bytes());
        (key, client)
    }
}

const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const RST: u16 = 3;
const SHUTDOWN: u16 = 4;
const RW: u16 = 5;
const CREDIT_UPDATE: u16 = 6;

const SEND: Ends = Ends { recv: false, send: true };
const BOTH: Ends = Ends { recv: true, send: true };

fn ended(client: &mut UnixStream) -> Vec<u8> {
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    rest
}

#[test]
fn a_clients_bytes_reach_the_guest() {
    let mut driver = Driver::ready();
    let (key, mut client) = driver.accepted();
    client.write_all(b"to the guest").unwrap();
    assert_eq!(driver.receive(), Some((key, RW, b"to the guest".to_vec())));
}

#[test]
fn the_guests_bytes_reach_the_client() {
    let mut driver = Driver::ready();
    let (key, mut client) = driver.accepted();
    driver.send(key, Op::Data { len: 11 }, b"to the host");
    driver.send(key, Op::Shutdown(BOTH), b"");
    assert_eq!(ended(&mut client), b"to the host");
    assert_eq!(driver.operations(), vec![RST]);
}

#[test]
fn a_client_is_refused_when_the_guest_resets_it() {
    let mut driver = Driver::ready();
    let mut client = driver.connect(9);
    let (key, _, _) = driver.receive().unwrap();
    driver.send(key, Op::Reset, b"");
    assert_eq!(ended(&mut client), b"");
}

#[test]
fn a_client_that_closed_its_sending_end_still_receives() {
    let mut driver = Driver::ready();
    let (key, mut client) = driver.accepted();
    client.write_all(b"last words").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(driver.receive().unwrap().2, b"last words");
    assert_eq!(driver.operations(), vec![SHUTDOWN]);
    driver.send(key, Op::Data { len: 6 }, b"answer");
    driver.send(key, Op::Shutdown(BOTH), b"");
    assert_eq!(ended(&mut client), b"answer");
}

#[test]
fn a_guest_that_closed_its_sending_end_still_receives() {
    let mut driver = Driver::ready();
    let (key, mut client) = driver.accepted();
    driver.send(key, Op::Shutdown(SEND), b"");
    assert_eq!(ended(&mut client), b"");
    client.write_all(b"still here").unwrap();
    assert_eq!(driver.receive(), Some((key, RW, b"still here".to_vec())));
}

#[test]
fn a_request_to_a_listener_is_answered_and_one_to_nobody_is_reset() {
    let mut driver = Driver::ready();
    let listener = UnixListener::bind(driver.dir.path().join("vsock.sock_1023")).unwrap();
    driver.send(Key { host_port: 1023, guest_port: 5 }, Op::Request, b"");
    driver.send(Key { host_port: 1024, guest_port: 5 }, Op::Request, b"");
    assert_eq!(driver.operations(), vec![RESPONSE, RST]);
    assert!(listener.accept().is_ok());
}

#[test]
fn what_an_ended_connection_still_holds_is_delivered() {
    let mut driver = Driver::ready();
    let (key, mut client) = driver.accepted();
    let chunk = vec![7; 0x3000];
    let chunks = WINDOW as usize / chunk.len();
    for _ in 0..chunks {
        driver.send(key, Op::Data { len: 0x3000 }, &chunk);
    }
    driver.send(key, Op::Shutdown(BOTH), b"");
    assert_eq!(driver.device.connections(), 0);
    client.set_nonblocking(true).unwrap();
    let mut received = Vec::new();
    while received.len() < chunks * chunk.len() {
        match client.read_to_end(&mut received) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => driver.serve(),
            outcome => assert!(outcome.is_ok()),
        }
    }
    client.set_nonblocking(false).unwrap();
    driver.serve();
    assert_eq!(ended(&mut client), b"");
}

#[test]
fn a_client_that_left_is_told_to_the_guest_and_late_bytes_are_dropped() {
    let mut driver = Driver::ready();
    let (key, client) = driver.accepted();
    drop(client);
    driver.send(key, Op::Data { len: 4 }, b"late");
    // First that it reads no more, then, once its last byte was read, that it sends no more.
    assert_eq!(driver.operations(), vec![SHUTDOWN, SHUTDOWN]);
}

#[test]
fn a_client_that_stops_reading_is_not_read_for_more_than_its_window() {
    let mut driver = Driver::ready();
    let (key, _client) = driver.accepted();
    let mut sent = 0;
    while driver.device.connections() == 1 {
        driver.send(key, Op::Data { len: 0x3000 }, &[0; 0x3000]);
        sent += 0x3000;
        driver.operations();
        // The socket's own buffer is the kernel's; beyond it and the window nothing is taken.
        assert!(sent < 4 * WINDOW);
    }
    assert_eq!(driver.device.counts().violations, 1);
}

#[test]
fn credit_comes_back_as_the_client_reads() {
    let mut driver = Driver::ready();
    let (key, mut client) = driver.accepted();
    for _ in 0..12 {
        driver.send(key, Op::Data { len: 0x3000 }, &[0; 0x3000]);
        client.read_exact(&mut [0; 0x3000]).unwrap();
    }
    assert!(driver.operations().contains(&CREDIT_UPDATE));
}

#[test]
fn bytes_that_waited_go_on_as_often_as_the_client_reads() {
    let mut driver = Driver::ready();
    let (key, mut client) = driver.accepted();
    for _ in 0..3 {
        // Less than the window, and more than the socket takes.
        for _ in 0..20 {
            driver.send(key, Op::Data { len: 0x3000 }, &[0; 0x3000]);
        }
        for _ in 0..20 {
            client.read_exact(&mut [0; 0x3000]).unwrap();
            driver.serve();
        }
        driver.operations();
    }
    assert_eq!(driver.device.counts().violations, 0);
}

#[test]
fn a_guest_without_room_is_not_sent_data() {
    let mut driver = Driver::ready();
    let (key, mut client) = driver.accepted();
    driver.send_with(key, Op::CreditUpdate, Credit { buf_alloc: 10, fwd_cnt: 0 }, b"");
    client.write_all(b"more than ten bytes").unwrap();
    assert_eq!(driver.receive(), Some((key, RW, b"more than ".to_vec())));
    assert_eq!(driver.receive(), None);
    driver.send_with(key, Op::CreditUpdate, Credit { buf_alloc: 10, fwd_cnt: 10 }, b"");
    assert_eq!(driver.receive(), Some((key, RW, b"ten bytes".to_vec())));
}

/// The payloads that the guest gets, until `length` bytes are there.
fn payloads(driver: &mut Driver, length: usize) -> Vec<Vec<u8>> {
    let mut payloads: Vec<Vec<u8>> = Vec::new();
    while payloads.iter().map(Vec::len).sum::<usize>() < length {
        let (_, op, payload) = driver.receive().unwrap();
        assert_eq!(op, RW);
        payloads.push(payload);
    }
    payloads
}

#[test]
fn much_that_a_client_says_fills_whole_buffers_in_order_and_the_rest_stays_the_guests() {
    let mut driver = Driver::ready();
    let (_, mut client) = driver.accepted();
    // More than the ring has room for, and two times, so that buffers that were taken for nothing are used again.
    let said: Vec<u8> = (0..150_000_u32).map(|number| (number / 7) as u8).collect();
    for said in said.chunks(75_000) {
        client.write_all(said).unwrap();
        let got = payloads(&mut driver, said.len());
        let whole = BUFFER as usize - HEADER_LEN;
        assert!(got.iter().rev().skip(1).all(|payload| payload.len() == whole));
        assert!(got.concat() == said);
    }
    assert_eq!((driver.receive(), driver.device.counts().malformed), (None, 0));
}

#[test]
fn much_that_a_client_says_keeps_to_the_guests_credit() {
    let mut driver = Driver::ready();
    let (key, mut client) = driver.accepted();
    let whole = BUFFER - HEADER_LEN as u32;
    driver.send_with(key, Op::CreditUpdate, Credit { buf_alloc: 3 * whole, fwd_cnt: 0 }, b"");
    client.write_all(&[7; 50_000]).unwrap();
    assert_eq!(payloads(&mut driver, 3 * whole as usize).len(), 3);
    assert_eq!(driver.receive(), None);
    driver.send_with(key, Op::CreditUpdate, Credit { buf_alloc: 3 * whole, fwd_cnt: whole + 5 }, b"");
    let got: Vec<usize> = payloads(&mut driver, whole as usize + 5).iter().map(Vec::len).collect();
    assert_eq!((got, driver.receive()), (vec![whole as usize, 5], None));
}

#[test]
fn a_useless_buffer_among_many_is_counted_once_and_loses_nothing() {
    let mut driver = Driver::ready();
    let (_, mut client) = driver.accepted();
    // The connection's request took the first. A buffer without room for a byte is given back with nothing in it.
    let useless = 5;
    driver.descriptor(
        RX,
        useless,
        (RX_BUFFERS + u64::from(useless) * u64::from(BUFFER), HEADER_LEN as u32),
        2,
    );
    let said: Vec<u8> = (0..40_000_u32).map(|number| (number / 7) as u8).collect();
    client.write_all(&said).unwrap();
    driver.serve();
    let mut got = Vec::new();
    while got.len() < said.len() {
        let used: u16 = driver.memory.read_obj(GuestAddress(RX + USED + 2)).unwrap();
        assert_ne!(used, driver.taken);
        let slot = RX + USED + 4 + 8 * u64::from(driver.taken % SIZE);
        let length: u32 = driver.memory.read_obj(GuestAddress(slot + 4)).unwrap();
        if length == 0 {
            driver.taken = driver.taken.wrapping_add(1);
            continue;
        }
        got.extend(driver.receive().unwrap().2);
    }
    assert!(got == said);
    assert_eq!(driver.device.counts().malformed, 1);
}

#[test]
fn connections_that_both_have_much_to_say_take_turns() {
    let mut driver = Driver::ready();
    let (first, mut one) = driver.accepted();
    let (second, mut other) = driver.accepted();
    driver.device.poll_host().unwrap();
    one.write_all(&[1; 20_000]).unwrap();
    other.write_all(&[2; 20_000]).unwrap();
    let keys: Vec<Key> = std::iter::from_fn(|| driver.receive()).map(|(key, _, _)| key).take(8).collect();
    assert_eq!(keys, [first, second].repeat(4));
}

#[test]
fn a_connection_over_the_limit_is_refused() {
    let mut driver = Driver::new(1);
    driver.post(SIZE);
    let (_, _first) = driver.accepted();
    let mut second = driver.connect(1024);
    driver.serve();
    let mut line = Vec::new();
    let outcome = second.read_to_end(&mut line);
    assert!(line.is_empty() && !matches!(outcome, Err(error) if error.kind() == ErrorKind::WouldBlock));
}

#[test]
fn a_header_that_promises_more_than_it_brings_is_reset() {
    let mut driver = Driver::ready();
    let (key, _client) = driver.accepted();
    driver.send(key, Op::Data { len: 100 }, b"short");
    assert_eq!(driver.operations(), vec![RST]);
    assert_eq!(driver.device.counts().malformed, 1);
}

#[test]
fn a_chain_too_short_for_a_header_is_counted_and_given_back() {
    let mut driver = Driver::ready();
    driver.send_raw(&[0; HEADER_LEN - 1]);
    assert_eq!(driver.device.counts().malformed, 1);
    assert_eq!(driver.memory.read_obj::<u16>(GuestAddress(TX + USED + 2)).unwrap(), 1);
}

#[test]
fn a_guest_that_takes_no_packets_is_not_listened_to_for_ever() {
    let mut driver = Driver::new(64);
    for port in 0..1000 {
        driver.send(Key { host_port: 1, guest_port: port }, Op::CreditRequest, b"");
        let used: u16 = driver.memory.read_obj(GuestAddress(TX + USED + 2)).unwrap();
        if driver.sent.wrapping_sub(used) == SIZE {
            break;
        }
    }
    let used: u16 = driver.memory.read_obj(GuestAddress(TX + USED + 2)).unwrap();
    assert_eq!(used, 256);
    driver.post(SIZE);
    while driver.receive().is_some() {}
    assert_eq!(driver.memory.read_obj::<u16>(GuestAddress(TX + USED + 2)).unwrap(), driver.sent);
}

#[test]
fn a_ring_that_claims_too_much_stops_the_device_and_closes_its_connections() {
    let mut driver = Driver::ready();
    let (_, mut client) = driver.accepted();
    driver.write(TX + AVAIL + 2, &driver.sent.wrapping_add(SIZE + 1).to_le_bytes());
    assert!(driver.device.serve(&driver.memory, &mut driver.rx, &mut driver.tx).is_err());
    assert_eq!(ended(&mut client), b"");
    let mut late = driver.connect(1024);
    driver.device.poll_host().unwrap();
    let _ = late.read(&mut [0; 1]);
    let served = driver.device.serve(&driver.memory, &mut driver.rx, &mut driver.tx).unwrap();
    assert!(!served.used[0] && !served.used[1]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Rings and buffers full of anything: the device may stop, but it neither panics nor works for ever.
    #[test]
    fn no_content_of_memory_makes_the_device_panic(
        rings in proptest::collection::vec((0..0x4000_u64, any::<[u8; 8]>()), 0..64),
        headers in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..8),
        avail in any::<(u8, u8)>(),
    ) {
        let mut driver = Driver::ready();
        let _client = driver.connect(1024);
        for (index, header) in (0_u64..).zip(&headers) {
            driver.write(TX_BUFFERS + index * 0x4000, header);
            driver.descriptor(TX, index as u16, (TX_BUFFERS + index * 0x4000, header.len() as u32), 0);
            driver.write(TX + AVAIL + 4 + 2 * index, &(index as u16).to_le_bytes());
        }
        for (at, bytes) in rings {
            driver.write(RX + at, &bytes);
        }
        driver.write(TX + AVAIL + 2, &u16::from(avail.0 % 20).to_le_bytes());
        driver.write(RX + AVAIL + 2, &u16::from(avail.1 % 20).to_le_bytes());
        for _ in 0..4 {
            driver.device.poll_host().unwrap();
            let served = driver.device.serve(&driver.memory, &mut driver.rx, &mut driver.tx);
            if !served.unwrap_or_default().again {
                break;
            }
        }
    }
}
