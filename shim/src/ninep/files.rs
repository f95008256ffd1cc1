//! Contents: open, create, read, write, list, sync, lock.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawDir, SeekFrom, Uid};
use rustix::io::Errno;

use super::fids::{Fid, Opened, permissions};
use super::reply;
use super::request::{Name, Request};
use super::session::Session;
use super::tree::{HostNode, Node};
use super::wire::Writer;

/// `P9_LOCK_SUCCESS`.
const LOCK_SUCCESS: u8 = 0;

/// `F_UNLCK`.
const UNLOCKED: u8 = 2;

/// Bytes of an entry in `Rreaddir` besides its name: identity, offset, type, count.
const ENTRY: usize = 13 + 8 + 1 + 2;

impl Session {
    pub(super) fn open(&mut self, number: u32, flags: u32, writer: &mut Writer) -> Result<(), Errno> {
        let fid = self.fids.get(number)?;
        if !matches!(fid.opened, Opened::No) {
            return Err(Errno::BUSY);
        }
        let flags = open_flags(flags)?;
        if is_writing(flags) {
            self.tree.writable()?;
        }
        let qid = self.node_qid(&fid.node)?;
        let opened = match &fid.node {
            Node::Above if is_writing(flags) => return Err(Errno::ISDIR),
            Node::Above => Opened::Above,
            Node::Host(node) => {
                let fd = self.tree.open(node, flags)?;
                if node.kind() == FileType::Directory { Opened::Directory(fd) } else { Opened::File(fd) }
            }
        };
        self.fids.get_mut(number)?.opened = opened;
        reply::qid(writer, qid);
        // No unit of transfer but the frame.
        writer.u32(0);
        Ok(())
    }

    /// `Tlcreate`: the directory's handle becomes that of the new, open file.
    pub(super) fn create(&mut self, request: &Request<'_>, writer: &mut Writer) -> Result<(), Errno> {
        let Request::Create { fid: number, name, flags, mode, gid } = *request else {
            return Err(Errno::INVAL);
        };
        self.tree.writable()?;
        let (directory, fid) = self.fids.host(number)?;
        if !matches!(fid.opened, Opened::No) {
            return Err(Errno::BUSY);
        }
        /// `O_EXCL`, the same in 9P and Linux.
        const EXCLUSIVE: u32 = 0o200;
        let (uid, flags, exclusive) = (fid.uid, open_flags(flags)?, flags & EXCLUSIVE != 0);
        let (node, file) = match self.create_new(directory, name, (uid, gid), mode) {
            Err(Errno::EXIST) if !exclusive => {
                let node = directory.child(name)?;
                let file = self.tree.open(&node, flags)?;
                (node, file)
            }
            Ok(node) => {
                let file = self.tree.open(&node, flags)?;
                (node, file)
            }
            Err(error) => return Err(error),
        };
        if node.kind() != FileType::RegularFile {
            return Err(Errno::ISDIR);
        }
        let qid = self.tree.qid(&node.stat()?);
        let fid = Fid { node: Node::Host(node), uid, opened: Opened::File(file) };
        self.fids.insert(number, fid, true)?;
        reply::qid(writer, qid);
        writer.u32(0);
        Ok(())
    }

