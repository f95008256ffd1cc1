//! Writes and reads rtnetlink messages (rtnetlink(7)): a netlink header, a fixed header, attributes.
//!
//! Only what this agent uses; numbers are in the host's byte order, as netlink wants them.

use std::net::IpAddr;

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// A request under construction.
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// Starts a message of type `kind` (`RTM_*`) with its fixed header.
    pub(super) fn new(kind: u16, flags: i32, fixed: &[u8]) -> Self {
        let flags = u16::try_from(flags).unwrap_or(u16::MAX);
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(fixed);
        Request { bytes }
    }

    /// Adds an attribute.
    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a number.
    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Adds an address.
    pub(super) fn address(self, kind: u16, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => self.attribute(kind, &v4.octets()),
            IpAddr::V6(v6) => self.attribute(kind, &v6.octets()),
        }
    }

    /// Adds a string with its terminating zero.
    pub(super) fn string(self, kind: u16, text: &str) -> Self {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.attribute(kind, &value)
    }

    /// The finished message.
    pub(super) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        for (target, source) in self.bytes.iter_mut().zip(length.to_ne_bytes()) {
            *target = source;
        }
        for (target, source) in self.bytes.iter_mut().skip(8).zip(sequence.to_ne_bytes()) {
            *target = source;
        }
        self.bytes
    }
}

/// A received message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    /// What follows the netlink header.
    pub(super) body: &'a [u8],
}

/// The messages of one datagram; a malformed rest is left out.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(number(datagram, 0)?).ok()?;
        let kind = short(datagram, 4)?;
        let sequence = number(datagram, 8)?;
        let body = datagram.get(HEADER..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, sequence, body })
    })
}

/// The attributes behind a fixed header: type and value; a malformed rest is left out.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER` are not part of the type.
    const TYPE_MASK: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let length = usize::from(short(bytes, 0)?);
        let kind = short(bytes, 2)?;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & TYPE_MASK, value))
    })
}

/// The 16-bit number at `offset`.
pub(super) fn short(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// The 32-bit number at `offset`.
pub(super) fn number(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// An address of either family, told by its length.
pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_back_as_it_was_written() {
        let bytes = Request::new(16, 1, &[7; 16]).string(3, "eth0").number(4, 1450).finish(9);
        let read: Vec<Message<'_>> = messages(&bytes).collect();
        assert_eq!(read.len(), 1);
        let message = read[0];
        assert_eq!((message.kind, message.sequence), (16, 9));
        let read: Vec<_> = attributes(&message.body[16..]).collect();
        assert_eq!(read, vec![(3, &b"eth0\0"[..]), (4, &1450_u32.to_ne_bytes()[..])]);
    }

    #[test]
    fn an_attribute_longer_than_its_message_is_left_out() {
        assert_eq!(attributes(&[200, 0, 1, 0, 1, 2, 3, 4]).count(), 0);
    }

    #[test]
    fn an_attribute_shorter_than_its_own_header_ends_the_list() {
        assert_eq!(attributes(&[0; 16]).count(), 0);
    }

    #[test]
    fn a_message_shorter_than_its_own_header_ends_the_list() {
        assert_eq!(messages(&[0; 32]).count(), 0);
    }
}
