//! The 9P encoding: little-endian numbers and counted strings, read from and written to bounded buffers.

/// Bytes of a frame before its body: size, type, tag.
pub(super) const HEADER: usize = 7;

/// Types of messages from the guest; the reply's is one more.
pub(super) mod kind {
    pub(in super::super) const STATFS: u8 = 8;
    pub(in super::super) const LOPEN: u8 = 12;
    pub(in super::super) const LCREATE: u8 = 14;
    pub(in super::super) const SYMLINK: u8 = 16;
    pub(in super::super) const MKNOD: u8 = 18;
    pub(in super::super) const RENAME: u8 = 20;
    pub(in super::super) const READLINK: u8 = 22;
    pub(in super::super) const GETATTR: u8 = 24;
    pub(in super::super) const SETATTR: u8 = 26;
    pub(in super::super) const XATTRWALK: u8 = 30;
    pub(in super::super) const XATTRCREATE: u8 = 32;
    pub(in super::super) const READDIR: u8 = 40;
    pub(in super::super) const FSYNC: u8 = 50;
    pub(in super::super) const LOCK: u8 = 52;
    pub(in super::super) const GETLOCK: u8 = 54;
    pub(in super::super) const LINK: u8 = 70;
    pub(in super::super) const MKDIR: u8 = 72;
    pub(in super::super) const RENAMEAT: u8 = 74;
    pub(in super::super) const UNLINKAT: u8 = 76;
    pub(in super::super) const VERSION: u8 = 100;
    pub(in super::super) const AUTH: u8 = 102;
    pub(in super::super) const ATTACH: u8 = 104;
    pub(in super::super) const FLUSH: u8 = 108;
    pub(in super::super) const WALK: u8 = 110;
    pub(in super::super) const READ: u8 = 116;
    pub(in super::super) const WRITE: u8 = 118;
    pub(in super::super) const CLUNK: u8 = 120;
    pub(in super::super) const REMOVE: u8 = 122;

    /// The reply that carries an error (`Rlerror`).
    pub(in super::super) const ERROR_REPLY: u8 = 7;
}

/// A frame or a string ends before its contents do, or goes on after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a 9P message is shorter or longer than its contents")]
pub(super) struct Malformed;

/// Reads a body front to back.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Reader<'a> {
        Reader { rest: body }
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// A string: a 16-bit count and as many bytes.
    pub(super) fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let count = usize::from(self.u16()?);
        self.bytes(count)
    }

    /// So many bytes.
    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Nothing is left.
    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*taken)
    }
}

/// Writes one frame at a time into a buffer that is used again.
///
/// Nothing here is over the limit that was negotiated: what has no bound of its own goes through [`Writer::room`].
#[derive(Debug)]
pub(super) struct Writer {
    buffer: Vec<u8>,
    limit: usize,
}

impl Writer {
    pub(super) fn new(limit: usize) -> Writer {
        Writer { buffer: Vec::with_capacity(limit), limit }
    }

    /// Changes the largest frame.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Begins a frame; the size is filled in by [`Writer::finish`].
    pub(super) fn begin(&mut self, kind: u8, tag: u16) {
        self.buffer.clear();
        self.buffer.extend_from_slice(&[0; 4]);
        self.u8(kind);
        self.u16(tag);
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.buffer.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.buffer.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.buffer.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.buffer.extend_from_slice(&value.to_le_bytes());
    }

    /// A string, cut at the longest that its count can tell.
    pub(super) fn string(&mut self, bytes: &[u8]) {
        let count = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.u16(count);
        self.buffer.extend_from_slice(bytes.get(..usize::from(count)).unwrap_or(bytes));
    }

    /// How many bytes still fit the frame.
    pub(super) fn room(&self) -> usize {
        self.limit.saturating_sub(self.buffer.len())
    }

    /// Appends a 32-bit count and as many bytes, which `fill` puts into a buffer of at most `count` and what fits.
    pub(super) fn counted<E>(
        &mut self,
        count: u32,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.room().saturating_sub(4));
        let at = self.buffer.len();
        self.buffer.resize(at + 4 + count, 0);
        let filled = match self.buffer.get_mut(at + 4..) {
            Some(space) => fill(space)?.min(count),
            None => 0,
        };
        self.buffer.truncate(at + 4 + filled);
        self.patch(at, filled);
        Ok(())
    }

    /// What was written, for parts that become part of a frame.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// The finished frame.
    pub(super) fn finish(&mut self) -> &[u8] {
        self.patch(0, self.buffer.len());
        &self.buffer
    }

    fn patch(&mut self, at: usize, value: usize) {
        let value = u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
        if let Some(place) = self.buffer.get_mut(at..at + 4) {
            place.copy_from_slice(&value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_that_goes_on_after_the_message_is_refused() {
        assert_eq!(Reader::new(&[5, 0, b'a']).string(), Err(Malformed));
    }

    #[test]
    fn a_number_that_is_cut_is_refused() {
        assert_eq!(Reader::new(&[1, 2, 3]).u32(), Err(Malformed));
    }

    #[test]
    fn bytes_after_the_last_field_are_refused() {
        assert_eq!(Reader::new(&[1]).end(), Err(Malformed));
    }

    #[test]
    fn a_count_over_the_frame_is_cut_to_what_fits() {
        let mut writer = Writer::new(20);
        writer.begin(117, 1);
        writer.counted(1000, |space| Ok::<_, Malformed>(space.len())).unwrap();
        let frame = writer.finish();
        assert_eq!((frame.len(), frame[0], frame[7]), (20, 20, 9));
    }
}
