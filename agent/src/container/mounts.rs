//! Mounts what the specification lists, and hides and protects the paths it names.
//!
//! A bind mount is a detached copy that gets its attributes before it is attached, so it is never seen with others.
//! `/proc` and `/sys` are mounted only where no symbolic link leads: an image could else have the masks land elsewhere.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, OpenTreeFlags,
};

use super::error::SetupError;
use super::messages::NewContainer;
use super::mount_options::{Mount, MountOptions, MountSource, attr};
use super::report::{Step, process};
use super::rootfs::{Leaf, Root, at, by_descriptor, copy_mount, open_in};
use super::sys;

/// Detached mounts that are made before the container's user namespace: file systems of the pod's namespaces, which
/// that user namespace does not own and so could not mount.
#[derive(Debug, Default)]
pub(super) struct Early {
    sysfs: Option<OwnedFd>,
    mqueue: Option<OwnedFd>,
}

impl Early {
    /// Makes those that the container will need.
    pub(super) fn make(new: &NewContainer) -> Step<Self> {
        let wanted = |kind: &str| {
            new.namespaces.user.is_some()
                && new.mounts.iter().any(|mount| !mount.is_bind() && mount.kind == kind)
        };
        Ok(Early {
            sysfs: wanted("sysfs").then(|| detached("sysfs")).transpose()?,
            mqueue: (wanted("mqueue") && !new.namespaces.ipc).then(|| detached("mqueue")).transpose()?,
        })
    }

    fn of(&self, kind: &str) -> Option<&OwnedFd> {
        match kind {
            "sysfs" => self.sysfs.as_ref(),
            "mqueue" => self.mqueue.as_ref(),
            _ => None,
        }
    }
}

fn detached(kind: &str) -> Step<OwnedFd> {
    let make = || {
        let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_create(&context)?;
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    make().map_err(process(&format!("mount a {kind} of the pod")))
}

/// Mounts everything, in order.
pub(super) fn apply(root: &Root, new: &NewContainer, early: &Early) -> Step<()> {
    for mount in &new.mounts {
        let step = Attempt { root, mount, early };
        match mount.kind.as_str() {
            _ if mount.is_bind() => step.bind()?,
            "cgroup" | "cgroup2" => step.cgroup(&new.cgroup)?,
            "proc" => step.kernel_files("proc")?,
            "sysfs" => step.kernel_files("sysfs")?,
            kind => step.file_system(kind)?,
        }
    }
    Ok(())
}

/// What is done when all is in place: read-only file systems, read-only paths, masked paths, the root itself.
pub(super) fn protect(root: &Root, new: &NewContainer) -> Step<()> {
    for mount in new.mounts.iter().filter(|mount| is_late_read_only(mount)) {
        let path = &mount.destination;
        let tree = root.open(path).map_err(at("open", path))?;
        sys::mount_setattr(tree.as_fd(), attr::RDONLY, 0, false)
            .map_err(|errno| at("make read-only", path)(raw(errno)))?;
    }
    new.root.read_only_paths.iter().try_for_each(|path| make_read_only(root, path))?;
    new.root.masked.iter().try_for_each(|path| mask(root, path))?;
    if new.root.read_only {
        sys::mount_setattr(root.fd(), attr::RDONLY, 0, false)
            .map_err(|errno| at("make read-only", Path::new("/"))(raw(errno)))?;
    }
    Ok(())
}

/// A tmpfs is filled (with device nodes, with targets of later mounts) before it becomes read-only.
fn is_late_read_only(mount: &Mount) -> bool {
    !mount.is_bind() && mount.kind == "tmpfs" && mount.options.read_only()
}

/// One mount and where it goes.
struct Attempt<'a> {
    root: &'a Root,
    mount: &'a Mount,
    early: &'a Early,
}

