//! Writes files below one directory, by descriptors: no path is ever looked up through a symbolic link.
//!
//! The directories that lead to the entry at hand are open, so that an archive in its usual order opens each directory once. When
//! one is left it gets its time back, which the files in it had changed. That needs a few descriptors and no list of directories.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
    chmodat, chownat, fchmod, fchown, fsetxattr, fstat, futimens, linkat, lsetxattr, makedev, mkdirat,
    mknodat, openat, openat2, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use super::archive::Attributes;
use super::error::{EntryFault, shown};
use super::name::Path;

const OPAQUE: &str = "trusted.overlay.opaque";

/// How often a directory that is not empty is read again: file systems may leave out entries while others are removed.
const READINGS: u32 = 8;

/// Why an entry was not made.
#[derive(Debug)]
pub(super) enum Failure {
    /// It must not be.
    Refused(EntryFault),
    /// What was tried, and the kernel's answer.
    Call(&'static str, io::Error),
}

/// A directory that is being filled.
pub(super) struct Tree {
    /// The root, and the directories that lead to the entry at hand.
    open: Vec<Open>,
    /// Whether new files belong to root by themselves.
    as_root: bool,
}

struct Open {
    name: Vec<u8>,
    fd: OwnedFd,
    /// Its group is given to what is made in it.
    setgid: bool,
    mtime: (i64, u32),
    changed: bool,
}

impl Tree {
    /// The tree below `target`, which becomes root's, with mode 0755 and a fixed time.
    pub(super) fn new(target: BorrowedFd<'_>) -> Result<Self, Failure> {
        let fd = call("open", openat(target, ".", directory_flags(), Mode::empty()))?;
        let as_root = geteuid().is_root() && getegid().as_raw() == 0;
        let root = Open { name: Vec::new(), fd, setgid: false, mtime: (0, 0), changed: true };
        let tree = Self { open: vec![root], as_root };
        tree.dress_directory(&implied())?;
        Ok(tree)
    }

    /// Goes to the directory `parents`, and makes what is missing of it.
    pub(super) fn enter(&mut self, parents: &[&[u8]]) -> Result<(), Failure> {
        let below_root = self.open.iter().skip(1);
        let same = below_root.zip(parents).take_while(|(open, parent)| open.name == **parent).count();
        self.leave(same + 1)?;
        for (depth, name) in parents.iter().enumerate().skip(same) {
            match openat(self.top(), *name, directory_flags(), Mode::empty()) {
                Ok(fd) => self.push(name, fd)?,
                Err(Errno::NOENT) => self.directory(name, &implied())?,
                Err(Errno::NOTDIR | Errno::LOOP) if self.is_whiteout(name)? => {
                    self.directory(name, &implied())?
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let parent = shown(&parents.get(..=depth).unwrap_or_default().join(&b'/'));
                    return Err(Failure::Refused(EntryFault::Parent { parent }));
                }
                Err(errno) => return call("open a directory for", Err(errno)),
            }
        }
        Ok(())
    }

    /// Makes a file, which is empty. [`Tree::dress`] it when it is written.
    pub(super) fn file(&mut self, name: &[u8]) -> Result<OwnedFd, Failure> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.make("create", name, |top| openat(top, name, flags, Mode::RUSR | Mode::WUSR))
    }

    /// Gives an open file its attributes.
    pub(super) fn dress(&self, file: BorrowedFd<'_>, attributes: &Attributes) -> Result<(), Failure> {
        if self.owner_matters(attributes) {
            call("change the owner of", fchown(file, owner(attributes).0, owner(attributes).1))?;
        }
        call("change the mode of", fchmod(file, mode(attributes)))?;
        set_xattrs(attributes, |name, value| fsetxattr(file, name, value, XattrFlags::empty()))?;
        call("change the time of", futimens(file, &times(attributes.mtime)))
    }

    /// Makes a directory, or changes the one that is there, and goes there.
    pub(super) fn directory(&mut self, name: &[u8], attributes: &Attributes) -> Result<(), Failure> {
        self.touched();
        let mut hides = false;
        match mkdirat(self.top(), name, Mode::RWXU) {
            Err(Errno::EXIST) if !self.is_directory(name)? => {
                // What a whiteout took away stays away, although there is a directory again.
                hides = self.is_whiteout(name)?;
                self.remove(name)?;
                call("create", mkdirat(self.top(), name, Mode::RWXU))?;
            }
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return call("create", Err(errno)),
        }
        let fd = call("open", openat(self.top(), name, directory_flags(), Mode::empty()))?;
        let setgid = attributes.mode & Mode::SGID.as_raw_mode() != 0;
        self.open.push(Open { name: name.to_vec(), fd, setgid, mtime: attributes.mtime, changed: true });
        self.dress_directory(attributes)?;
        if hides { self.opaque() } else { Ok(()) }
    }

