//! The system calls that the file server may make once it serves a guest.
//!
//! Not among them, on purpose: starting a process or thread, sockets, looking at other processes, changing
//! credentials, namespaces or mounts, opening by handle (which could leave the tree), executable memory.

use coffer_vmm::jail::{Bound, Rules};

/// Calls that are allowed whatever their arguments.
const PLAIN: &[i64] = &[
    // The stream.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    // Files, by descriptor or by one name below a descriptor.
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_getdents64,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fchownat,
    libc::SYS_fchmodat,
    libc::SYS_utimensat,
    libc::SYS_readlinkat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_fgetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_flistxattr,
    libc::SYS_fremovexattr,
    // The standard library: checks of descriptors, seeds of hash tables, time of a lock.
    libc::SYS_fcntl,
    libc::SYS_getrandom,
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    // The allocator.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_madvise,
    // The end, by itself or by a bug.
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Calls that map memory, and which of their arguments is the protection.
const MAPPING: &[(i64, u8)] = &[(libc::SYS_mmap, 2), (libc::SYS_mprotect, 2)];

/// All of them, for the filter.
pub(super) fn allowed() -> Rules {
    let mut all: Rules = PLAIN.iter().map(|call| (*call, Vec::new())).collect();
    all.insert(libc::SYS_mremap, Vec::new());
    for (call, argument) in MAPPING {
        let plain = Bound { argument: *argument, mask: libc::PROT_EXEC.unsigned_abs(), value: 0 };
        all.insert(*call, vec![plain]);
    }
    all
}