    /// Makes an empty file that did not exist. It is nobody's until it has its owner.
    fn create_new(
        &self,
        directory: &HostNode,
        name: Name<'_>,
        owner: (u32, u32),
        mode: u32,
    ) -> Result<HostNode, Errno> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        drop(rustix::fs::openat(directory.fd(), name.as_bytes(), flags, Mode::empty())?);
        self.settle(directory, name, owner, Some(mode))
    }

    /// Gives what was just made its owner and mode; if that fails, it is removed again.
    pub(super) fn settle(
        &self,
        directory: &HostNode,
        name: Name<'_>,
        (uid, gid): (u32, u32),
        mode: Option<u32>,
    ) -> Result<HostNode, Errno> {
        let node = directory.child(name)?;
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        let settled = rustix::fs::chownat(node.fd(), "", uid, gid, AtFlags::EMPTY_PATH)
            .and_then(|()| mode.map_or(Ok(()), |mode| self.tree.set_mode(&node, permissions(mode))));
        if let Err(error) = settled {
            let flags =
                if node.kind() == FileType::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            let _ = rustix::fs::unlinkat(directory.fd(), name.as_bytes(), flags);
            return Err(error);
        }
        Ok(node)
    }

    pub(super) fn read(
        &self,
        number: u32,
        offset: u64,
        count: u32,
        writer: &mut Writer,
    ) -> Result<(), Errno> {
        match &self.fids.get(number)?.opened {
            Opened::File(file) => {
                writer.counted(count, |space| rustix::io::pread(file, space, checked(offset)?))
            }
            Opened::Value(value) => writer.counted(count, |space| {
                let from =
                    usize::try_from(offset).ok().and_then(|offset| value.get(offset..)).unwrap_or_default();
                let taken = from.len().min(space.len());
                let (Some(to), Some(from)) = (space.get_mut(..taken), from.get(..taken)) else {
                    return Ok(0);
                };
                to.copy_from_slice(from);
                Ok(taken)
            }),
            _ => Err(Errno::BADF),
        }
    }

    pub(super) fn write(
        &mut self,
        number: u32,
        offset: u64,
        data: &[u8],
        writer: &mut Writer,
    ) -> Result<(), Errno> {
        self.tree.writable()?;
        let written = match &mut self.fids.get_mut(number)?.opened {
            Opened::File(file) => rustix::io::pwrite(file, data, checked(offset)?)?,
            Opened::NewValue(value) => value.append(offset, data)?,
            _ => return Err(Errno::BADF),
        };
        writer.u32(u32::try_from(written).unwrap_or_default());
        Ok(())
    }

    pub(super) fn read_directory(
        &self,
        number: u32,
        offset: u64,
        count: u32,
        writer: &mut Writer,
    ) -> Result<(), Errno> {
        let fid = self.fids.get(number)?;
        match (&fid.opened, &fid.node) {
            (Opened::Above, _) => self.list_single(offset, count, writer),
            (Opened::Directory(directory), Node::Host(node)) => {
                let device = node.stat()?.st_dev;
                self.list(directory, (device, offset), count, writer)
            }
            _ => Err(Errno::BADF),
        }
    }

    pub(super) fn sync(&self, number: u32, data_only: bool) -> Result<(), Errno> {
        let file = self.fids.get(number)?.descriptor()?;
        if data_only { rustix::fs::fdatasync(file) } else { rustix::fs::fsync(file) }
    }

    pub(super) fn lock(&self, number: u32, writer: &mut Writer) -> Result<(), Errno> {
        self.fids.get(number)?;
        writer.u8(LOCK_SUCCESS);
        Ok(())
    }

    pub(super) fn get_lock(
        &self,
        (start, length): (u64, u64),
        process: u32,
        client: &[u8],
        writer: &mut Writer,
    ) -> Result<(), Errno> {
        writer.u8(UNLOCKED);
        writer.u64(start);
        writer.u64(length);
        writer.u32(process);
        writer.string(client);
        Ok(())
    }

    /// Entries from a cookie on, as many as fit; the kernel's cookie of each leads to the next.
    fn list(
        &self,
        directory: &OwnedFd,
        (device, offset): (u64, u64),
        count: u32,
        writer: &mut Writer,
    ) -> Result<(), Errno> {
        rustix::fs::seek(directory, SeekFrom::Start(checked(offset)?))?;
        writer.counted(count, |space| {
            let mut filled = Filler { space, used: 0 };
            let mut buffer = [MaybeUninit::<u8>::uninit(); 8192];
            let mut entries = RawDir::new(directory, &mut buffer);
            while let Some(entry) = entries.next() {
                let entry = entry?;
                let qid = self.tree.entry_qid(device, entry.ino(), entry.file_type());
                if !filled.entry(
                    qid,
                    entry.next_entry_cookie(),
                    entry.file_type(),
                    entry.file_name().to_bytes(),
                ) {
                    break;
                }
            }
            filled.used()
        })
    }

    fn list_single(&self, offset: u64, count: u32, writer: &mut Writer) -> Result<(), Errno> {
        let above = self.node_qid(&Node::Above)?;
        let file = self.tree.qid(&self.tree.shared().stat()?);
        let entries: [(_, &[u8], _); 3] = [
            (above, b".", FileType::Directory),
            (above, b"..", FileType::Directory),
            (file, b"file", FileType::RegularFile),
        ];
        writer.counted(count, |space| {
            let mut filled = Filler { space, used: 0 };
            for (cookie, (qid, name, kind)) in (1..).zip(entries) {
                if cookie > offset && !filled.entry(qid, cookie, kind, name) {
                    break;
                }
            }
            filled.used()
        })
    }
}

/// Puts directory entries into what the reply has room for.
struct Filler<'a> {
    space: &'a mut [u8],
    used: usize,
}

impl Filler<'_> {
    /// False when the entry does not fit.
    fn entry(&mut self, qid: super::tree::Qid, cookie: u64, kind: FileType, name: &[u8]) -> bool {
        let mut entry = Writer::new(ENTRY + name.len());
        reply::qid(&mut entry, qid);
        entry.u64(cookie);
        entry.u8(directory_type(kind));
        entry.string(name);
        let bytes = entry.as_bytes();
        match self.space.get_mut(self.used..).and_then(|rest| rest.get_mut(..bytes.len())) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.used += bytes.len();
                true
            }
            None => false,
        }
    }

    fn used(self) -> Result<usize, Errno> {
        Ok(self.used)
    }
}

/// `DT_*` of `dirent.h`.
fn directory_type(kind: FileType) -> u8 {
    match kind {
        FileType::Fifo => 1,
        FileType::CharacterDevice => 2,
        FileType::Directory => 4,
        FileType::BlockDevice => 6,
        FileType::RegularFile => 8,
        FileType::Symlink => 10,
        FileType::Socket => 12,
        FileType::Unknown => 0,
    }
}

/// Takes over the flags that mean something here. The numbers are Linux's on every machine (`P9_DOTL_*`).
fn open_flags(flags: u32) -> Result<OFlags, Errno> {
    let access = match flags & 0o3 {
        0 => OFlags::RDONLY,
        1 => OFlags::WRONLY,
        2 => OFlags::RDWR,
        _ => return Err(Errno::INVAL),
    };
    let known = [
        (0o1000, OFlags::TRUNC),
        (0o2000, OFlags::APPEND),
        (0o10000, OFlags::DSYNC),
        (0o200_000, OFlags::DIRECTORY),
        (0o4_000_000, OFlags::SYNC),
    ];
    Ok(known.iter().filter(|(bit, _)| flags & bit != 0).fold(access, |all, (_, flag)| all | *flag))
}

fn is_writing(flags: OFlags) -> bool {
    flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC)
}

/// Offsets are signed to the kernel.
fn checked(offset: u64) -> Result<u64, Errno> {
    if i64::try_from(offset).is_ok() { Ok(offset) } else { Err(Errno::INVAL) }
}