    /// Makes a symbolic link.
    pub(super) fn symlink(
        &mut self,
        name: &[u8],
        target: &[u8],
        attributes: &Attributes,
    ) -> Result<(), Failure> {
        self.make("create", name, |top| symlinkat(target, top, name))?;
        self.dress_by_name(name, attributes)
    }

    /// Makes a device or a fifo.
    pub(super) fn node(
        &mut self,
        name: &[u8],
        kind: FileType,
        device: (u32, u32),
        attributes: &Attributes,
    ) -> Result<(), Failure> {
        let number = makedev(device.0, device.1);
        self.make("create", name, |top| mknodat(top, name, kind, Mode::RUSR | Mode::WUSR, number))?;
        self.dress_by_name(name, attributes)?;
        call("change the mode of", chmodat(self.top(), name, mode(attributes), AtFlags::empty()))
    }

    /// Makes another name of a file of this tree.
    pub(super) fn hard_link(&mut self, name: &[u8], target: &Path<'_>) -> Result<(), Failure> {
        let missing = || {
            let path = [target.parents.as_slice(), &[target.name]].concat().join(&b'/');
            Failure::Refused(EntryFault::Target { target: shown(&path) })
        };
        let parent = match self.parent_of(target) {
            Ok(parent) => parent,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Err(missing()),
            Err(errno) => return call("open a directory for", Err(errno)),
        };
        match statat(&parent, target.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if is_whiteout(&found) || kind(&found) == FileType::Directory => return Err(missing()),
            Ok(_) => {}
            Err(Errno::NOENT) => return Err(missing()),
            Err(errno) => return call("look at the target of", Err(errno)),
        }
        let link = |top: BorrowedFd<'_>| linkat(&parent, target.name, top, name, AtFlags::empty());
        match self.make("link", name, link) {
            Err(Failure::Call(_, error)) if error.kind() == io::ErrorKind::NotFound => Err(missing()),
            made => made,
        }
    }

    /// Says that `name` is gone, where this layer has nothing of that name: what it has hides what is below anyway.
    pub(super) fn whiteout(&mut self, name: &[u8]) -> Result<(), Failure> {
        self.touched();
        match mknodat(self.top(), name, FileType::CharacterDevice, Mode::empty(), makedev(0, 0)) {
            Err(Errno::EXIST) if self.is_directory(name)? => {
                let flags = directory_flags();
                let fd = call("open", openat(self.top(), name, flags, Mode::empty()))?;
                call("hide what is below", fsetxattr(fd, OPAQUE, b"y", XattrFlags::empty()))
            }
            Err(Errno::EXIST) => Ok(()),
            Ok(()) => {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                call("change the time of", utimensat(self.top(), name, &times((0, 0)), flags))
            }
            Err(errno) => call("make a whiteout for", Err(errno)),
        }
    }

    /// Says that lower layers have nothing in the directory at hand.
    pub(super) fn opaque(&mut self) -> Result<(), Failure> {
        call("hide what is below", fsetxattr(self.top(), OPAQUE, b"y", XattrFlags::empty()))
    }

