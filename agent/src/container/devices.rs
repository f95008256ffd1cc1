//! Device nodes and links below `/dev`: the set that the runtime specification promises, and those it lists.

use std::ffi::OsStr;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use super::messages::NewContainer;
use super::report::Step;
use super::rootfs::{Leaf, Root, at};
use super::spec::DeviceNode;
use super::terminal::Terminal;

/// Character devices that every container has: name, major, minor.
const USUAL: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Link and target.
const LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];

/// Makes nodes and links, unless `/dev` is a directory of somebody else's.
pub(super) fn make(root: &Root, new: &NewContainer) -> Step<()> {
    if new.mounts.iter().any(|mount| mount.is_bind() && mount.destination == Path::new("/dev")) {
        return Ok(());
    }
    let usual = USUAL.iter().map(|(name, major, minor)| DeviceNode {
        path: Path::new("/dev").join(name),
        mode: libc::S_IFCHR | 0o666,
        major: *major,
        minor: *minor,
        uid: 0,
        gid: 0,
    });
    // The mode of a node is the one asked for.
    let mask = rustix::process::umask(Mode::empty());
    for node in usual.chain(new.devices.iter().cloned()) {
        make_node(root, &node)?;
    }
    rustix::process::umask(mask);
    for (link, target) in LINKS {
        let link = Path::new(link);
        let (parent, name) = root.parent(link)?;
        match rustix::fs::symlinkat(target, &parent, name) {
            Ok(()) => {}
            // A new devpts is of no use through a node of another one.
            Err(Errno::EXIST) if name == OsStr::new("ptmx") => {
                rustix::fs::unlinkat(&parent, name, AtFlags::empty()).map_err(at("replace", link))?;
                rustix::fs::symlinkat(target, &parent, name).map_err(at("link", link))?;
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(at("link", link)(errno)),
        }
    }
    Ok(())
}

/// Shows the terminal as `/dev/console`.
pub(super) fn bind_console(root: &Root, terminal: &Terminal) -> Step<()> {
    let path = Path::new("/dev/console");
    let (parent, name) = root.parent(path)?;
    match rustix::fs::mknodat(&parent, name, FileType::RegularFile, Mode::from_raw_mode(0o600), 0) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(at("make", path)(errno)),
    }
    let target =
        rustix::fs::openat(&parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .map_err(at("open", path))?;
    let tree = terminal.mount()?;
    root.attach_at(&tree, &target).map_err(at("mount the terminal on", path))
}

fn make_node(root: &Root, node: &DeviceNode) -> Step<()> {
    let path = node.path.as_path();
    let (parent, name) = root.parent(path)?;
    let kind = FileType::from_raw_mode(node.mode);
    let mode = Mode::from_raw_mode(node.mode & 0o7777);
    match rustix::fs::mknodat(&parent, name, kind, mode, rustix::fs::makedev(node.major, node.minor)) {
        Ok(()) => {
            let owner = (Some(Uid::from_raw(node.uid)), Some(Gid::from_raw(node.gid)));
            rustix::fs::chownat(&parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(at("give away", path))
        }
        Err(Errno::EXIST) => Ok(()),
        // A user namespace makes no devices: show the guest's.
        Err(Errno::PERM) => {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let tree = rustix::mount::open_tree(rustix::fs::CWD, path, flags).map_err(at("make", path))?;
            let target = root.make(path, Leaf::File)?;
            root.attach_at(&tree, &target).map_err(at("mount", path))
        }
        Err(errno) => Err(at("make", path)(errno)),
    }
}
