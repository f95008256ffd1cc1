//! The root file system of a container while it is being put together: paths in it resolve as if it were `/`.
//!
//! A symbolic link of the image cannot lead out of it: lookups go through openat2 with RESOLVE_IN_ROOT, and missing
//! directories are made one component at a time, links expanded by hand from the root's own descriptor.
//!
//! Never here: what is mounted and made in it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::error::SetupError;
use super::report::{Step, process};

/// As many links as the kernel follows in one path.
const MAX_LINKS: u32 = 40;

/// See the module.
#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
}

/// What a mount's target is, or becomes when it is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaf {
    Directory,
    File,
}

impl Root {
    /// Cuts this mount namespace off from the agent's and mounts the root file system onto itself, as a root must be
    /// a mount of its own.
    pub(super) fn attach(rootfs: &Path) -> Step<Self> {
        let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", slave).map_err(process("stop mounts from leaving the container"))?;
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let fd = rustix::mount::open_tree(rustix::fs::CWD, rootfs, flags).map_err(at("open", rootfs))?;
        rustix::mount::move_mount(&fd, "", rustix::fs::CWD, rootfs, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(at("mount", rootfs))?;
        Ok(Root { fd })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens an existing path with `O_PATH`, following links inside the root.
    pub(super) fn open(&self, path: &Path) -> Result<OwnedFd, Errno> {
        open_in(self.fd.as_fd(), path, OFlags::PATH)
    }

    /// Opens an existing path with `O_PATH`; a symbolic link anywhere in it is an error.
    pub(super) fn open_without_links(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        rustix::fs::openat2(&self.fd, relative(path), OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// Makes a directory and its missing parents, and opens it with `O_PATH`.
    pub(super) fn make_dir(&self, path: &Path) -> Step<OwnedFd> {
        self.make(path, Leaf::Directory)
    }

    /// Opens `path` with `O_PATH`; what is missing of it is made.
    pub(super) fn make(&self, path: &Path, leaf: Leaf) -> Step<OwnedFd> {
        match self.open(path) {
            Err(Errno::NOENT) => self.walk(path, leaf).map_err(at("make", path)),
            opened => opened.map_err(at("open", path)),
        }
    }

    /// Opens the parent directory of `path`, made if missing, and returns it with the last component.
    pub(super) fn parent<'a>(&self, path: &'a Path) -> Step<(OwnedFd, &'a OsStr)> {
        let name = path.file_name().ok_or(Errno::ISDIR).map_err(at("make", path))?;
        Ok((self.make_dir(path.parent().unwrap_or(Path::new("/")))?, name))
    }

    /// Puts a detached mount onto a path that was opened here.
    pub(super) fn attach_at(&self, tree: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(tree, "", target, "", flags)
    }

    /// Makes this the root of the process and of its mount namespace, and lets go of the old one.
    pub(super) fn enter(self, propagation: Option<u32>) -> Step<()> {
        rustix::process::fchdir(&self.fd).map_err(process("enter the container's root"))?;
        match rustix::process::pivot_root(".", ".") {
            Ok(()) => {
                // The old root is now mounted over the new one, and goes.
                rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(process("unmount the old root"))?;
            }
            // The old root is the kernel's initial file system, which cannot be moved: cover it instead.
            Err(Errno::INVAL) => {
                rustix::mount::mount_move(".", "/").map_err(process("move the container's root"))?;
                rustix::process::chroot(".").map_err(process("enter the container's root"))?;
            }
            Err(errno) => return Err(process("pivot into the container's root")(errno)),
        }
        rustix::process::chdir("/").map_err(process("enter the container's root"))?;
        if let Some(flags) = propagation {
            rustix::mount::mount_change("/", MountPropagationFlags::from_bits_retain(flags))
                .map_err(process("set the root's propagation"))?;
        }
        Ok(())
    }

    /// Walks component by component and makes what is missing.
    fn walk(&self, path: &Path, leaf: Leaf) -> Result<OwnedFd, Errno> {
        let mut left: VecDeque<OsString> = names(path);
        let mut parents: Vec<OwnedFd> = Vec::new();
        let mut here = self.fd.try_clone().map_err(|_| Errno::MFILE)?;
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            if name == ".." {
                here = parents.pop().unwrap_or(here);
                continue;
            }
            let kind = if left.is_empty() { leaf } else { Leaf::Directory };
            let next = open_or_make(&here, &name, kind)?;
            if FileType::from_raw_mode(rustix::fs::fstat(&next)?.st_mode) != FileType::Symlink {
                parents.push(std::mem::replace(&mut here, next));
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP);
            }
            let target = rustix::fs::readlinkat(&next, "", Vec::new())?;
            let target = PathBuf::from(OsStr::from_bytes(target.as_bytes()));
            if target.is_absolute() {
                here = self.fd.try_clone().map_err(|_| Errno::MFILE)?;
                parents.clear();
            }
            let rest = std::mem::replace(&mut left, names(&target));
            left.extend(rest);
        }
        Ok(here)
    }
}

/// Opens a path as if `root` were `/`; links of the magic kind are refused.
pub(super) fn open_in(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, relative(path), flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Detaches a copy of the mount at an opened path; with `recursive` also of all mounts below it.
pub(super) fn copy_mount(at: &OwnedFd, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(at, "", flags)
}

/// A path by which mount(2) finds an open descriptor.
pub(super) fn by_descriptor(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Turns the kernel's answer into the error of a step about a path.
pub(super) fn at<'a>(action: &'a str, path: &'a Path) -> impl FnOnce(Errno) -> SetupError + 'a {
    move |errno| SetupError::Path { action: action.to_owned(), path: path.to_owned(), errno: errno.into() }
}

fn open_or_make(parent: &OwnedFd, name: &OsStr, kind: Leaf) -> Result<OwnedFd, Errno> {
    let open = || {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(parent, name, flags, Mode::empty())
    };
    match open() {
        Err(Errno::NOENT) => {
            match kind {
                Leaf::Directory => rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?,
                Leaf::File => {
                    let mode = Mode::from_raw_mode(0o644);
                    rustix::fs::mknodat(parent, name, FileType::RegularFile, mode, 0)?;
                }
            }
            open()
        }
        opened => opened,
    }
}

/// The components of a path without its root and its dots; `..` stays.
fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// openat2 takes an absolute path as relative to the root, but not an empty one.
fn relative(path: &Path) -> &Path {
    match path.strip_prefix("/") {
        Ok(rest) if rest.as_os_str().is_empty() => Path::new("."),
        Ok(rest) => rest,
        Err(_) => path,
    }
}
