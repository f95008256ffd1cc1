//! CBOR (RFC 8949) as COSE needs it: definite lengths in their shortest form, no floating point, bounded in depth and count.

/// The deepest nesting, and the most entries of one array or map.
const MAX_DEPTH: u8 = 6;
const MAX_ENTRIES: u64 = 64;

/// One data item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item<'a> {
    Integer(i64),
    Bytes(&'a [u8]),
    Text(&'a str),
    Array(Vec<Item<'a>>),
    Map(Vec<(Item<'a>, Item<'a>)>),
    Tagged(u64, Box<Item<'a>>),
}

impl<'a> Item<'a> {
    /// Reads the one item that fills `bytes`.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let item = reader.item(MAX_DEPTH)?;
        reader.0.is_empty().then_some(item)
    }

    /// What a map has under `key`.
    pub(super) fn get(&self, key: &Item<'_>) -> Option<&Item<'a>> {
        match self {
            Item::Map(entries) => entries.iter().find(|(found, _)| found == key).map(|(_, value)| value),
            _ => None,
        }
    }

    pub(super) fn bytes(&self) -> Option<&'a [u8]> {
        match self {
            Item::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        match self {
            Item::Text(text) => Some(text),
            _ => None,
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn item(&mut self, depth: u8) -> Option<Item<'a>> {
        let below = depth.checked_sub(1)?;
        let (kind, number) = self.head()?;
        match kind {
            0 => i64::try_from(number).ok().map(Item::Integer),
            1 => i64::try_from(number).ok().map(|number| Item::Integer(-1 - number)),
            2 => self.take(number).map(Item::Bytes),
            3 => std::str::from_utf8(self.take(number)?).ok().map(Item::Text),
            4 => self.array(number, below),
            5 => self.map(number, below),
            6 => Some(Item::Tagged(number, Box::new(self.item(below)?))),
            _ => None,
        }
    }

    fn array(&mut self, entries: u64, below: u8) -> Option<Item<'a>> {
        let all = (entries <= MAX_ENTRIES).then_some(0..entries)?;
        all.map(|_| self.item(below)).collect::<Option<Vec<Item<'a>>>>().map(Item::Array)
    }

    /// A key that is there twice could be read in two ways.
    fn map(&mut self, entries: u64, below: u8) -> Option<Item<'a>> {
        let mut all: Vec<(Item<'a>, Item<'a>)> = Vec::new();
        for _ in (entries <= MAX_ENTRIES).then_some(0..entries)? {
            let key = self.item(below)?;
            if all.iter().any(|(other, _)| *other == key) {
                return None;
            }
            all.push((key, self.item(below)?));
        }
        Some(Item::Map(all))
    }

    /// Major type and number.
    fn head(&mut self) -> Option<(u8, u64)> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        let (kind, short) = (first >> 5, first & 0x1f);
        let (number, least) = match short {
            0..24 => (u64::from(short), 0),
            24 => (self.number::<1>()?, 24),
            25 => (self.number::<2>()?, 1 << 8),
            26 => (self.number::<4>()?, 1 << 16),
            27 => (self.number::<8>()?, 1 << 32),
            _ => return None,
        };
        (number >= least).then_some((kind, number))
    }

    fn number<const N: usize>(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(bytes.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }
}

/// A byte string, as it is written.
pub(super) fn byte_string(bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len();
    let mut out = match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..24), _) => vec![0x40 | short],
        (Ok(short), _) => vec![0x58, short],
        (_, Ok(middle)) => [&[0x59], &middle.to_be_bytes()[..]].concat(),
        // Envelopes are bounded far below this.
        _ => [&[0x5a], &u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()[..]].concat(),
    };
    out.extend(bytes);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_read() {
        let map = [0xa2, 0x01, 0x26, 0x61, b'a', 0x82, 0x41, 7, 0xc1, 0x18, 24];
        let read = Item::read(&map).expect("a map");
        assert_eq!(read.get(&Item::Integer(1)), Some(&Item::Integer(-7)));
        let array = vec![Item::Bytes(&[7]), Item::Tagged(1, Box::new(Item::Integer(24)))];
        assert_eq!(read.get(&Item::Text("a")), Some(&Item::Array(array)));
    }

    #[test]
    fn a_number_in_a_longer_form_is_refused() {
        assert_eq!((Item::read(&[0x18, 23]), Item::read(&[0x19, 0, 255])), (None, None));
    }

    #[test]
    fn a_key_that_is_there_twice_is_refused() {
        assert_eq!(Item::read(&[0xa2, 1, 1, 1, 2]), None);
    }

    #[test]
    fn what_has_no_end_goes_too_deep_or_is_cut_off_is_refused() {
        assert_eq!((Item::read(&[0x5f, 0xff]), Item::read(&[0x43, 1])), (None, None));
        assert_eq!(Item::read(&[0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x01]), None);
        assert_eq!(Item::read(&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn a_byte_string_that_was_written_is_read() {
        for length in [0, 23, 24, 255, 256, 65_536] {
            let bytes = vec![7; length];
            assert_eq!(Item::read(&byte_string(&bytes)), Some(Item::Bytes(&bytes)));
        }
    }
}