impl Attempt<'_> {
    /// `proc` or `sysfs`.
    fn kernel_files(&self, kind: &str) -> Step<()> {
        let path = &self.mount.destination;
        match self.root.open_without_links(path) {
            Ok(_) => {}
            Err(Errno::NOENT) => drop(self.root.make_dir(path)?),
            Err(errno) => return Err(self.failed("open the target without following links")(errno)),
        }
        let target = self.root.open_without_links(path).map_err(self.failed("open the target"))?;
        self.new_file_system(kind, &target, &self.mount.options.data)
    }

    fn file_system(&self, kind: &str) -> Step<()> {
        let existed = self.root.open(&self.mount.destination).is_ok();
        let target = self.root.make_dir(&self.mount.destination)?;
        let mut data = self.mount.options.data.clone();
        if kind == "tmpfs" && existed && !data.contains("mode=") {
            // An image's /tmp keeps its mode when a tmpfs covers it.
            let mode =
                rustix::fs::fstat(&target).map_err(self.failed("look at the target"))?.st_mode & 0o7777;
            let comma = if data.is_empty() { "" } else { "," };
            data = format!("{data}{comma}mode={mode:o}");
        }
        self.new_file_system(kind, &target, &data)
    }

    fn cgroup(&self, directory: &Path) -> Step<()> {
        let target = self.root.make_dir(&self.mount.destination)?;
        match self.new_file_system("cgroup2", &target, &self.mount.options.data) {
            // Without a cgroup namespace of its own a container sees its own directory.
            Err(SetupError::Mount { errno, .. }) if may_not(errno) => {
                self.bind_from(&MountSource::Path(directory.to_owned()))
            }
            done => done,
        }
    }

    fn new_file_system(&self, kind: &str, target: &OwnedFd, data: &str) -> Step<()> {
        let options = &self.mount.options;
        let mut flags = MountFlags::from_bits_retain(options.set);
        if is_late_read_only(self.mount) {
            flags -= MountFlags::RDONLY;
        }
        if let Some(tree) = self.early.of(kind) {
            let (set, clear) = attributes(options);
            change(tree, set, clear, false).map_err(self.failed("set the options"))?;
            self.root.attach_at(tree, target).map_err(self.failed("attach"))?;
            return self.propagate(options);
        }
        let data = CString::new(data).map_err(|_| self.failed("read the options")(Errno::INVAL))?;
        rustix::mount::mount(kind, by_descriptor(target), kind, flags, data.as_c_str())
            .map_err(self.failed("mount"))?;
        self.propagate(options)
    }

    fn bind(&self) -> Step<()> {
        self.bind_from(&self.mount.source)
    }

    fn bind_from(&self, source: &MountSource) -> Step<()> {
        let options = &self.mount.options;
        let tree = self.open_source(source, options)?;
        let kind = rustix::fs::fstat(&tree).map_err(self.failed("look at the source"))?.st_mode;
        let leaf = match FileType::from_raw_mode(kind) {
            FileType::Directory => Leaf::Directory,
            _ => Leaf::File,
        };
        let (set, clear) = attributes(options);
        change(&tree, set, clear, false).map_err(self.failed("set the options"))?;
        change(&tree, options.recursive_set, options.recursive_clear, true)
            .map_err(self.failed("set the recursive options"))?;
        let target = self.root.make(&self.mount.destination, leaf)?;
        self.root.attach_at(&tree, &target).map_err(self.failed("attach"))?;
        self.propagate(options)
    }

    fn open_source(&self, source: &MountSource, options: &MountOptions) -> Step<OwnedFd> {
        let recursive = options.bind & MountPropagationFlags::REC.bits() != 0;
        match source {
            MountSource::Path(path) => {
                let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
                if recursive {
                    flags |= OpenTreeFlags::AT_RECURSIVE;
                }
                rustix::mount::open_tree(rustix::fs::CWD, path, flags).map_err(self.failed("open the source"))
            }
            MountSource::Inside { root, path } => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let root = rustix::fs::open(root, flags, rustix::fs::Mode::empty())
                    .map_err(self.failed("open the volume"))?;
                let source = open_in(root.as_fd(), path, OFlags::PATH)
                    .map_err(self.failed("open the path in the volume"))?;
                copy_mount(&source, recursive).map_err(self.failed("copy the mount of the volume"))
            }
        }
    }

    fn propagate(&self, options: &MountOptions) -> Step<()> {
        if options.propagation.is_empty() {
            return Ok(());
        }
        let mounted = self.root.open(&self.mount.destination).map_err(self.failed("open the mount"))?;
        for flags in &options.propagation {
            let flags = MountPropagationFlags::from_bits_retain(*flags);
            rustix::mount::mount_change(by_descriptor(&mounted), flags)
                .map_err(self.failed("set the propagation"))?;
        }
        Ok(())
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(Errno) -> SetupError {
        let from = match &self.mount.source {
            _ if !self.mount.is_bind() => self.mount.kind.clone(),
            MountSource::Path(path) => path.display().to_string(),
            MountSource::Inside { root, path } => root.join(path).display().to_string(),
        };
        let target = self.mount.destination.clone();
        move |errno| SetupError::Mount { from, target, action: action.to_owned(), errno: errno.into() }
    }
}

