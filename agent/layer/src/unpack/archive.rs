//! The entries of a tar archive, one after the other: who each is, and its bytes.
//!
//! An entry may be extended by headers before it: names by GNU (`L`, `K`), records by POSIX (`x`). Where both say a name, GNU's
//! counts; records that should hold for all following entries (`g`) are passed over, as containerd does.

use std::io::Read;

use super::error::{ArchiveFault, Bound, UnpackError, within};
use super::header::{self, BLOCK, Header};
use super::limits::Limits;
use super::pax::Extended;
use super::sparse::{self, Map};
use super::stream::Stream;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    Character,
    Block,
    Directory,
    Fifo,
}

/// One entry.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) kind: Kind,
    /// What a link points to.
    pub(super) link: Vec<u8>,
    pub(super) attributes: Attributes,
    /// A device's major and minor number.
    pub(super) device: (u32, u32),
    /// Where its bytes go, if it is sparse.
    pub(super) map: Option<Map>,
}

/// What every kind of file has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    /// Permissions, with the bits for setuid, setgid and sticky.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub(super) mtime: (i64, u32),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

pub(super) struct Archive<R: Read> {
    pub(super) stream: Stream<R>,
    limits: Limits,
    headers: u64,
    /// Where the header that is being looked at begins.
    position: u64,
    /// Bytes of the entry's data that were not taken, and of the padding behind.
    left: u64,
    padding: u64,
}

/// What headers say of the entry after them.
#[derive(Default)]
struct Before {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    extended: Option<Extended>,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(stream: Stream<R>, limits: &Limits) -> Self {
        Self { stream, limits: limits.clone(), headers: 0, position: 0, left: 0, padding: 0 }
    }

    /// Headers until now.
    pub(super) fn headers(&self) -> u64 {
        self.headers
    }

    /// The next entry. Nothing at the end, up to which everything was then read.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, UnpackError> {
        let mut before = Before::default();
        loop {
            self.pass()?;
            let Some(header) = self.header()? else {
                let said = before.name.is_some() || before.link.is_some() || before.extended.is_some();
                return if said { Err(self.fault(ArchiveFault::Dangling)) } else { Ok(None) };
            };
            self.headers += 1;
            within(Bound::Entries, self.limits.entries, self.headers)?;
            if !self.extend(&header, &mut before)? {
                return self.entry(&header, before).map(Some);
            }
        }
    }

    /// The next bytes of the entry, none at its end.
    pub(super) fn peek(&mut self) -> Result<&[u8], UnpackError> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let (left, position) = (self.left, self.position);
        let lent = self.stream.peek()?;
        if lent.is_empty() {
            return Err(UnpackError::Archive { position, fault: ArchiveFault::Truncated });
        }
        let count = usize::try_from(left).map_or(lent.len(), |left| left.min(lent.len()));
        Ok(lent.get(..count).unwrap_or_default())
    }

    /// Takes `count` of the bytes that were lent.
    pub(super) fn take(&mut self, count: usize) {
        self.stream.take(count);
        self.left = self.left.saturating_sub(count as u64);
    }

    fn fault(&self, fault: ArchiveFault) -> UnpackError {
        UnpackError::Archive { position: self.position, fault }
    }

    /// Passes over what is left of an entry.
    fn pass(&mut self) -> Result<(), UnpackError> {
        let rest = self.left.saturating_add(self.padding);
        (self.left, self.padding) = (0, 0);
        self.stream.skip(rest)?;
        self.position = self.stream.position();
        Ok(())
    }

    /// The next header. An archive ends with a block of zeroes, or without one.
    fn header(&mut self) -> Result<Option<Header>, UnpackError> {
        let mut block = [0; BLOCK];
        match self.stream.read(&mut block)? {
            0 => return Ok(None),
            BLOCK => {}
            _ => return Err(self.fault(ArchiveFault::Truncated)),
        }
        if block == [0; BLOCK] {
            self.stream.padding()?;
            return Ok(None);
        }
        Header::new(block).map(Some).map_err(|fault| self.fault(fault))
    }

    /// Takes a header that extends the next one; `false` if it is none.
    fn extend(&mut self, header: &Header, before: &mut Before) -> Result<bool, UnpackError> {
        let flag = header.flag();
        if !matches!(flag, b'L' | b'K' | b'x' | b'g') {
            return Ok(false);
        }
        let size = header.size(&header::SIZE).map_err(|fault| self.fault(fault))?;
        within(Bound::ExtensionBytes, self.limits.extension_bytes, size)?;
        self.begin(size);
        let bytes = if flag == b'g' { Vec::new() } else { self.data()? };
        let text = || bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        let repeated = match flag {
            b'L' => before.name.replace(text()).map(|_| "a long name"),
            b'K' => before.link.replace(text()).map(|_| "a long link"),
            b'x' => {
                let extended = Extended::parse(&bytes).map_err(|fault| self.fault(fault))?;
                before.extended.replace(extended).map(|_| "an extended header")
            }
            _ => None,
        };
        match repeated {
            Some(what) => Err(self.fault(ArchiveFault::Repeated { what })),
            None => Ok(true),
        }
    }

    fn entry(&mut self, header: &Header, before: Before) -> Result<Entry, UnpackError> {
        let extended = before.extended.unwrap_or_default();
        let sparse_name = extended.sparse.name.clone().filter(|name| !name.is_empty());
        let name = before.name.or(sparse_name).or(extended.path.clone()).unwrap_or_else(|| header.name());
        let kind = kind(header.flag(), &name).map_err(|fault| self.fault(fault))?;
        let said = |found: Result<Attributes, ArchiveFault>| found.map_err(|fault| self.fault(fault));
        let attributes = said(attributes(header, &extended))?;
        let in_header = header.size(&header::SIZE).map_err(|fault| self.fault(fault))?;
        // Only files have data: some programs give a link the size of what it points to.
        let size = if kind == Kind::File { extended.size.unwrap_or(in_header) } else { 0 };
        let device = header.device().map_err(|fault| self.fault(fault))?;
        self.begin(size);
        let map = match header.flag() {
            b'S' => Some(sparse::of_header(header, size, &mut self.stream, &self.limits)?),
            _ if kind == Kind::File && extended.sparse.is_said() => {
                Some(sparse::of_extended(&extended.sparse, size, &mut self.stream, &self.limits)?)
            }
            _ => None,
        };
        self.left = self.left.saturating_sub(map.as_ref().map_or(0, |map| map.before));
        let link = before.link.or(extended.link).unwrap_or_else(|| header.link().to_vec());
        Ok(Entry { name, kind, link, attributes, device, map })
    }

    /// An entry has `size` bytes of data from here on.
    fn begin(&mut self, size: u64) {
        self.left = size;
        let over = size % BLOCK as u64;
        self.padding = if over == 0 { 0 } else { BLOCK as u64 - over };
    }

    /// All data of an entry whose size is bounded.
    fn data(&mut self) -> Result<Vec<u8>, UnpackError> {
        let mut bytes = Vec::new();
        loop {
            let lent = self.peek()?;
            bytes.extend_from_slice(lent);
            match lent.len() {
                0 => return Ok(bytes),
                count => self.take(count),
            }
        }
    }
}

