#![allow(unsafe_code)] // System calls that the libraries at hand do not wrap.
//! Thin wrappers of system calls, each of which does one thing and knows nothing of containers.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::bpf::Instruction;

/// The kernel's `linux/sched.h`; a constant of its own because it does not fit the C library's type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Both sides of [`clone_sibling`].
#[derive(Debug)]
pub(super) enum Cloned {
    /// In the new process.
    Child,
    /// In the calling process: the new one's pid in this pid namespace, and its pidfd.
    Parent { pid: i32, pidfd: OwnedFd },
}

/// Copies this process; the copy is a child of this process's parent, and starts in `cgroup` if one is given.
///
/// The caller has one thread: the copy has no other, so a lock that another thread held would stay locked.
pub(super) fn clone_sibling(cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned, Errno> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain integers, for which zero is "not given".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from((libc::CLONE_PARENT | libc::CLONE_PIDFD).unsigned_abs());
    args.pidfd = u64::try_from(std::ptr::from_mut(&mut pidfd).addr()).unwrap_or_default();
    if let Some(cgroup) = cgroup {
        args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
        args.flags |= CLONE_INTO_CGROUP;
    }
    // SAFETY: no CLONE_VM, so the copy has its own memory and stack; `args` and `pidfd` outlive the call; the caller
    // has one thread.
    let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone3, &args, size_of_val(&args)) })?;
    match i32::try_from(pid).unwrap_or(i32::MAX) {
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: on success the kernel has stored a new descriptor there, which nothing else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid, pidfd })
        }
    }
}

/// Changes a mount's attributes (`MOUNT_ATTR_*`); with `recursive` also those of all mounts below it.
pub(super) fn mount_setattr(
    mount: BorrowedFd<'_>,
    set: u64,
    clear: u64,
    recursive: bool,
) -> Result<(), Errno> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, `attributes` has the size that is passed, and both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &attributes,
            size_of_val(&attributes),
        )
    };
    Errno::result(result).map(drop)
}

/// Loads a seccomp filter for this thread; it needs CAP_SYS_ADMIN or no_new_privs.
pub(super) fn load_filter(program: &[Instruction], flags: u32) -> Result<(), Errno> {
    let mut filter: Vec<libc::sock_filter> =
        program.iter().map(|i| libc::sock_filter { code: i.0, jt: i.1, jf: i.2, k: i.3 }).collect();
    let length = u16::try_from(filter.len()).map_err(|_| Errno::E2BIG)?;
    let program = libc::sock_fprog { len: length, filter: filter.as_mut_ptr() };
    // SAFETY: `program` points to `len` instructions that live until the call returns; the kernel copies them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &program) };
    Errno::result(result).map(drop)
}

/// Joins a new session keyring of this name, so that the agent's keys stay its own.
pub(super) fn join_new_keyring(name: &str) -> Result<(), Errno> {
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    // SAFETY: `name` is a C string that outlives the call.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr())
    })
    .map(drop)
}

/// Sets a resource limit of this process.
pub(super) fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` is a valid rlimit that outlives the call.
    Errno::result(unsafe { libc::setrlimit(resource, &limit) }).map(drop)
}

/// Gives every signal its default action and unblocks all: an ignored signal would stay ignored after execve.
pub(super) fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL installs no code; the kernel refuses SIGKILL, SIGSTOP and the C library's own signals.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let all = nix::sys::signal::SigSet::all();
    let _ = all.thread_unblock();
}

/// Marks every descriptor from `first` on as close-on-exec.
pub(super) fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: with CLOSE_RANGE_CLOEXEC nothing is closed now, so no owner of a descriptor is surprised.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(result).map(drop)
}

/// Takes over the descriptor with this number, which this process was started with.
pub(super) fn adopt_inherited(number: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: F_DUPFD_CLOEXEC takes integers; a number that is not open is an error, not undefined.
    let copy = Errno::result(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 10) })?;
    // SAFETY: the copy was made here and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Takes over a descriptor out of a control message that the caller has just received and does not keep.
pub(super) fn adopt_received(number: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just installed this descriptor for us, and the message that named it is consumed, so
    // nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Makes `number` (0, 1 or 2) a copy of `descriptor`.
pub(super) fn replace_standard(descriptor: BorrowedFd<'_>, number: RawFd) -> Result<(), Errno> {
    // SAFETY: only 0, 1 and 2 are replaced, which std never closes and owns through no OwnedFd.
    Errno::result(unsafe { libc::dup2(descriptor.as_raw_fd(), number) }).map(drop)
}

/// Sends a signal by number, real-time ones included.
pub(super) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed; the other arguments are integers.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) };
    Errno::result(result).map(drop)
}

/// Makes a descriptor known to the tokio runtime, so that a task can wait for it.
pub(super) fn wait_on(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd keeps its one descriptor open until it is dropped, and its owner is the AsyncFd, whose users
    // here borrow it and exchange nothing in it.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, interest) }?)
}

/// Whether the descriptor lies on a file system with this magic number.
pub(super) fn is_on(descriptor: impl AsFd, magic: i64) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(descriptor)?.f_type == magic)
}
