//! Directories: make, link, rename, remove.

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::fids::permissions;
use super::reply;
use super::request::Name;
use super::session::Session;
use super::tree::{HostNode, Node};
use super::wire::Writer;

impl Session {
    pub(super) fn make_directory(
        &mut self,
        number: u32,
        name: Name<'_>,
        (mode, gid): (u32, u32),
        writer: &mut Writer,
    ) -> Result<(), Errno> {
        let (directory, uid) = self.writable_directory(number)?;
        rustix::fs::mkdirat(directory.fd(), name.as_bytes(), Mode::RWXU)?;
        let made = self.settle(directory, name, (uid, gid), Some(mode))?;
        reply::qid(writer, self.tree.qid(&made.stat()?));
        Ok(())
    }

    pub(super) fn symlink(
        &mut self,
        number: u32,
        name: Name<'_>,
        target: &[u8],
        gid: u32,
        writer: &mut Writer,
    ) -> Result<(), Errno> {
        let (directory, uid) = self.writable_directory(number)?;
        rustix::fs::symlinkat(target, directory.fd(), name.as_bytes())?;
        let made = self.settle(directory, name, (uid, gid), None)?;
        reply::qid(writer, self.tree.qid(&made.stat()?));
        Ok(())
    }

    /// Makes a file, named pipe or socket; never a device, which would be one of the host.
    pub(super) fn make_node(
        &mut self,
        number: u32,
        name: Name<'_>,
        (mode, gid): (u32, u32),
        writer: &mut Writer,
    ) -> Result<(), Errno> {
        let (directory, uid) = self.writable_directory(number)?;
        let kind = match FileType::from_raw_mode(mode) {
            kind @ (FileType::RegularFile | FileType::Fifo | FileType::Socket) => kind,
            _ => return Err(Errno::PERM),
        };
        rustix::fs::mknodat(directory.fd(), name.as_bytes(), kind, Mode::empty(), 0)?;
        let made = self.settle(directory, name, (uid, gid), Some(permissions(mode)))?;
        reply::qid(writer, self.tree.qid(&made.stat()?));
        Ok(())
    }

    pub(super) fn link(&mut self, directory: u32, number: u32, name: Name<'_>) -> Result<(), Errno> {
        let (directory, _) = self.writable_directory(directory)?;
        let (node, _) = self.fids.host(number)?;
        rustix::fs::linkat(node.fd(), "", directory.fd(), name.as_bytes(), AtFlags::EMPTY_PATH)
    }

    pub(super) fn rename(&mut self, number: u32, directory: u32, name: Name<'_>) -> Result<(), Errno> {
        let (directory, _) = self.writable_directory(directory)?;
        let (node, _) = self.fids.host(number)?;
        let found = node.still_found()?;
        rustix::fs::renameat(&*found.parent, &*found.name, directory.fd(), name.as_bytes())?;
        let moved = directory.child(name)?;
        self.fids.get_mut(number)?.node = Node::Host(moved);
        Ok(())
    }

    pub(super) fn rename_at(
        &mut self,
        (from, old): (u32, Name<'_>),
        (to, new): (u32, Name<'_>),
    ) -> Result<(), Errno> {
        let ((from, _), (to, _)) = (self.writable_directory(from)?, self.writable_directory(to)?);
        rustix::fs::renameat(from.fd(), old.as_bytes(), to.fd(), new.as_bytes())
    }

    pub(super) fn unlink(&mut self, number: u32, name: Name<'_>, directory: bool) -> Result<(), Errno> {
        let (parent, _) = self.writable_directory(number)?;
        let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(parent.fd(), name.as_bytes(), flags)
    }

    /// `Tremove` gives the handle back in any case.
    pub(super) fn remove(&mut self, number: u32) -> Result<(), Errno> {
        let fid = self.fids.remove(number)?;
        self.tree.writable()?;
        let Node::Host(node) = &fid.node else { return Err(Errno::PERM) };
        let found = node.still_found()?;
        let flags = if node.kind() == FileType::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(&*found.parent, &*found.name, flags)
    }

    /// A directory that may be changed, and who would own what is made in it.
    fn writable_directory(&self, number: u32) -> Result<(&HostNode, u32), Errno> {
        self.tree.writable()?;
        let (node, fid) = self.fids.host(number)?;
        if node.kind() != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        Ok((node, fid.uid))
    }
}
