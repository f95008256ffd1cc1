//! One packet's header: 44 little-endian bytes parsed into a type, and built from one (virtio 1.2, section 5.10.6).
//!
//! Never here: payload, credit rules, connection state.

use std::fmt;

/// Bytes of a packet header.
pub const HEADER_LEN: usize = 44;

/// Context id of the host.
pub const HOST_CID: u64 = 2;

/// The longest payload that one packet may carry, the bound that Linux drivers and devices share.
pub const MAX_PAYLOAD: u32 = 64 * 1024;

/// `VIRTIO_VSOCK_TYPE_STREAM`, the only socket type offered.
const STREAM: u16 = 1;

const OP_REQUEST: u16 = 1;
const OP_RESPONSE: u16 = 2;
const OP_RST: u16 = 3;
const OP_SHUTDOWN: u16 = 4;
const OP_RW: u16 = 5;
const OP_CREDIT_UPDATE: u16 = 6;
const OP_CREDIT_REQUEST: u16 = 7;

const SHUTDOWN_RECV: u32 = 1;
const SHUTDOWN_SEND: u32 = 2;

/// What names a connection: host and guest have one context id each, so two ports are enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Port on the host's side.
    pub host_port: u32,
    /// Port on the guest's side.
    pub guest_port: u32,
}

/// The directions that one party has closed, seen from that party.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ends {
    /// It will receive nothing more.
    pub recv: bool,
    /// It will send nothing more.
    pub send: bool,
}

impl Ends {
    /// Whether both directions are closed.
    pub fn both(self) -> bool {
        self.recv && self.send
    }

    /// The directions closed in either of the two.
    pub fn or(self, other: Ends) -> Ends {
        Ends { recv: self.recv || other.recv, send: self.send || other.send }
    }
}

/// What a party says about its receive buffer in every packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Credit {
    /// Size of its buffer for this connection in bytes.
    pub buf_alloc: u32,
    /// Bytes of this connection that it has taken out of the buffer, modulo 2^32.
    pub fwd_cnt: u32,
}

/// What a packet asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Opens a connection.
    Request,
    /// Accepts a connection.
    Response,
    /// Refuses or ends a connection.
    Reset,
    /// Closes directions.
    Shutdown(Ends),
    /// Carries `len` bytes of payload.
    Data {
        /// Bytes of payload, at most [`MAX_PAYLOAD`].
        len: u32,
    },
    /// Carries nothing but credit.
    CreditUpdate,
    /// Asks for a [`Op::CreditUpdate`].
    CreditRequest,
}

/// A packet's header, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Whose packet it is.
    pub key: Key,
    /// What it asks for.
    pub op: Op,
    /// The sender's credit.
    pub credit: Credit,
}

/// Why a header from the guest was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// It claims another sender or another receiver; there is nobody to answer.
    Misaddressed,
    /// It is for a known pair of ports, but says what this device does not understand; a reset answers it.
    Answerable(Key),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Misaddressed => write!(f, "sent from or to a foreign context id"),
            Malformed::Answerable(key) => {
                write!(f, "no stream packet for ports {} and {}", key.guest_port, key.host_port)
            }
        }
    }
}

impl Packet {
    /// Parses a header that the guest `guest_cid` sent.
    pub fn parse(header: &[u8; HEADER_LEN], guest_cid: u64) -> Result<Packet, Malformed> {
        let mut fields = Fields(header);
        let (from, to) = (fields.u64(), fields.u64());
        let key = Key { guest_port: fields.u32(), host_port: fields.u32() };
        let len = fields.u32();
        let (kind, op, flags) = (fields.u16(), fields.u16(), fields.u32());
        let credit = Credit { buf_alloc: fields.u32(), fwd_cnt: fields.u32() };
        if from != guest_cid || to != HOST_CID {
            return Err(Malformed::Misaddressed);
        }
        if kind != STREAM {
            return Err(Malformed::Answerable(key));
        }
        let op = parse_op(op, flags, len).ok_or(Malformed::Answerable(key))?;
        Ok(Packet { key, op, credit })
    }

    /// The header of this packet as the host sends it to `guest_cid`.
    pub fn build(&self, guest_cid: u64) -> [u8; HEADER_LEN] {
        let (op, flags, len) = match self.op {
            Op::Request => (OP_REQUEST, 0, 0),
            Op::Response => (OP_RESPONSE, 0, 0),
            Op::Reset => (OP_RST, 0, 0),
            Op::Shutdown(ends) => (OP_SHUTDOWN, flags_of(ends), 0),
            Op::Data { len } => (OP_RW, 0, len),
            Op::CreditUpdate => (OP_CREDIT_UPDATE, 0, 0),
            Op::CreditRequest => (OP_CREDIT_REQUEST, 0, 0),
        };
        let mut header = [0; HEADER_LEN];
        let mut fields = Blank(&mut header);
        fields.put(HOST_CID.to_le_bytes());
        fields.put(guest_cid.to_le_bytes());
        fields.put(self.key.host_port.to_le_bytes());
        fields.put(self.key.guest_port.to_le_bytes());
        fields.put(len.to_le_bytes());
        fields.put(STREAM.to_le_bytes());
        fields.put(op.to_le_bytes());
        fields.put(flags.to_le_bytes());
        fields.put(self.credit.buf_alloc.to_le_bytes());
        fields.put(self.credit.fwd_cnt.to_le_bytes());
        header
    }
}

