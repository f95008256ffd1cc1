//! Extended attributes of files and directories: `user.*` and POSIX access control lists, nothing else of the host's.

use rustix::fs::{FileType, OFlags, XattrFlags};
use rustix::io::Errno;

use super::fids::{Fid, NewValue, Opened};
use super::session::Session;
use super::tree::{HostNode, Node};
use super::wire::Writer;

/// The largest value, and the largest list of names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const MAX_VALUE: usize = 64 << 10;

/// Access control lists, which the guest's kernel may keep on a share.
const LISTS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

impl Session {
    /// `Txattrwalk`: a new handle from which the value is read, or the list of names when no name is given.
    pub(super) fn xattr_walk(
        &mut self,
        number: u32,
        new: u32,
        name: &[u8],
        writer: &mut Writer,
    ) -> Result<(), Errno> {
        let fid = self.fids.get(number)?;
        let (uid, node) = (fid.uid, fid.node.clone());
        self.fids.room_for_value()?;
        let value = match &node {
            Node::Above => Err(Errno::OPNOTSUPP),
            Node::Host(host) if name.is_empty() => self.xattr_names(host),
            Node::Host(host) => self.xattr_value(host, name),
        }?;
        let size = u64::try_from(value.len()).unwrap_or_default();
        self.fids.insert(new, Fid { node, uid, opened: Opened::Value(value) }, number == new)?;
        writer.u64(size);
        Ok(())
    }

    /// `Txattrcreate`: the handle takes the value by `Twrite` and sets it when it is given back.
    pub(super) fn xattr_create(
        &mut self,
        number: u32,
        name: &[u8],
        size: u64,
        flags: u32,
    ) -> Result<(), Errno> {
        self.tree.writable()?;
        let (node, _) = self.fids.host(number)?;
        let size = usize::try_from(size).ok().filter(|size| *size <= MAX_VALUE).ok_or(Errno::TOOBIG)?;
        if !is_served(name) || !has_attributes(node) {
            return Err(Errno::OPNOTSUPP);
        }
        self.fids.room_for_value()?;
        let fid = self.fids.get_mut(number)?;
        if !matches!(fid.opened, Opened::No) {
            return Err(Errno::BUSY);
        }
        fid.opened = Opened::NewValue(NewValue { name: name.to_vec(), flags, size, value: Vec::new() });
        Ok(())
    }

    /// Sets an attribute that has come in full; an empty value with no flags removes it, as Linux's client means it.
    pub(super) fn set_xattr(&self, node: &HostNode, new: &NewValue) -> Result<(), Errno> {
        if new.value.len() != new.size {
            return Err(Errno::INVAL);
        }
        let file = self.tree.open(node, OFlags::RDONLY)?;
        /// `XATTR_REPLACE`.
        const REPLACE: u32 = 2;
        if new.size == 0 && new.flags & REPLACE != 0 {
            return rustix::fs::fremovexattr(file, new.name.as_slice());
        }
        let flags = XattrFlags::from_bits(new.flags).ok_or(Errno::INVAL)?;
        rustix::fs::fsetxattr(file, new.name.as_slice(), &new.value, flags)
    }

    fn xattr_value(&self, node: &HostNode, name: &[u8]) -> Result<Vec<u8>, Errno> {
        if !is_served(name) || !has_attributes(node) {
            return Err(Errno::OPNOTSUPP);
        }
        let file = self.tree.open(node, OFlags::RDONLY)?;
        let mut value = vec![0; MAX_VALUE];
        let size = rustix::fs::fgetxattr(file, name, value.as_mut_slice())?;
        value.truncate(size);
        value.shrink_to_fit();
        Ok(value)
    }

    fn xattr_names(&self, node: &HostNode) -> Result<Vec<u8>, Errno> {
        if !has_attributes(node) {
            return Ok(Vec::new());
        }
        let file = self.tree.open(node, OFlags::RDONLY)?;
        let mut names = vec![0; MAX_VALUE];
        let size = rustix::fs::flistxattr(file, names.as_mut_slice())?;
        names.truncate(size);
        let served = names.split_inclusive(|b| *b == 0).filter(|name| is_served(name));
        Ok(served.flatten().copied().collect())
    }
}

impl NewValue {
    /// Takes the next bytes; they come in order and never exceed the size that was announced.
    pub(super) fn append(&mut self, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        let in_order = usize::try_from(offset).is_ok_and(|offset| offset == self.value.len());
        if !in_order || data.len() > self.size - self.value.len() {
            return Err(Errno::INVAL);
        }
        self.value.extend_from_slice(data);
        Ok(data.len())
    }
}

fn is_served(name: &[u8]) -> bool {
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    (name.starts_with(b"user.") && name.len() > 5) || LISTS.contains(&name)
}

/// Links and special files have none that are served.
fn has_attributes(node: &HostNode) -> bool {
    matches!(node.kind(), FileType::RegularFile | FileType::Directory)
}
