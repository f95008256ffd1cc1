//! Goes through an archive and has each entry made, within limits.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, ftruncate};
use rustix::io::{Errno, pwrite, write};

use super::archive::{Archive, Entry, Kind};
use super::blob::Blob;
use super::compression::Compression;
use super::error::{Bound, EntryFault, UnpackError, shown, within};
use super::limits::Limits;
use super::name::{self, Path, Place};
use super::sparse::Map;
use super::stream::Stream;
use super::tree::{Failure, Tree};
use super::{Expected, Unpacked};

/// The largest numbers that Linux has for devices.
const MAX_MAJOR: u32 = 0xfff;
const MAX_MINOR: u32 = 0xf_ffff;

/// Unpacks the layer `blob` into `target`, an empty directory, reading both to their ends. Whiteouts become what overlayfs takes
/// for them. Needs the rights of root.
///
/// The blob is held against the size and digest that `expected` says, its archive against the diff id, as far as they are known. Whatever the error, nothing
/// outside `target` was touched, and what is in it is to be removed.
pub fn unpack(
    blob: impl Read,
    expected: &Expected,
    target: BorrowedFd<'_>,
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    let compression = Compression::of(&expected.media_type)?;
    let tree = Tree::new(target).map_err(|failure| of_entry(b"/", failure))?;
    let stream = Stream::new(Blob::new(blob, expected.size), compression, limits);
    let mut filling = Filling { archive: Archive::new(stream, limits), tree, limits, sparse: 0, xattrs: 0 };
    match filling.all() {
        Ok(()) => filling.finish(expected),
        Err(error) => Err(blame(error, filling.archive.stream, expected)),
    }
}

struct Filling<'a, R: Read> {
    archive: Archive<R>,
    tree: Tree,
    limits: &'a Limits,
    /// Bytes of sparse files, with their holes.
    sparse: u64,
    /// Bytes of extended attributes.
    xattrs: u64,
}

