//! What things are: attributes, links' targets, the file system's numbers.

use rustix::fs::{AtFlags, FileType, Gid, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid};
use rustix::io::Errno;

use super::fids::Opened;
use super::reply;
use super::request::{Change, Time};
use super::session::Session;
use super::tree::{HostNode, Node};
use super::wire::Writer;

/// `V9FS_MAGIC`.
const FILE_SYSTEM: u32 = 0x0102_1997;

impl Session {
    pub(super) fn get_attributes(&self, number: u32, writer: &mut Writer) -> Result<(), Errno> {
        let fid = self.fids.get(number)?;
        let qid = self.node_qid(&fid.node)?;
        match &fid.node {
            Node::Host(node) => reply::attributes(writer, qid, &node.stat()?),
            Node::Above => {
                let mut stat = self.tree.shared().stat()?;
                stat.st_mode = FileType::Directory.as_raw_mode() | 0o555;
                (stat.st_uid, stat.st_gid, stat.st_nlink, stat.st_size, stat.st_blocks) = (0, 0, 2, 0, 0);
                reply::attributes(writer, qid, &stat);
            }
        }
        Ok(())
    }

    pub(super) fn set_attributes(&self, number: u32, change: &Change) -> Result<(), Errno> {
        self.tree.writable()?;
        let (node, fid) = self.fids.host(number)?;
        if let Some(size) = change.size {
            let size = i64::try_from(size).map_err(|_| Errno::FBIG)?.cast_unsigned();
            self.set_size(node, &fid.opened, size)?;
        }
        // The owner first, because the kernel takes setuid bits away when it changes.
        if change.uid.is_some() || change.gid.is_some() || change.ctime {
            let (uid, gid) = (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw));
            rustix::fs::chownat(node.fd(), "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = change.mode {
            self.tree.set_mode(node, mode)?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let times =
                Timestamps { last_access: timespec(change.atime), last_modification: timespec(change.mtime) };
            rustix::fs::utimensat(node.fd(), "", &times, AtFlags::EMPTY_PATH)?;
        }
        Ok(())
    }

    pub(super) fn read_link(&self, number: u32, writer: &mut Writer) -> Result<(), Errno> {
        let (node, _) = self.fids.host(number)?;
        if node.kind() != FileType::Symlink {
            return Err(Errno::INVAL);
        }
        let target = rustix::fs::readlinkat(node.fd(), "", Vec::new())?;
        if target.as_bytes().len() + 2 > writer.room() {
            return Err(Errno::NAMETOOLONG);
        }
        writer.string(target.as_bytes());
        Ok(())
    }

    pub(super) fn stat_fs(&self, number: u32, writer: &mut Writer) -> Result<(), Errno> {
        let node = match &self.fids.get(number)?.node {
            Node::Host(node) => node,
            Node::Above => self.tree.shared(),
        };
        let stat = rustix::fs::fstatfs(node.fd())?;
        let short = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
        writer.u32(FILE_SYSTEM);
        writer.u32(short(stat.f_bsize));
        writer.u64(stat.f_blocks);
        writer.u64(stat.f_bfree);
        writer.u64(stat.f_bavail);
        writer.u64(stat.f_files);
        writer.u64(stat.f_ffree);
        // The host's number of the file system is the host's.
        writer.u64(0);
        writer.u32(short(stat.f_namelen));
        Ok(())
    }

    fn set_size(&self, node: &HostNode, opened: &Opened, size: u64) -> Result<(), Errno> {
        if node.kind() != FileType::RegularFile {
            return Err(if node.kind() == FileType::Directory { Errno::ISDIR } else { Errno::INVAL });
        }
        // A handle that is open for writing is used as it is: its file may have lost its permissions since.
        if let Opened::File(file) = opened
            && rustix::fs::ftruncate(file, size).is_ok()
        {
            return Ok(());
        }
        rustix::fs::ftruncate(self.tree.open(node, OFlags::WRONLY)?, size)
    }
}

fn timespec(time: Option<Time>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(Time::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(Time::At { seconds, nanos }) => Timespec { tv_sec: seconds, tv_nsec: nanos.into() },
    }
}