fn kind(flag: u8, name: &[u8]) -> Result<Kind, ArchiveFault> {
    match flag {
        // Before there were directories, a slash made one.
        0 if name.ends_with(b"/") => Ok(Kind::Directory),
        0 | b'0' | b'7' | b'S' => Ok(Kind::File),
        b'1' => Ok(Kind::HardLink),
        b'2' => Ok(Kind::Symlink),
        b'3' => Ok(Kind::Character),
        b'4' => Ok(Kind::Block),
        b'5' => Ok(Kind::Directory),
        b'6' => Ok(Kind::Fifo),
        _ => Err(ArchiveFault::Kind { flag: char::from(flag) }),
    }
}

fn attributes(header: &Header, extended: &Extended) -> Result<Attributes, ArchiveFault> {
    // The largest number means "as it is" to the kernel, and nobody has it.
    let owner = |said: Option<u32>, field: &header::Field, name: &'static str| {
        let number = said.map_or_else(|| header.small(field), Ok)?;
        if number == u32::MAX { Err(ArchiveFault::Number { field: name }) } else { Ok(number) }
    };
    let mtime = match extended.mtime {
        Some(time) => time,
        None => (header.number(&header::MTIME)?, 0),
    };
    // What is before the epoch, or beyond what 64 bits of nanoseconds can say, becomes the epoch.
    let known = (0..=i64::MAX / 1_000_000_000).contains(&mtime.0);
    Ok(Attributes {
        mode: u32::try_from(header.number(&header::MODE)? & 0o7777).unwrap_or_default(),
        uid: owner(extended.uid, &header::UID, "an owner")?,
        gid: owner(extended.gid, &header::GID, "a group")?,
        mtime: if known { mtime } else { (0, 0) },
        xattrs: extended.xattrs.clone(),
    })
}
