//! Reads fields from bytes that somebody else wrote: every length is checked, nothing panics.

/// A place in a byte string. Fields are taken in order and never twice.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
    at: usize,
}

/// A field that the bytes end before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} at offset {at} needs {wanted} bytes, {left} are left")]
pub struct Short {
    /// Name of the field.
    pub field: &'static str,
    /// Offset of the field from the beginning, in bytes.
    pub at: usize,
    /// Length of the field in bytes.
    pub wanted: usize,
    /// Bytes that are there.
    pub left: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, at: 0 }
    }

    /// Offset of the next byte.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The bytes that are left.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn bytes(&mut self, field: &'static str, wanted: usize) -> Result<&'a [u8], Short> {
        let short = Short { field, at: self.at, wanted, left: self.rest.len() };
        let (taken, rest) = self.rest.split_at_checked(wanted).ok_or(short)?;
        self.rest = rest;
        self.at += wanted;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Short> {
        let short = Short { field, at: self.at, wanted: N, left: self.rest.len() };
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(short)?;
        self.rest = rest;
        self.at += N;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, Short> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(crate) fn u16_le(&mut self, field: &'static str) -> Result<u16, Short> {
        self.array(field).map(u16::from_le_bytes)
    }

    pub(crate) fn u32_le(&mut self, field: &'static str) -> Result<u32, Short> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(crate) fn u64_le(&mut self, field: &'static str) -> Result<u64, Short> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// A length in front of its bytes, as little-endian u32.
    pub(crate) fn u32_prefixed(&mut self, field: &'static str) -> Result<&'a [u8], Short> {
        let length = self.u32_le(field)?;
        self.bytes(field, usize::try_from(length).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_follow_each_other() {
        let mut cursor = Cursor::new(&[1, 2, 0, 3, 0, 0, 0, 9, 9]);
        assert_eq!(cursor.u8("a"), Ok(1));
        assert_eq!(cursor.u16_le("b"), Ok(2));
        assert_eq!(cursor.u32_le("c"), Ok(3));
        assert_eq!((cursor.at(), cursor.rest()), (7, &[9, 9][..]));
    }

    #[test]
    fn a_field_that_does_not_fit_takes_nothing() {
        let mut cursor = Cursor::new(&[1, 2, 3]);
        assert_eq!(cursor.u32_le("size"), Err(Short { field: "size", at: 0, wanted: 4, left: 3 }));
        assert_eq!(cursor.bytes("data", usize::MAX).unwrap_err().left, 3);
        assert_eq!(cursor.rest().len(), 3);
    }

    #[test]
    fn a_length_larger_than_the_rest_is_short() {
        let mut cursor = Cursor::new(&[255, 255, 255, 255, 1]);
        let short = Short { field: "data", at: 4, wanted: 0xffff_ffff, left: 1 };
        assert_eq!(cursor.u32_prefixed("data"), Err(short));
    }
}
