//! The shared tree: nodes are descriptors of what they stand for, found name by name from the root.
//!
//! A node is opened with `O_PATH`, which gives no access to what it is, and never by a path: the descriptor of its
//! parent and one name, not following a link. So neither a link nor a rename can lead anywhere else.

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::request::{Name, Step};

/// What a lookup opens: the thing itself, whatever it is.
const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Name under which a shared file is seen; `volume` mounts it by this name.
const SINGLE: &[u8] = b"file";

/// Something in the tree.
#[derive(Debug, Clone)]
pub(super) enum Node {
    /// The root above a single shared file: there is no such directory on the host.
    Above,
    /// A thing on the host.
    Host(HostNode),
}

/// A thing on the host.
#[derive(Debug, Clone)]
pub(super) struct HostNode {
    fd: Rc<OwnedFd>,
    /// Where it was found, for `Trename` and `Tremove`; the root was not.
    found: Option<Found>,
    kind: FileType,
}

/// The directory and the name by which a node was found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) parent: Rc<OwnedFd>,
    pub(super) name: Box<[u8]>,
}

/// Identity of a thing, as 9P has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Qid {
    pub(super) kind: u8,
    pub(super) path: u64,
}

/// What is shared.
#[derive(Debug)]
pub(super) struct Tree {
    root: HostNode,
    read_only: bool,
    /// The process's own `/proc/self/fd`, as a mount of its own: a node is opened through its link there.
    descriptors: OwnedFd,
    /// Devices seen so far; a node's place in this list tells equal inode numbers apart.
    devices: RefCell<Vec<(u32, u32)>>,
}

impl Tree {
    /// Shares what `root`, opened with `O_PATH`, stands for.
    pub(super) fn new(root: OwnedFd, descriptors: OwnedFd, read_only: bool) -> Result<Tree, Errno> {
        let root = HostNode::of(root, None)?;
        if !matches!(root.kind, FileType::Directory | FileType::RegularFile) {
            return Err(Errno::NOTSUP);
        }
        Ok(Tree { root, read_only, descriptors, devices: RefCell::default() })
    }

    /// The root, as the guest sees it.
    pub(super) fn root(&self) -> Node {
        match self.root.kind {
            FileType::Directory => Node::Host(self.root.clone()),
            _ => Node::Above,
        }
    }

    /// What is shared, on the host.
    pub(super) fn shared(&self) -> &HostNode {
        &self.root
    }

    /// Refuses writing where it is not allowed.
    pub(super) fn writable(&self) -> Result<(), Errno> {
        if self.read_only { Err(Errno::ROFS) } else { Ok(()) }
    }

    /// One step from a node. Up leads only from the root to itself: the guest's kernel keeps its own way back.
    pub(super) fn step(&self, from: &Node, step: Step<'_>) -> Result<Node, Errno> {
        match (from, step) {
            (Node::Above, Step::Up) => Ok(Node::Above),
            (Node::Above, Step::Down(name)) if name.as_bytes() == SINGLE => Ok(Node::Host(self.root.clone())),
            (Node::Above, Step::Down(_)) => Err(Errno::NOENT),
            (Node::Host(node), Step::Up) if node.found.is_none() && node.kind == FileType::Directory => {
                Ok(from.clone())
            }
            (Node::Host(_), Step::Up) => Err(Errno::PERM),
            (Node::Host(node), Step::Down(name)) => node.child(name).map(Node::Host),
        }
    }

    /// Opens a regular file or directory for use. Nothing else is ever opened: opening may do something.
    pub(super) fn open(&self, node: &HostNode, flags: OFlags) -> Result<OwnedFd, Errno> {
        if !matches!(node.kind, FileType::RegularFile | FileType::Directory) {
            return Err(Errno::PERM);
        }
        let link = node.fd.as_raw_fd().to_string();
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        rustix::fs::openat(&self.descriptors, link, flags, Mode::empty())
    }

    /// Changes the permission bits.
    pub(super) fn set_mode(&self, node: &HostNode, mode: u32) -> Result<(), Errno> {
        if node.kind == FileType::Symlink {
            return Err(Errno::NOTSUP);
        }
        let link = node.fd.as_raw_fd().to_string();
        rustix::fs::chmodat(&self.descriptors, link, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())
    }

    /// The identity of what `stat` tells of.
    pub(super) fn qid(&self, stat: &Stat) -> Qid {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let path = self.place(stat.st_dev, stat.st_ino);
        Qid { kind: qid_kind(kind), path }
    }

    /// The identity of a directory entry, which is on its directory's device.
    pub(super) fn entry_qid(&self, device: u64, inode: u64, kind: FileType) -> Qid {
        Qid { kind: qid_kind(kind), path: self.place(device, inode) }
    }

    fn place(&self, device: u64, inode: u64) -> u64 {
        /// As many devices as the upper eight bits can tell apart.
        const MOST: usize = 255;
        let device = (rustix::fs::major(device), rustix::fs::minor(device));
        let mut devices = self.devices.borrow_mut();
        let index = devices.iter().position(|known| *known == device).unwrap_or_else(|| {
            if devices.len() < MOST {
                devices.push(device);
            }
            devices.len() - 1
        });
        inode ^ (u64::try_from(index).unwrap_or_default() << 56)
    }
}

impl HostNode {
    fn of(fd: OwnedFd, found: Option<Found>) -> Result<HostNode, Errno> {
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
        Ok(HostNode { fd: Rc::new(fd), found, kind })
    }

    /// What has this name in this directory.
    pub(super) fn child(&self, name: Name<'_>) -> Result<HostNode, Errno> {
        if self.kind != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        let fd = rustix::fs::openat(&*self.fd, name.as_bytes(), LOOK, Mode::empty())?;
        HostNode::of(fd, Some(Found { parent: self.fd.clone(), name: name.as_bytes().into() }))
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn kind(&self) -> FileType {
        self.kind
    }

    pub(super) fn stat(&self) -> Result<Stat, Errno> {
        rustix::fs::fstat(&*self.fd)
    }

    /// The directory and name by which it is still to be found; an error if it was moved or replaced meanwhile.
    pub(super) fn still_found(&self) -> Result<&Found, Errno> {
        let found = self.found.as_ref().ok_or(Errno::BUSY)?;
        let (here, there) =
            (self.stat()?, rustix::fs::statat(&*found.parent, &*found.name, AtFlags::SYMLINK_NOFOLLOW)?);
        if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino) {
            return Err(Errno::STALE);
        }
        Ok(found)
    }
}

/// `P9_QTDIR` and `P9_QTSYMLINK`; all else is a file to 9P.
fn qid_kind(kind: FileType) -> u8 {
    match kind {
        FileType::Directory => 0x80,
        FileType::Symlink => 0x02,
        _ => 0,
    }
}
