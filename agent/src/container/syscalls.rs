//! System call numbers by name, for the three calling conventions of an x86-64 kernel.
//!
//! The numbers are the kernel's (Linux 6.12's `syscall_64.tbl` and `syscall_32.tbl`, and the seven calls that later
//! kernels added). A table is a list of names; a number in it is the number of the name that follows, and each further
//! name counts on. Text, not an array, because it is read once per container and is a third of the size.

use std::collections::HashMap;

/// Set in the number of an x32 call (`__X32_SYSCALL_BIT` of the kernel's `asm/unistd.h`).
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// A calling convention, by which a number means another call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abi {
    /// 64-bit.
    X86_64,
    /// 64-bit instructions, 32-bit pointers.
    X32,
    /// 32-bit.
    I386,
}

/// All calls of an ABI: name to number, as seccomp sees it.
pub(super) fn numbers(abi: Abi) -> HashMap<&'static str, u32> {
    match abi {
        Abi::X86_64 => entries(COMMON).chain(entries(ONLY_X86_64)).collect(),
        Abi::X32 => {
            entries(COMMON).chain(entries(ONLY_X32)).map(|(name, number)| (name, number | X32_BIT)).collect()
        }
        Abi::I386 => entries(I386).collect(),
    }
}

fn entries(table: &'static str) -> impl Iterator<Item = (&'static str, u32)> {
    let mut next = 0;
    table.split_ascii_whitespace().filter_map(move |word| match word.parse() {
        Ok(number) => {
            next = number;
            None
        }
        Err(_) => {
            next += 1;
            Some((word, next - 1))
        }
    })
}

/// The same number on x86_64 and (with the x32 bit) on x32.
const COMMON: &str = "\
    0 read write open close stat fstat lstat poll lseek mmap mprotect munmap brk 14 rt_sigprocmask 17 pread64 \
    pwrite64 21 access pipe select sched_yield mremap msync mincore madvise shmget shmat shmctl dup dup2 \
    pause nanosleep getitimer alarm setitimer getpid sendfile socket connect accept sendto 48 shutdown bind \
    listen getsockname getpeername socketpair 56 clone fork vfork 60 exit wait4 kill uname semget semop \
    semctl shmdt msgget msgsnd msgrcv msgctl fcntl flock fsync fdatasync truncate ftruncate getdents getcwd \
    chdir fchdir rename mkdir rmdir creat link unlink symlink readlink chmod fchmod chown fchown lchown umask \
    gettimeofday getrlimit getrusage sysinfo times 102 getuid syslog getgid setuid setgid geteuid getegid \
    setpgid getppid getpgrp setsid setreuid setregid getgroups setgroups setresuid getresuid setresgid \
    getresgid getpgid setfsuid setfsgid getsid capget capset 130 rt_sigsuspend 132 utime mknod 135 \
    personality ustat statfs fstatfs sysfs getpriority setpriority sched_setparam sched_getparam \
    sched_setscheduler sched_getscheduler sched_get_priority_max sched_get_priority_min sched_rr_get_interval \
    mlock munlock mlockall munlockall vhangup modify_ldt pivot_root 157 prctl arch_prctl adjtimex setrlimit \
    chroot sync acct settimeofday mount umount2 swapon swapoff reboot sethostname setdomainname iopl ioperm \
    175 init_module delete_module 179 quotactl 181 getpmsg putpmsg afs_syscall tuxcall security gettid \
    readahead setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr \
    removexattr lremovexattr fremovexattr tkill time futex sched_setaffinity sched_getaffinity 207 io_destroy \
    io_getevents 210 io_cancel 212 lookup_dcookie epoll_create 216 remap_file_pages getdents64 \
    set_tid_address restart_syscall semtimedop fadvise64 223 timer_settime timer_gettime timer_getoverrun \
    timer_delete clock_settime clock_gettime clock_getres clock_nanosleep exit_group epoll_wait epoll_ctl \
    tgkill utimes 237 mbind set_mempolicy get_mempolicy mq_open mq_unlink mq_timedsend mq_timedreceive 245 \
    mq_getsetattr 248 add_key request_key keyctl ioprio_set ioprio_get inotify_init inotify_add_watch \
    inotify_rm_watch migrate_pages openat mkdirat mknodat fchownat futimesat newfstatat unlinkat renameat \
    linkat symlinkat readlinkat fchmodat faccessat pselect6 ppoll unshare 275 splice tee sync_file_range 280 \
    utimensat epoll_pwait signalfd timerfd_create eventfd fallocate timerfd_settime timerfd_gettime accept4 \
    signalfd4 eventfd2 epoll_create1 dup3 pipe2 inotify_init1 298 perf_event_open 300 fanotify_init \
    fanotify_mark prlimit64 name_to_handle_at open_by_handle_at clock_adjtime syncfs 308 setns getcpu 312 \
    kcmp finit_module sched_setattr sched_getattr renameat2 seccomp getrandom memfd_create kexec_file_load \
    bpf 323 userfaultfd membarrier mlock2 copy_file_range 329 pkey_mprotect pkey_alloc pkey_free statx \
    io_pgetevents rseq uretprobe 424 pidfd_send_signal io_uring_setup io_uring_enter io_uring_register \
    open_tree move_mount fsopen fsconfig fsmount fspick pidfd_open clone3 close_range openat2 pidfd_getfd \
    faccessat2 process_madvise epoll_pwait2 mount_setattr quotactl_fd landlock_create_ruleset \
    landlock_add_rule landlock_restrict_self memfd_secret process_mrelease futex_waitv \
    set_mempolicy_home_node cachestat fchmodat2 map_shadow_stack futex_wake futex_wait futex_requeue \
    statmount listmount lsm_get_self_attr lsm_set_self_attr lsm_list_modules mseal setxattrat getxattrat \
    listxattrat removexattrat open_tree_attr file_getattr file_setattr";

