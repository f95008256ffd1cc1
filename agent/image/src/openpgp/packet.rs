//! Packets (RFC 4880, section 4.2), in both formats of their heads.

use std::borrow::Cow;

/// Tags of packets (RFC 4880, section 4.3).
pub(super) const SIGNATURE: u8 = 2;
pub(super) const ONE_PASS: u8 = 4;
pub(super) const SECRET_KEY: u8 = 5;
pub(super) const PUBLIC_KEY: u8 = 6;
pub(super) const SECRET_SUBKEY: u8 = 7;
pub(super) const COMPRESSED: u8 = 8;
pub(super) const LITERAL: u8 = 11;
pub(super) const USER_ID: u8 = 13;
pub(super) const PUBLIC_SUBKEY: u8 = 14;
pub(super) const USER_ATTRIBUTE: u8 = 17;

/// Bytes that are taken one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

/// One packet.
#[derive(Debug, Clone)]
pub(super) struct Packet<'a> {
    pub(super) tag: u8,
    pub(super) body: Cow<'a, [u8]>,
}

impl<'a> Bytes<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A big-endian number of `count` bytes, at most four.
    pub(super) fn number(&mut self, count: usize) -> Option<u32> {
        let taken = self.take(count).filter(|taken| taken.len() <= 4)?;
        Some(taken.iter().fold(0, |value, byte| (value << 8) | u32::from(*byte)))
    }

    /// The same, as a length.
    pub(super) fn length(&mut self, count: usize) -> Option<usize> {
        usize::try_from(self.number(count)?).ok()
    }

    /// An integer of any length (RFC 4880, section 3.2), without leading zeros.
    pub(super) fn integer(&mut self) -> Option<&'a [u8]> {
        let bits = self.length(2)?;
        let taken = self.take(bits.div_ceil(8))?;
        let zeros = taken.iter().take_while(|byte| **byte == 0).count();
        taken.get(zeros..)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next packet; `None` for what is none.
    pub(super) fn packet(&mut self) -> Option<Packet<'a>> {
        let head = self.byte().filter(|head| head & 0x80 != 0)?;
        if head & 0x40 == 0 {
            return self.old_packet(head);
        }
        let tag = head & 0x3f;
        let mut whole: Option<Vec<u8>> = None;
        loop {
            let (length, is_last) = self.new_length()?;
            let part = self.take(length)?;
            match (&mut whole, is_last) {
                (None, true) => return Some(Packet { tag, body: Cow::Borrowed(part) }),
                (Some(whole), _) => whole.extend(part),
                // Only data comes in parts.
                (None, false) if matches!(tag, COMPRESSED | LITERAL) => whole = Some(part.to_vec()),
                (None, false) => return None,
            }
            if is_last {
                return whole.map(|whole| Packet { tag, body: Cow::Owned(whole) });
            }
        }
    }

    fn old_packet(&mut self, head: u8) -> Option<Packet<'a>> {
        let tag = (head >> 2) & 0x0f;
        let length = match head & 3 {
            0 => self.length(1)?,
            1 => self.length(2)?,
            2 => self.length(4)?,
            // To the end of all.
            _ if matches!(tag, COMPRESSED | LITERAL) => self.0.len(),
            _ => return None,
        };
        Some(Packet { tag, body: Cow::Borrowed(self.take(length)?) })
    }

    /// A length of the new format, and whether it is that of the last part (RFC 4880, section 4.2.2).
    fn new_length(&mut self) -> Option<(usize, bool)> {
        let first = self.byte()?;
        match first {
            0..192 => Some((usize::from(first), true)),
            192..224 => {
                let more = usize::from(self.byte()?);
                Some(((usize::from(first) - 192) * 256 + more + 192, true))
            }
            224..255 => Some((1_usize.checked_shl(u32::from(first & 0x1f))?, false)),
            255 => Some((self.length(4)?, true)),
        }
    }

    /// The length of a part of a signature (RFC 4880, section 5.2.3.1).
    pub(super) fn part_length(&mut self) -> Option<usize> {
        match self.0.first()? {
            224..=254 => {
                let first = usize::from(self.byte()?);
                let more = usize::from(self.byte()?);
                Some((first - 192) * 256 + more + 192)
            }
            _ => self.new_length().map(|(length, _)| length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_in_parts_is_put_together() {
        // Two bytes, then one.
        let mut bytes = Bytes(&[0xcb, 0xe1, 1, 2, 1, 3, 0xb4, 1, 9]);
        let packet = bytes.packet().expect("a packet");
        assert_eq!((packet.tag, &*packet.body), (LITERAL, &[1, 2, 3][..]));
        let next = bytes.packet().expect("a packet");
        assert_eq!((next.tag, &*next.body, bytes.is_empty()), (USER_ID, &[9][..], true));
    }

    #[test]
    fn what_is_cut_off_or_a_key_in_parts_is_none() {
        assert!(Bytes(&[0xcb, 5, 1]).packet().is_none());
        assert!(Bytes(&[0xc6, 0xe0, 1, 1, 2]).packet().is_none());
        assert!(Bytes(&[0x0b, 0]).packet().is_none());
    }

    #[test]
    fn integers_are_without_leading_zeros() {
        assert_eq!(Bytes(&[0, 9, 1, 2]).integer(), Some(&[1, 2][..]));
        assert_eq!(Bytes(&[0, 16, 0, 2]).integer(), Some(&[2][..]));
        assert_eq!(Bytes(&[0, 17, 1, 2]).integer(), None);
    }
}
