#![allow(unsafe_code)] // mount_setattr and unshare have no safe wrapper here.
//! Locks the server in, before it reads a byte of the guest's.
//!
//! ```text
//! root: clone the shared tree ── no devices, no setuid, no links followed, read-only if asked
//!       own mount namespace, the tree is its root, nothing else is mounted
//!       capabilities for ownership only, no new privileges ── seccomp: file calls on descriptors, nothing else
//! ```
//! Needs Linux 5.12 (`mount_setattr`). Each step is one way; a step that fails ends the process.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use coffer_vmm::jail::{JailError as LimitError, allow_only, limit_resources};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change,
    move_mount, open_tree, unmount,
};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};

use super::calls::allowed;

/// Where the shared tree is put before it becomes the root; exists wherever this program can run.
const PLACE: &CStr = c"/proc";

/// What ownership of files needs: the server acts for every user of the guest.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID);

/// What is shared, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) read_only: bool,
    /// Whether what is mounted below is shared too.
    pub(super) recursive: bool,
}

/// What the server works with inside.
#[derive(Debug)]
pub(super) struct Inside {
    /// The shared tree, or the shared file.
    pub(super) root: OwnedFd,
    /// The process's own `/proc/self/fd`, a mount without a parent.
    pub(super) descriptors: OwnedFd,
    /// How many descriptors the process may have.
    pub(super) most_files: u64,
}

/// Why the process could not be locked in.
#[derive(Debug, thiserror::Error)]
pub(super) enum JailError {
    /// A step.
    #[error("cannot {step}")]
    Step {
        /// Which.
        step: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Limits or system call filter.
    #[error("cannot limit the file server")]
    Limit {
        /// What failed.
        source: LimitError,
    },
}

/// Makes the shared tree the process's whole world.
pub(super) fn enter(shared: OwnedFd, terms: Terms) -> Result<Inside, JailError> {
    let most_files = limit_resources().map_err(|source| JailError::Limit { source })?;
    rustix::process::umask(Mode::empty());
    let kind =
        FileType::from_raw_mode(rustix::fs::fstat(&shared).map_err(step("look at what is shared"))?.st_mode);
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let recursive = if terms.recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
    let tree = open_tree(&shared, "", clone | OpenTreeFlags::AT_EMPTY_PATH | recursive)
        .map_err(step("clone the shared tree"))?;
    drop(shared);
    restrict(&tree, terms.read_only)
        .map_err(step("restrict the shared tree (Linux 5.12 or newer is needed)"))?;
    let descriptors = open_tree(CWD, "/proc/self/fd", clone).map_err(step("clone /proc/self/fd"))?;
    // SAFETY: only the mount namespace is left, which the one thread of this process uses for paths alone.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
        .map_err(step("leave the mount namespace"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(step("make the mounts private"))?;
    if kind == FileType::Directory {
        move_mount(&tree, "", CWD, PLACE, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(step("mount the shared tree"))?;
    } else {
        let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
        mount("none", PLACE, "tmpfs", flags, c"size=4k,nr_inodes=1").map_err(step("mount an empty root"))?;
    }
    pivot().map_err(step("make the shared tree the root"))?;
    let root = match kind {
        FileType::Directory => rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(step("open the new root"))?,
        // The file's own mount, which has no place in the namespace.
        _ => tree,
    };
    Ok(Inside { root, descriptors, most_files })
}

/// Gives up everything but the right to serve files.
pub(super) fn lock() -> Result<(), JailError> {
    for capability in CapabilitySet::all().iter().filter(|capability| !KEPT.contains(*capability)) {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // Newer than this kernel.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(step("bound capabilities")(error)),
        }
    }
    let bits = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    rustix::thread::set_capabilities_secure_bits(bits).map_err(step("lock the rights of root"))?;
    let sets = CapabilitySets { effective: KEPT, permitted: KEPT, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).map_err(step("give up capabilities"))?;
    rustix::thread::set_no_new_privs(true).map_err(step("refuse new privileges"))?;
    allow_only(&allowed()).map_err(|source| JailError::Limit { source })
}

/// Attributes of the clone only; the host's own mount stays as it is.
fn restrict(tree: &OwnedFd, read_only: bool) -> io::Result<()> {
    /// `MOUNT_ATTR_*` of `linux/mount.h`.
    const RDONLY: u64 = 0x1;
    const NOSUID: u64 = 0x2;
    const NODEV: u64 = 0x4;
    const NOEXEC: u64 = 0x8;
    const NOSYMFOLLOW: u64 = 0x20_0000;
    let read_only = if read_only { RDONLY } else { 0 };
    let attributes = MountAttributes {
        set: NOSUID | NODEV | NOEXEC | NOSYMFOLLOW | read_only,
        clear: 0,
        propagation: libc::MS_PRIVATE,
        user_namespace: 0,
    };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is an empty C string, and the last two arguments are an initialized structure that outlives the
    // call and its size, which is the first version's.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `struct mount_attr`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// The old root comes to lie on the new one and is taken away; no directory is needed for it.
fn pivot() -> rustix::io::Result<()> {
    rustix::process::chdir(PLACE)?;
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

fn step<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> JailError {
    move |error| JailError::Step { step, source: error.into() }
}