/// On x86_64 only.
const ONLY_X86_64: &str = "\
    13 rt_sigaction 15 rt_sigreturn ioctl 19 readv writev 45 recvfrom sendmsg recvmsg 54 setsockopt \
    getsockopt 59 execve 101 ptrace 127 rt_sigpending rt_sigtimedwait rt_sigqueueinfo 131 sigaltstack 134 \
    uselib 156 _sysctl 174 create_module 177 get_kernel_syms query_module 180 nfsservctl 205 set_thread_area \
    io_setup 209 io_submit 211 get_thread_area 214 epoll_ctl_old epoll_wait_old 222 timer_create 236 vserver \
    244 mq_notify 246 kexec_load waitid 273 set_robust_list get_robust_list 278 vmsplice move_pages 295 \
    preadv pwritev rt_tgsigqueueinfo 299 recvmmsg 307 sendmmsg 310 process_vm_readv process_vm_writev 322 \
    execveat 327 preadv2 pwritev2";

/// On x32 only, without its bit.
const ONLY_X32: &str = "\
    512 rt_sigaction rt_sigreturn ioctl readv writev recvfrom sendmsg recvmsg execve ptrace rt_sigpending \
    rt_sigtimedwait rt_sigqueueinfo sigaltstack timer_create mq_notify kexec_load waitid set_robust_list \
    get_robust_list vmsplice move_pages preadv pwritev rt_tgsigqueueinfo recvmmsg sendmmsg process_vm_readv \
    process_vm_writev setsockopt getsockopt io_setup io_submit execveat preadv2 pwritev2";

