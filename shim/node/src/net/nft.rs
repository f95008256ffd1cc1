//! The one nftables table that Coffer makes, said to the kernel directly.
//!
//! ```text
//! table inet NAME { chain output { type nat hook output priority -100;
//!     oif lo  meta nfproto ipv4 (or ipv6)  tcp dport != PORT  redirect to :PORT } }
//! ```
//! Our own encoder rather than the `nft` program: a node need not have it, and starting it costs more than the whole
//! rest of a pod's network. All of the table is one transaction.

use std::io;

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// Address families that loopback connections are redirected in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// 127.0.0.0/8.
    V4,
    /// ::1.
    V6,
}

// From linux/netfilter/nfnetlink.h and linux/netfilter/nf_tables.h.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const FAMILY_INET: u8 = 1;
const NESTED: u16 = 0x8000;
const REGISTER: u32 = 1;

// From linux/netlink.h.
const REQUEST: u16 = 0x01;
const ACK: u16 = 0x04;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const ERROR: u16 = 2;
const HEADER: usize = 16;

/// The loopback device is the first of every namespace.
const LOOPBACK_INDEX: u32 = 1;

/// Makes the table in the calling thread's namespace: TCP connections to the loopback go to `port`.
///
/// A table of that name, left by an earlier shim in the same namespace, is replaced. It is not deleted on suspicion,
/// because a deletion that finds nothing costs 20 ms: the kernel undoes the transaction and waits for all CPUs.
pub(super) fn create_table(table: &str, port: u16, families: &[Family]) -> io::Result<()> {
    match table_of(table, port, families).commit() {
        Err(Errno::EXIST) => {
            delete_table(table)?;
            Ok(table_of(table, port, families).commit()?)
        }
        other => Ok(other?),
    }
}

fn table_of(table: &str, port: u16, families: &[Family]) -> Batch {
    let mut batch = Batch::default();
    let mut body = Vec::new();
    string(&mut body, 1, table);
    batch.message(NEW_TABLE, REQUEST | CREATE | EXCLUSIVE | ACK, &body);
    batch.message(NEW_CHAIN, REQUEST | CREATE | ACK, &chain(table));
    for family in families {
        batch.message(NEW_RULE, REQUEST | CREATE | APPEND | ACK, &rule(table, port, *family));
    }
    batch
}

/// Removes the table; `false` if there is none.
pub(super) fn delete_table(table: &str) -> io::Result<bool> {
    let mut batch = Batch::default();
    let mut body = Vec::new();
    string(&mut body, 1, table);
    batch.message(DELETE_TABLE, REQUEST | ACK, &body);
    match batch.commit() {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(err) => Err(err.into()),
    }
}

fn chain(table: &str) -> Vec<u8> {
    let mut hook = Vec::new();
    number(&mut hook, 1, 3); // NF_INET_LOCAL_OUT
    number(&mut hook, 2, u32::MAX - 99); // priority -100, that of destination NAT
    let mut body = Vec::new();
    string(&mut body, 1, table);
    string(&mut body, 3, "output");
    attribute(&mut body, 4 | NESTED, &hook);
    string(&mut body, 7, "nat");
    body
}

fn rule(table: &str, port: u16, family: Family) -> Vec<u8> {
    let nfproto = match family {
        Family::V4 => 2,
        Family::V6 => 10,
    };
    let mut list = Vec::new();
    meta(&mut list, 5); // outgoing interface, host byte order
    compare(&mut list, 0, &LOOPBACK_INDEX.to_ne_bytes());
    meta(&mut list, 15); // address family
    compare(&mut list, 0, &[nfproto]);
    meta(&mut list, 16); // transport protocol
    compare(&mut list, 0, &[6]);
    destination_port(&mut list);
    compare(&mut list, 1, &port.to_be_bytes());
    redirect(&mut list, port);
    let mut body = Vec::new();
    string(&mut body, 1, table);
    string(&mut body, 2, "output");
    attribute(&mut body, 4 | NESTED, &list);
    body
}

/// Loads a fact about the packet into the register.
fn meta(list: &mut Vec<u8>, key: u32) {
    let mut data = Vec::new();
    number(&mut data, 1, REGISTER);
    number(&mut data, 2, key);
    expression(list, "meta", &data);
}