impl<R: Read> Filling<'_, R> {
    fn all(&mut self) -> Result<(), UnpackError> {
        while let Some(entry) = self.archive.next()? {
            self.attributes(&entry)?;
            self.entry(&entry)?;
        }
        Ok(())
    }

    fn finish(self, expected: &Expected) -> Result<Unpacked, UnpackError> {
        self.tree.finish().map_err(|failure| of_entry(b"/", failure))?;
        let headers = self.archive.headers();
        let (diff_id, blob, unpacked) = self.archive.stream.finish(headers);
        let found = blob.finish()?;
        if let Some(expected) = expected.content.digest().filter(|expected| *expected != found) {
            return Err(UnpackError::Digest { expected, found });
        }
        let found = diff_id.unwrap_or(found);
        match expected.content.diff_id().filter(|expected| *expected != found) {
            Some(expected) => Err(UnpackError::DiffId { expected, found }),
            None => Ok(unpacked),
        }
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        let refused = |failure| of_entry(&entry.name, failure);
        match name::place(&entry.name, self.limits)? {
            // Containerd leaves the root as it is, too.
            Place::Root => Ok(()),
            Place::Opaque(parents) => {
                self.tree.enter(&parents).and_then(|()| self.tree.opaque()).map_err(refused)
            }
            Place::Whiteout(path) => {
                let parents = self.tree.enter(&path.parents);
                parents.and_then(|()| self.tree.whiteout(path.name)).map_err(refused)
            }
            Place::At(path) => self.at(&path, entry),
        }
    }

    fn at(&mut self, path: &Path<'_>, entry: &Entry) -> Result<(), UnpackError> {
        let refused = |failure| of_entry(&entry.name, failure);
        self.tree.enter(&path.parents).map_err(refused)?;
        match entry.kind {
            Kind::File => self.file(path.name, entry),
            Kind::Directory => self.tree.directory(path.name, &entry.attributes).map_err(refused),
            Kind::Symlink => {
                within(Bound::PathBytes, self.limits.path_bytes, entry.link.len() as u64)?;
                self.tree.symlink(path.name, &entry.link, &entry.attributes).map_err(refused)
            }
            Kind::HardLink => {
                let fault = || EntryFault::Target { target: shown(&entry.link) };
                let target = name::target(&entry.link, self.limits)?;
                let target = target.ok_or_else(|| refused(Failure::Refused(fault())))?;
                self.tree.hard_link(path.name, &target).map_err(refused)
            }
            Kind::Fifo => {
                self.tree.node(path.name, FileType::Fifo, (0, 0), &entry.attributes).map_err(refused)
            }
            Kind::Character | Kind::Block => self.device(path.name, entry).map_err(refused),
        }
    }

    fn device(&mut self, name: &[u8], entry: &Entry) -> Result<(), Failure> {
        let (major, minor) = entry.device;
        if major > MAX_MAJOR || minor > MAX_MINOR {
            return Err(Failure::Refused(EntryFault::Device { major, minor }));
        }
        let kind = match entry.kind {
            Kind::Block => FileType::BlockDevice,
            _ if entry.device == (0, 0) => return Err(Failure::Refused(EntryFault::WhiteoutDevice)),
            _ => FileType::CharacterDevice,
        };
        self.tree.node(name, kind, entry.device, &entry.attributes)
    }

    fn file(&mut self, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        let refused = |failure| of_entry(&entry.name, failure);
        let file = self.tree.file(name).map_err(refused)?;
        match &entry.map {
            None => self.data(file.as_fd(), entry)?,
            Some(map) => self.pieces(file.as_fd(), map, entry)?,
        }
        self.tree.dress(file.as_fd(), &entry.attributes).map_err(refused)
    }

    fn data(&mut self, file: BorrowedFd<'_>, entry: &Entry) -> Result<(), UnpackError> {
        loop {
            let bytes = self.archive.peek()?;
            if bytes.is_empty() {
                return Ok(());
            }
            let count = retried(|| write(file, bytes)).map_err(|errno| unwritten(entry, errno))?;
            self.archive.take(count);
        }
    }

    fn pieces(&mut self, file: BorrowedFd<'_>, map: &Map, entry: &Entry) -> Result<(), UnpackError> {
        self.sparse = self.sparse.saturating_add(map.size);
        within(Bound::Bytes, self.limits.bytes, self.sparse)?;
        for piece in &map.pieces {
            let mut done = 0;
            while done < piece.length {
                let bytes = self.archive.peek()?;
                let room =
                    usize::try_from(piece.length - done).map_or(bytes.len(), |left| left.min(bytes.len()));
                let part = bytes.get(..room).unwrap_or_default();
                let count = retried(|| pwrite(file, part, piece.offset.saturating_add(done)));
                let count = count.map_err(|errno| unwritten(entry, errno))?;
                self.archive.take(count);
                done += count as u64;
            }
        }
        ftruncate(file, map.size).map_err(|errno| unwritten(entry, errno))
    }

    /// Holds extended attributes against limits, and refuses those that would tell overlayfs something.
    fn attributes(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        let mut bytes = 0u64;
        for (name, value) in &entry.attributes.xattrs {
            if name.starts_with(b"trusted.") || name.starts_with(b"user.overlay.") {
                let fault = EntryFault::Xattr { name: shown(name) };
                return Err(UnpackError::Entry { entry: shown(&entry.name), fault });
            }
            bytes = bytes.saturating_add(name.len() as u64).saturating_add(value.len() as u64);
        }
        within(Bound::XattrBytes, self.limits.xattr_bytes, bytes)?;
        self.xattrs = self.xattrs.saturating_add(bytes);
        within(Bound::AllXattrBytes, self.limits.all_xattr_bytes, self.xattrs)
    }
}

/// An archive that cannot be read may be another than was meant: then that is the error.
fn blame<R: Read>(error: UnpackError, stream: Stream<R>, expected: &Expected) -> UnpackError {
    use UnpackError::{Archive, Decompress, Digest, Entry, Size};
    if !matches!(error, Archive { .. } | Decompress { .. } | Entry { .. }) {
        return error;
    }
    match stream.into_blob().finish() {
        Ok(found) => match expected.content.digest().filter(|expected| *expected != found) {
            Some(expected) => Digest { expected, found },
            None => error,
        },
        Err(size @ Size { .. }) => size,
        Err(_) => error,
    }
}

fn of_entry(name: &[u8], failure: Failure) -> UnpackError {
    match failure {
        Failure::Refused(fault) => UnpackError::Entry { entry: shown(name), fault },
        Failure::Call(action, source) => UnpackError::Write { action, entry: shown(name), source },
    }
}

fn unwritten(entry: &Entry, errno: Errno) -> UnpackError {
    UnpackError::Write { action: "write", entry: shown(&entry.name), source: errno.into() }
}

/// Calls until no signal interrupts.
fn retried(call: impl Fn() -> Result<usize, Errno>) -> Result<usize, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