/// On 32-bit x86.
const I386: &str = "\
    0 restart_syscall exit fork read write open close waitpid creat link unlink execve chdir time mknod chmod \
    lchown break oldstat lseek getpid mount umount setuid getuid stime ptrace alarm oldfstat pause utime stty \
    gtty access nice ftime sync kill rename mkdir rmdir dup pipe times prof brk setgid getgid signal geteuid \
    getegid acct umount2 lock ioctl fcntl mpx setpgid ulimit oldolduname umask chroot ustat dup2 getppid \
    getpgrp setsid sigaction sgetmask ssetmask setreuid setregid sigsuspend sigpending sethostname setrlimit \
    getrlimit getrusage gettimeofday settimeofday getgroups setgroups select symlink oldlstat readlink uselib \
    swapon reboot readdir mmap munmap truncate ftruncate fchmod fchown getpriority setpriority profil statfs \
    fstatfs ioperm socketcall syslog setitimer getitimer stat lstat fstat olduname iopl vhangup idle vm86old \
    wait4 swapoff sysinfo ipc fsync sigreturn clone setdomainname uname modify_ldt adjtimex mprotect \
    sigprocmask create_module init_module delete_module get_kernel_syms quotactl getpgid fchdir bdflush sysfs \
    personality afs_syscall setfsuid setfsgid _llseek getdents _newselect flock msync readv writev getsid \
    fdatasync _sysctl mlock munlock mlockall munlockall sched_setparam sched_getparam sched_setscheduler \
    sched_getscheduler sched_yield sched_get_priority_max sched_get_priority_min sched_rr_get_interval \
    nanosleep mremap setresuid getresuid vm86 query_module poll nfsservctl setresgid getresgid prctl \
    rt_sigreturn rt_sigaction rt_sigprocmask rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_sigsuspend \
    pread64 pwrite64 chown getcwd capget capset sigaltstack sendfile getpmsg putpmsg vfork ugetrlimit mmap2 \
    truncate64 ftruncate64 stat64 lstat64 fstat64 lchown32 getuid32 getgid32 geteuid32 getegid32 setreuid32 \
    setregid32 getgroups32 setgroups32 fchown32 setresuid32 getresuid32 setresgid32 getresgid32 chown32 \
    setuid32 setgid32 setfsuid32 setfsgid32 pivot_root mincore madvise getdents64 fcntl64 224 gettid \
    readahead setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr \
    removexattr lremovexattr fremovexattr tkill sendfile64 futex sched_setaffinity sched_getaffinity \
    set_thread_area get_thread_area io_setup io_destroy io_getevents io_submit io_cancel fadvise64 252 \
    exit_group lookup_dcookie epoll_create epoll_ctl epoll_wait remap_file_pages set_tid_address timer_create \
    timer_settime timer_gettime timer_getoverrun timer_delete clock_settime clock_gettime clock_getres \
    clock_nanosleep statfs64 fstatfs64 tgkill utimes fadvise64_64 vserver mbind get_mempolicy set_mempolicy \
    mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr kexec_load waitid 286 add_key \
    request_key keyctl ioprio_set ioprio_get inotify_init inotify_add_watch inotify_rm_watch migrate_pages \
    openat mkdirat mknodat fchownat futimesat fstatat64 unlinkat renameat linkat symlinkat readlinkat \
    fchmodat faccessat pselect6 ppoll unshare set_robust_list get_robust_list splice sync_file_range tee \
    vmsplice move_pages getcpu epoll_pwait utimensat signalfd timerfd_create eventfd fallocate \
    timerfd_settime timerfd_gettime signalfd4 eventfd2 epoll_create1 dup3 pipe2 inotify_init1 preadv pwritev \
    rt_tgsigqueueinfo perf_event_open recvmmsg fanotify_init fanotify_mark prlimit64 name_to_handle_at \
    open_by_handle_at clock_adjtime syncfs sendmmsg setns process_vm_readv process_vm_writev kcmp \
    finit_module sched_setattr sched_getattr renameat2 seccomp getrandom memfd_create bpf execveat socket \
    socketpair bind connect listen accept4 getsockopt setsockopt getsockname getpeername sendto sendmsg \
    recvfrom recvmsg shutdown userfaultfd membarrier mlock2 copy_file_range preadv2 pwritev2 pkey_mprotect \
    pkey_alloc pkey_free statx arch_prctl io_pgetevents rseq 393 semget semctl shmget shmctl shmat shmdt \
    msgget msgsnd msgrcv msgctl clock_gettime64 clock_settime64 clock_adjtime64 clock_getres_time64 \
    clock_nanosleep_time64 timer_gettime64 timer_settime64 timerfd_gettime64 timerfd_settime64 \
    utimensat_time64 pselect6_time64 ppoll_time64 416 io_pgetevents_time64 recvmmsg_time64 \
    mq_timedsend_time64 mq_timedreceive_time64 semtimedop_time64 rt_sigtimedwait_time64 futex_time64 \
    sched_rr_get_interval_time64 pidfd_send_signal io_uring_setup io_uring_enter io_uring_register open_tree \
    move_mount fsopen fsconfig fsmount fspick pidfd_open clone3 close_range openat2 pidfd_getfd faccessat2 \
    process_madvise epoll_pwait2 mount_setattr quotactl_fd landlock_create_ruleset landlock_add_rule \
    landlock_restrict_self memfd_secret process_mrelease futex_waitv set_mempolicy_home_node cachestat \
    fchmodat2 map_shadow_stack futex_wake futex_wait futex_requeue statmount listmount lsm_get_self_attr \
    lsm_set_self_attr lsm_list_modules mseal setxattrat getxattrat listxattrat removexattrat open_tree_attr \
    file_getattr file_setattr";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_64_bit_numbers_are_those_of_libc() {
        let numbers = numbers(Abi::X86_64);
        let of = |name: &str| numbers.get(name).map(|n| i64::from(*n));
        assert_eq!(of("read"), Some(libc::SYS_read));
        assert_eq!(of("rt_sigaction"), Some(libc::SYS_rt_sigaction));
        assert_eq!(of("clone3"), Some(libc::SYS_clone3));
        assert_eq!(of("execve"), Some(libc::SYS_execve));
        assert_eq!(of("execveat"), Some(libc::SYS_execveat));
        assert_eq!(of("mseal"), Some(libc::SYS_mseal));
        assert_eq!(of("prctl"), Some(libc::SYS_prctl));
        assert_eq!(of("uretprobe"), Some(335));
        assert_eq!(of("no_such_call"), None);
    }

    #[test]
    fn an_x32_number_carries_its_bit_and_its_own_execve() {
        let numbers = numbers(Abi::X32);
        assert_eq!(numbers.get("read"), Some(&X32_BIT));
        assert_eq!(numbers.get("execve"), Some(&(X32_BIT | 520)));
    }

    #[test]
    fn a_32_bit_number_differs_from_the_64_bit_one() {
        let numbers = numbers(Abi::I386);
        assert_eq!(numbers.get("execve"), Some(&11));
        assert_eq!(numbers.get("socketcall"), Some(&102));
        assert_eq!(numbers.get("mseal"), Some(&462));
    }
}
