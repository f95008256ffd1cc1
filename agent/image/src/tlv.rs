//! Walks through DER one element at a time, for structures of which only a few parts matter.

use der::{Decode, Header, Reader, SliceReader};

/// One element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Element<'a> {
    /// The first identifier octet.
    pub(crate) tag: u8,
    /// What is inside.
    pub(crate) content: &'a [u8],
    /// All of it, header and content.
    pub(crate) whole: &'a [u8],
}

pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const UTF8: u8 = 0x0c;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
/// A constructed element with context tag 0 to 30.
pub(crate) const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// Elements one behind the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Walk<'a>(&'a [u8]);

impl<'a> Walk<'a> {
    /// The one element that fills `bytes`.
    pub(crate) fn only(bytes: &'a [u8], tag: u8) -> Option<Element<'a>> {
        let mut walk = Self(bytes);
        let element = walk.expect(tag)?;
        walk.0.is_empty().then_some(element)
    }

    /// The next element, whatever it is. `None` at the end, and for what is no DER.
    pub(crate) fn step(&mut self) -> Option<Element<'a>> {
        let tag = *self.0.first()?;
        let mut reader = SliceReader::new(self.0).ok()?;
        let whole = reader.tlv_bytes().ok()?;
        let mut inside = SliceReader::new(whole).ok()?;
        let header = Header::decode(&mut inside).ok()?;
        let content = inside.read_slice(header.length()).ok()?;
        self.0 = self.0.get(whole.len()..)?;
        Some(Element { tag, content, whole })
    }

    /// The next element, which must have this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Option<Element<'a>> {
        self.step().filter(|element| element.tag == tag)
    }

    /// The next element if it has this tag; else nothing is taken.
    pub(crate) fn optional(&mut self, tag: u8) -> Option<Element<'a>> {
        if self.0.first() == Some(&tag) { self.step() } else { None }
    }

    /// Whether nothing is left.
    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> Element<'a> {
    /// Walks through what is inside.
    pub(crate) fn walk(&self) -> Walk<'a> {
        Walk(self.content)
    }
}

/// An element of DER with this tag.
pub(crate) fn encode(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let used: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
            out.push(0x80 | u8::try_from(used.len()).unwrap_or(u8::MAX));
            out.extend(used);
        }
    }
    out.extend(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_is_walked_through() {
        let inner = [encode(INTEGER, &[5]), encode(OCTET_STRING, &[7; 300])].concat();
        let whole = encode(SEQUENCE, &inner);
        let mut walk = Walk::only(&whole, SEQUENCE).expect("a sequence").walk();
        assert_eq!(walk.expect(INTEGER).map(|element| element.content), Some(&[5][..]));
        assert_eq!(walk.optional(SET), None);
        assert_eq!(walk.step().map(|element| element.content.len()), Some(300));
        assert!(walk.is_finished());
    }

    #[test]
    fn an_element_that_is_cut_off_is_none() {
        assert_eq!(Walk(&[0x30, 5, 1]).step(), None);
    }

    #[test]
    fn bytes_behind_the_only_element_are_refused() {
        assert_eq!(Walk::only(&[0x02, 1, 1, 0], INTEGER), None);
    }
}