    /// Leaves all directories.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        self.leave(0)
    }

    fn top(&self) -> BorrowedFd<'_> {
        // The root is there until the tree is finished, which takes it away.
        self.open.last().map_or(rustix::fs::CWD, |open| open.fd.as_fd())
    }

    fn touched(&mut self) {
        if let Some(top) = self.open.last_mut() {
            top.changed = true;
        }
    }

    fn push(&mut self, name: &[u8], fd: OwnedFd) -> Result<(), Failure> {
        let found = call("look at a directory of", fstat(&fd))?;
        let mtime = (found.st_mtime, u32::try_from(found.st_mtime_nsec).unwrap_or_default());
        let setgid = found.st_mode & Mode::SGID.as_raw_mode() != 0;
        self.open.push(Open { name: name.to_vec(), fd, setgid, mtime, changed: false });
        Ok(())
    }

    fn leave(&mut self, kept: usize) -> Result<(), Failure> {
        while self.open.len() > kept {
            if let Some(left) = self.open.pop().filter(|left| left.changed) {
                call("change the time of a directory of", futimens(&left.fd, &times(left.mtime)))?;
            }
        }
        Ok(())
    }

    /// Makes something called `name`, in place of what is called so.
    fn make<T>(
        &mut self,
        action: &'static str,
        name: &[u8],
        make: impl Fn(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T, Failure> {
        self.touched();
        match make(self.top()) {
            Err(Errno::EXIST) => {
                self.remove(name)?;
                call(action, make(self.top()))
            }
            made => call(action, made),
        }
    }

    fn remove(&self, name: &[u8]) -> Result<(), Failure> {
        call("replace", remove(self.top(), name))
    }

    fn is_directory(&self, name: &[u8]) -> Result<bool, Failure> {
        let found = call("look at", statat(self.top(), name, AtFlags::SYMLINK_NOFOLLOW))?;
        Ok(kind(&found) == FileType::Directory)
    }

    fn is_whiteout(&self, name: &[u8]) -> Result<bool, Failure> {
        call("look at", statat(self.top(), name, AtFlags::SYMLINK_NOFOLLOW)).map(|found| is_whiteout(&found))
    }

    fn parent_of(&self, path: &Path<'_>) -> Result<OwnedFd, Errno> {
        let root = self.open.first().map_or(rustix::fs::CWD, |open| open.fd.as_fd());
        if path.parents.is_empty() {
            return openat(root, ".", directory_flags(), Mode::empty());
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        openat2(root, path.parents.join(&b'/'), directory_flags(), Mode::empty(), resolve)
    }

    fn owner_matters(&self, attributes: &Attributes) -> bool {
        let setgid = self.open.last().is_some_and(|top| top.setgid);
        !self.as_root || setgid || attributes.uid != 0 || attributes.gid != 0
    }

    /// Gives the directory at hand its attributes; its time follows when it is left.
    fn dress_directory(&self, attributes: &Attributes) -> Result<(), Failure> {
        let top = self.top();
        call("change the owner of", fchown(top, owner(attributes).0, owner(attributes).1))?;
        call("change the mode of", fchmod(top, mode(attributes)))?;
        set_xattrs(attributes, |name, value| fsetxattr(top, name, value, XattrFlags::empty()))
    }

    /// Gives attributes to what must not be opened.
    fn dress_by_name(&self, name: &[u8], attributes: &Attributes) -> Result<(), Failure> {
        let top = self.top();
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if self.owner_matters(attributes) {
            let (uid, gid) = owner(attributes);
            call("change the owner of", chownat(top, name, uid, gid, flags))?;
        }
        if !attributes.xattrs.is_empty() {
            use std::os::fd::AsRawFd;
            let path = [format!("/proc/self/fd/{}/", top.as_raw_fd()).as_bytes(), name].concat();
            set_xattrs(attributes, |key, value| lsetxattr(path.as_slice(), key, value, XattrFlags::empty()))?;
        }
        call("change the time of", utimensat(top, name, &times(attributes.mtime), flags))
    }
}

fn call<T>(action: &'static str, result: Result<T, Errno>) -> Result<T, Failure> {
    result.map_err(|errno| Failure::Call(action, errno.into()))
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// Of directories that a layer has files in and does not name.
fn implied() -> Attributes {
    Attributes { mode: 0o755, ..Attributes::default() }
}

fn owner(attributes: &Attributes) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)))
}

fn mode(attributes: &Attributes) -> Mode {
    Mode::from_raw_mode(attributes.mode)
}

fn times((tv_sec, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn kind(found: &Stat) -> FileType {
    FileType::from_raw_mode(found.st_mode)
}

fn is_whiteout(found: &Stat) -> bool {
    kind(found) == FileType::CharacterDevice && found.st_rdev == 0
}

fn set_xattrs(
    attributes: &Attributes,
    set: impl Fn(&[u8], &[u8]) -> Result<(), Errno>,
) -> Result<(), Failure> {
    for (name, value) in &attributes.xattrs {
        match set(name, value) {
            // A file system without them loses them, as with containerd; but a program without its rights fails later.
            Err(Errno::OPNOTSUPP) if name != b"security.capability" => {}
            result => call("set an extended attribute of", result)?,
        }
    }
    Ok(())
}

/// Removes what `parent` has as `name`, with all that is in it.
fn remove(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        result => return result,
    }
    for _ in 0..READINGS {
        let inside = openat(parent, name, directory_flags(), Mode::empty())?;
        for entry in Dir::read_from(&inside)? {
            let entry = entry?;
            let child = entry.file_name().to_bytes();
            if child != b"." && child != b".." {
                remove(inside.as_fd(), child)?;
            }
        }
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY) => {}
            result => return result,
        }
    }
    Err(Errno::NOTEMPTY)
}
