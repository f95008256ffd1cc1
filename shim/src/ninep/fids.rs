//! The guest's handles, bounded in number, and what each is open as.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use rustix::fs::RawMode;
use rustix::io::Errno;

use super::tree::{HostNode, Node};

/// The most handles that hold an attribute's value at once: each may be 64 KiB of this process's memory.
const MOST_VALUES: usize = 64;

/// The number that names no handle.
const NO_FID: u32 = u32::MAX;

/// A handle.
#[derive(Debug)]
pub(super) struct Fid {
    pub(super) node: Node,
    /// The user that attached; what this handle creates belongs to it.
    pub(super) uid: u32,
    pub(super) opened: Opened,
}

/// What a handle is open as.
#[derive(Debug)]
pub(super) enum Opened {
    No,
    File(OwnedFd),
    Directory(OwnedFd),
    /// The directory above a single shared file.
    Above,
    /// An attribute's value, or the list of attributes.
    Value(Vec<u8>),
    /// An attribute that is set when the handle is given back.
    NewValue(NewValue),
}

/// An attribute that is being written.
#[derive(Debug)]
pub(super) struct NewValue {
    pub(super) name: Vec<u8>,
    pub(super) flags: u32,
    pub(super) size: usize,
    pub(super) value: Vec<u8>,
}

/// All handles of a session.
#[derive(Debug)]
pub(super) struct Fids {
    table: HashMap<u32, Fid>,
    most: usize,
}

impl Fids {
    /// At most `most` handles.
    pub(super) fn new(most: usize) -> Fids {
        Fids { table: HashMap::new(), most }
    }

    pub(super) fn get(&self, fid: u32) -> Result<&Fid, Errno> {
        self.table.get(&fid).ok_or(Errno::BADF)
    }

    pub(super) fn get_mut(&mut self, fid: u32) -> Result<&mut Fid, Errno> {
        self.table.get_mut(&fid).ok_or(Errno::BADF)
    }

    /// The thing on the host that a handle stands for. The directory above a single file is none, and cannot change.
    pub(super) fn host(&self, fid: u32) -> Result<(&HostNode, &Fid), Errno> {
        let fid = self.get(fid)?;
        match &fid.node {
            Node::Host(node) => Ok((node, fid)),
            Node::Above => Err(Errno::PERM),
        }
    }

    /// Adds a handle, or replaces the one that is walked onto itself.
    pub(super) fn insert(&mut self, number: u32, fid: Fid, replace: bool) -> Result<(), Errno> {
        let known = self.table.contains_key(&number);
        if number == NO_FID || (known && !replace) {
            return Err(Errno::BADF);
        }
        if !known && self.table.len() >= self.most {
            return Err(Errno::NFILE);
        }
        self.table.insert(number, fid);
        Ok(())
    }

    /// Refuses one more attribute's value when many are held.
    pub(super) fn room_for_value(&self) -> Result<(), Errno> {
        let holds = |fid: &&Fid| matches!(fid.opened, Opened::Value(_) | Opened::NewValue(_));
        if self.table.values().filter(holds).count() < MOST_VALUES { Ok(()) } else { Err(Errno::NFILE) }
    }

    pub(super) fn remove(&mut self, fid: u32) -> Result<Fid, Errno> {
        self.table.remove(&fid).ok_or(Errno::BADF)
    }

    /// Gives all handles back.
    pub(super) fn clear(&mut self) {
        self.table.clear();
    }
}

impl Fid {
    /// The descriptor of a file or directory that is open.
    pub(super) fn descriptor(&self) -> Result<&OwnedFd, Errno> {
        match &self.opened {
            Opened::File(fd) | Opened::Directory(fd) => Ok(fd),
            _ => Err(Errno::BADF),
        }
    }
}

/// Keeps permission bits only.
pub(super) fn permissions(mode: u32) -> RawMode {
    mode & 0o7777
}