fn may_not(errno: super::error::Errno) -> bool {
    errno.0 == libc::EPERM
}

/// `MOUNT_ATTR_*` of a bind mount to set and to clear.
fn attributes(options: &MountOptions) -> (u64, u64) {
    let table = [
        (MountFlags::RDONLY, attr::RDONLY),
        (MountFlags::NOSUID, attr::NOSUID),
        (MountFlags::NODEV, attr::NODEV),
        (MountFlags::NOEXEC, attr::NOEXEC),
        (MountFlags::NODIRATIME, attr::NODIRATIME),
    ];
    let pick = |bits: u32| {
        let chosen = table.iter().filter(move |(flag, _)| bits & flag.bits() != 0);
        chosen.fold(0, |all, (_, attribute)| all | attribute)
    };
    let (mut set, mut clear) = (pick(options.set), pick(options.clear));
    // The kernel changes the access time's mode only as a whole.
    let times = [
        (MountFlags::NOATIME, attr::NOATIME),
        (MountFlags::STRICTATIME, attr::STRICTATIME),
        (MountFlags::RELATIME, 0),
    ];
    if let Some((_, attribute)) = times.iter().find(|(flag, _)| options.set & flag.bits() != 0) {
        set |= attribute;
        clear |= attr::ATIME;
    }
    (set, clear)
}

/// In a user namespace of its own a container may add restrictions to the guest's mounts and not lift them.
fn change(tree: &OwnedFd, set: u64, clear: u64, recursive: bool) -> Result<(), Errno> {
    if set == 0 && clear == 0 {
        return Ok(());
    }
    match sys::mount_setattr(tree.as_fd(), set, clear, recursive) {
        Err(nix::errno::Errno::EPERM) if clear != 0 => sys::mount_setattr(tree.as_fd(), set, 0, recursive),
        done => done,
    }
    .map_err(raw)
}

fn make_read_only(root: &Root, path: &Path) -> Step<()> {
    let Some(target) = open_if_there(root, path)? else { return Ok(()) };
    let tree = copy_mount(&target, true).map_err(at("make read-only", path))?;
    change(&tree, attr::RDONLY, 0, true).map_err(at("make read-only", path))?;
    root.attach_at(&tree, &target).map_err(at("make read-only", path))
}

/// An empty read-only directory over a directory, the null device over anything else.
fn mask(root: &Root, path: &Path) -> Step<()> {
    let Some(target) = open_if_there(root, path)? else { return Ok(()) };
    let kind = rustix::fs::fstat(&target).map_err(at("mask", path))?.st_mode;
    if FileType::from_raw_mode(kind) == FileType::Directory {
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        return rustix::mount::mount("tmpfs", by_descriptor(&target), "tmpfs", flags, c"size=0k")
            .map_err(at("mask", path));
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let null = rustix::mount::open_tree(rustix::fs::CWD, "/dev/null", flags).map_err(at("mask", path))?;
    root.attach_at(&null, &target).map_err(at("mask", path))
}

/// Paths that an image or a kernel lacks need no hiding.
fn open_if_there(root: &Root, path: &Path) -> Step<Option<OwnedFd>> {
    match root.open(path) {
        Ok(target) => Ok(Some(target)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(at("open", path)(errno)),
    }
}

fn raw(errno: nix::errno::Errno) -> Errno {
    // The two libraries number errors alike, in different types.
    Errno::from_raw_os_error(errno as i32)
}