/// Goes on only if the register equals (`how` 0) or differs from (1) the value.
fn compare(list: &mut Vec<u8>, how: u32, value: &[u8]) {
    let mut data = Vec::new();
    number(&mut data, 1, REGISTER);
    number(&mut data, 2, how);
    nested_value(&mut data, 3, value);
    expression(list, "cmp", &data);
}

/// Loads bytes 2 and 3 of the transport header into the register.
fn destination_port(list: &mut Vec<u8>) {
    let mut data = Vec::new();
    number(&mut data, 1, REGISTER);
    number(&mut data, 2, 2); // transport header
    number(&mut data, 3, 2); // offset
    number(&mut data, 4, 2); // length
    expression(list, "payload", &data);
}

fn redirect(list: &mut Vec<u8>, port: u16) {
    let mut data = Vec::new();
    number(&mut data, 1, REGISTER);
    nested_value(&mut data, 2, &port.to_be_bytes());
    expression(list, "immediate", &data);
    let mut data = Vec::new();
    number(&mut data, 1, REGISTER);
    expression(list, "redir", &data);
}

fn expression(list: &mut Vec<u8>, name: &str, data: &[u8]) {
    let mut element = Vec::new();
    string(&mut element, 1, name);
    attribute(&mut element, 2 | NESTED, data);
    attribute(list, 1 | NESTED, &element);
}

fn nested_value(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let mut data = Vec::new();
    attribute(&mut data, 1, value);
    attribute(to, kind | NESTED, &data);
}

fn string(to: &mut Vec<u8>, kind: u16, text: &str) {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    attribute(to, kind, &bytes);
}

fn number(to: &mut Vec<u8>, kind: u16, value: u32) {
    attribute(to, kind, &value.to_be_bytes());
}

/// Length (header included), kind, value, zeros up to a multiple of four.
fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    assert!(length < u16::MAX, "an nftables attribute of ours is a few hundred bytes at most");
    to.extend_from_slice(&length.to_ne_bytes());
    to.extend_from_slice(&kind.to_ne_bytes());
    to.extend_from_slice(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// Messages between a begin and an end, which the kernel applies together or not at all.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    sent: u32,
}

impl Batch {
    fn message(&mut self, kind: u16, flags: u16, body: &[u8]) {
        if self.bytes.is_empty() {
            self.append(BATCH_BEGIN, REQUEST, 0, SUBSYSTEM, &[]);
        }
        self.append(kind, flags, FAMILY_INET, 0, body);
        self.sent += 1;
    }

    fn append(&mut self, kind: u16, flags: u16, family: u8, resource: u16, body: &[u8]) {
        let length = u32::try_from(HEADER + 4 + body.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.sent.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        self.bytes.extend_from_slice(body);
    }

    /// Sends the batch and reads one answer per message; the first refusal is the outcome.
    fn commit(mut self) -> Result<(), Errno> {
        self.append(BATCH_END, REQUEST, 0, SUBSYSTEM, &[]);
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::NETFILTER),
        )?;
        rustix::net::sockopt::set_socket_timeout(
            &socket,
            rustix::net::sockopt::Timeout::Recv,
            Some(std::time::Duration::from_secs(2)),
        )?;
        send(&socket, &self.bytes, SendFlags::empty())?;
        read_answers(&socket, self.sent)
    }
}

fn read_answers(socket: &OwnedFd, mut expected: u32) -> Result<(), Errno> {
    let mut buffer = [0; 8192];
    while expected > 0 {
        let (count, _) = recv(socket.as_fd(), &mut buffer, RecvFlags::empty())?;
        let mut rest = buffer.get(..count).unwrap_or_default();
        while let Some(length) = read_u32(rest, 0).and_then(|length| usize::try_from(length).ok()) {
            if length < HEADER || length > rest.len() {
                return Err(Errno::BADMSG);
            }
            let kind = rest.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
            if kind == Some(ERROR) {
                match read_u32(rest, HEADER).map(u32::cast_signed) {
                    Some(0) => expected = expected.saturating_sub(1),
                    Some(code) => return Err(Errno::from_raw_os_error(code.saturating_neg())),
                    None => return Err(Errno::BADMSG),
                }
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
    Ok(())
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
