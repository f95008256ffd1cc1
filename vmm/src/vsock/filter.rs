//! The system calls that the vsock device may make once it serves a guest.
//!
//! Not among them, on purpose: everything that opens, creates or renames a file, starts a process or a thread, looks
//! at another process, changes credentials or namespaces, or makes memory executable. What a guest that took the
//! device over could still do: use the sockets that it has, and connect to Unix sockets below its root directory,
//! which is the pod's run directory.

use crate::jail::{Bound, Rules};

/// Calls that are allowed whatever their arguments.
const PLAIN: &[i64] = &[
    // The loop, and the sockets it watches.
    libc::SYS_ppoll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    // Continues a wait after the process was stopped and went on.
    libc::SYS_restart_syscall,
    // Bytes between the guest, the host's sockets and QEMU.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    // Connections of the host's and of the guest's.
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_close,
    // The regions of the guest's memory that QEMU hands over: their files' size is looked at before they are mapped.
    libc::SYS_statx,
    libc::SYS_munmap,
    // The allocator.
    libc::SYS_brk,
    libc::SYS_mremap,
    // The end: the runtime takes its signal stack down.
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigreturn,
    libc::SYS_exit_group,
];

/// Calls of which only some uses are allowed.
fn bounded() -> Rules {
    let not_executable = Bound { argument: 2, mask: libc::PROT_EXEC.unsigned_abs(), value: 0 };
    let exactly = |argument, value| Bound { argument, mask: u32::MAX, value };
    let number = |number: libc::c_int| exactly(1, number.unsigned_abs());
    let non_blocking = u32::try_from(libc::FIONBIO).unwrap_or(u32::MAX);
    Rules::from([
        // Memory that is not executable: the guest's, and the allocator's.
        (libc::SYS_mmap, vec![not_executable]),
        (libc::SYS_mprotect, vec![not_executable]),
        // Only Unix sockets.
        (libc::SYS_socket, vec![exactly(0, libc::AF_UNIX.unsigned_abs())]),
        // Only what makes a socket non-blocking, and what copies a descriptor.
        (libc::SYS_ioctl, vec![exactly(1, non_blocking)]),
        (libc::SYS_fcntl, vec![number(libc::F_DUPFD_CLOEXEC), number(libc::F_GETFD)]),
    ])
}

/// The rules, for [`crate::jail::allow_only`].
pub fn allowed() -> Rules {
    let mut rules = bounded();
    rules.extend(PLAIN.iter().map(|call| (*call, Vec::new())));
    rules
}