fn parse_op(op: u16, flags: u32, len: u32) -> Option<Op> {
    Some(match op {
        OP_REQUEST => Op::Request,
        OP_RESPONSE => Op::Response,
        OP_RST => Op::Reset,
        OP_SHUTDOWN => {
            Op::Shutdown(Ends { recv: flags & SHUTDOWN_RECV != 0, send: flags & SHUTDOWN_SEND != 0 })
        }
        OP_RW if len <= MAX_PAYLOAD => Op::Data { len },
        OP_CREDIT_UPDATE => Op::CreditUpdate,
        OP_CREDIT_REQUEST => Op::CreditRequest,
        _ => return None,
    })
}

fn flags_of(ends: Ends) -> u32 {
    let recv = if ends.recv { SHUTDOWN_RECV } else { 0 };
    let send = if ends.send { SHUTDOWN_SEND } else { 0 };
    recv | send
}

/// Takes little-endian fields off the front; what is missing reads as zero, which a whole header never meets.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk::<N>() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            None => [0; N],
        }
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

/// A header that is filled field by field from its front.
struct Blank<'a>(&'a mut [u8]);

impl Blank<'_> {
    fn put<const N: usize>(&mut self, field: [u8; N]) {
        if let Some((place, rest)) = std::mem::take(&mut self.0).split_first_chunk_mut::<N>() {
            *place = field;
            self.0 = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GUEST: u64 = 3;

    fn from_guest(op: u16, flags: u32, len: u32) -> [u8; HEADER_LEN] {
        let key = Key { host_port: 1023, guest_port: 70_000 };
        let mut header = Packet { key, op: Op::Reset, credit: Credit::default() }.build(GUEST);
        header[0..8].copy_from_slice(&GUEST.to_le_bytes());
        header[8..16].copy_from_slice(&HOST_CID.to_le_bytes());
        header[16..20].copy_from_slice(&key.guest_port.to_le_bytes());
        header[20..24].copy_from_slice(&key.host_port.to_le_bytes());
        header[24..28].copy_from_slice(&len.to_le_bytes());
        header[30..32].copy_from_slice(&op.to_le_bytes());
        header[32..36].copy_from_slice(&flags.to_le_bytes());
        header
    }

    #[test]
    fn a_data_packet_is_understood() {
        let packet = Packet::parse(&from_guest(OP_RW, 0, 100), GUEST);
        let key = Key { host_port: 1023, guest_port: 70_000 };
        assert_eq!(packet, Ok(Packet { key, op: Op::Data { len: 100 }, credit: Credit::default() }));
    }

    #[test]
    fn the_two_shutdown_flags_are_told_apart() {
        let op = Packet::parse(&from_guest(OP_SHUTDOWN, SHUTDOWN_SEND, 0), GUEST).map(|packet| packet.op);
        assert_eq!(op, Ok(Op::Shutdown(Ends { recv: false, send: true })));
    }

    #[test]
    fn a_payload_over_the_limit_is_refused() {
        let parsed = Packet::parse(&from_guest(OP_RW, 0, MAX_PAYLOAD + 1), GUEST);
        assert!(matches!(parsed, Err(Malformed::Answerable(_))));
    }

    #[test]
    fn an_unknown_operation_is_refused() {
        assert!(matches!(Packet::parse(&from_guest(8, 0, 0), GUEST), Err(Malformed::Answerable(_))));
    }

    #[test]
    fn another_socket_type_is_refused() {
        let mut header = from_guest(OP_REQUEST, 0, 0);
        header[28] = 2;
        assert!(matches!(Packet::parse(&header, GUEST), Err(Malformed::Answerable(_))));
    }

    #[test]
    fn a_forged_sender_is_not_answered() {
        assert_eq!(Packet::parse(&from_guest(OP_REQUEST, 0, 0), GUEST + 1), Err(Malformed::Misaddressed));
    }

    #[test]
    fn a_packet_for_another_guest_is_not_answered() {
        let mut header = from_guest(OP_REQUEST, 0, 0);
        header[8] = 9;
        assert_eq!(Packet::parse(&header, GUEST), Err(Malformed::Misaddressed));
    }

    #[test]
    fn a_built_header_has_the_published_layout() {
        let packet = Packet {
            key: Key { host_port: 0x0102_0304, guest_port: 0x0506_0708 },
            op: Op::Data { len: 0x0910 },
            credit: Credit { buf_alloc: 0x1112_1314, fwd_cnt: 0x1516_1718 },
        };
        let mut expected = vec![2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];
        expected.extend([4, 3, 2, 1, 8, 7, 6, 5, 0x10, 9, 0, 0, 1, 0, 5, 0, 0, 0, 0, 0]);
        expected.extend([0x14, 0x13, 0x12, 0x11, 0x18, 0x17, 0x16, 0x15]);
        assert_eq!(packet.build(GUEST).to_vec(), expected);
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), HEADER_LEN)) {
            let mut header = [0; HEADER_LEN];
            header.copy_from_slice(&bytes);
            let cid = u64::from_le_bytes(header[0..8].try_into().unwrap());
            let _ = Packet::parse(&header, cid);
        }
    }
}
