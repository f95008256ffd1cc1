//! The system calls that each kind of thread of a machine may make once the guest runs.
//!
//! Not among them, on purpose: everything that opens, creates or renames a file, starts a process or a thread, looks at
//! another process, changes credentials or namespaces, makes memory executable, or gives a machine another memory. What a
//! guest that took the monitor over could still do: use the descriptors that it has, and connect to Unix sockets below
//! its root directory, which is the pod's run directory.

use crate::jail::{Bound, Rules};
use crate::kvm::requests_while_running;

/// A system call, by name and number.
type Call = (&'static str, i64);

/// What every thread needs: memory, locks, signals, its end.
const COMMON: &[Call] = &[
    ("brk", libc::SYS_brk),
    ("clock_gettime", libc::SYS_clock_gettime),
    ("close", libc::SYS_close),
    ("exit", libc::SYS_exit),
    ("exit_group", libc::SYS_exit_group),
    ("futex", libc::SYS_futex),
    ("madvise", libc::SYS_madvise),
    ("mremap", libc::SYS_mremap),
    ("munmap", libc::SYS_munmap),
    ("restart_syscall", libc::SYS_restart_syscall),
    ("rt_sigprocmask", libc::SYS_rt_sigprocmask),
    ("rt_sigreturn", libc::SYS_rt_sigreturn),
    ("sigaltstack", libc::SYS_sigaltstack),
    // Events, and the console.
    ("write", libc::SYS_write),
];

/// What the thread that serves devices needs besides.
const DEVICES: &[Call] = &[
    ("epoll_ctl", libc::SYS_epoll_ctl),
    ("epoll_pwait", libc::SYS_epoll_pwait),
    ("ppoll", libc::SYS_ppoll),
    // Disks, and those that are attached: their files' kind and length are looked at.
    ("lseek", libc::SYS_lseek),
    ("statx", libc::SYS_statx),
    ("fallocate", libc::SYS_fallocate),
    ("fdatasync", libc::SYS_fdatasync),
    ("io_uring_enter", libc::SYS_io_uring_enter),
    ("preadv2", libc::SYS_preadv2),
    ("pwritev2", libc::SYS_pwritev2),
    // Taps, events, and the host's sockets.
    ("accept4", libc::SYS_accept4),
    ("connect", libc::SYS_connect),
    ("read", libc::SYS_read),
    ("readv", libc::SYS_readv),
    ("recvfrom", libc::SYS_recvfrom),
    ("recvmsg", libc::SYS_recvmsg),
    ("sendto", libc::SYS_sendto),
    ("shutdown", libc::SYS_shutdown),
    ("writev", libc::SYS_writev),
    ("getrandom", libc::SYS_getrandom),
];

/// Calls of which only some uses are allowed, with those uses in words.
const BOUNDED: &[(&str, &str)] = &[
    (
        "fcntl",
        "F_GETFD, which an unoptimized build asks before it closes a descriptor; not processors: F_GET_SEALS, which only files in memory answer",
    ),
    (
        "ioctl",
        "a processor: KVM_RUN, KVM_GET_REGS, KVM_KVMCLOCK_CTRL; the others: FIONBIO, TUNSETOFFLOAD, TUNSETQUEUE, TUNSETVNETHDRSZ",
    ),
    ("mmap", "memory that is not executable"),
    ("mprotect", "to what is not executable"),
    ("socket", "Unix sockets; not processors"),
    ("tgkill", "threads of its own process, to get processors back; not processors"),
];

/// Those of them that processors may not make at all.
const NOT_PROCESSORS: &[&str] = &["socket", "tgkill"];

/// Which thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thread {
    /// One that runs a processor.
    Processor,
    /// The one that serves the devices.
    Devices,
}

/// The rules for `thread`, for [`crate::jail::allow_only`].
pub fn allowed(thread: Thread) -> Rules {
    let mut rules: Rules = COMMON.iter().map(|(_, call)| (*call, Vec::new())).collect();
    let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let mut requests: Vec<u32> =
        [libc::FIONBIO, libc::TUNSETOFFLOAD, libc::TUNSETQUEUE, libc::TUNSETVNETHDRSZ].map(number).to_vec();
    let mut questions = vec![libc::F_GETFD];
    match thread {
        Thread::Processor => requests = requests_while_running().to_vec(),
        Thread::Devices => {
            rules.extend(DEVICES.iter().map(|(_, call)| (*call, Vec::new())));
            rules.insert(libc::SYS_socket, vec![argument(0, libc::AF_UNIX.unsigned_abs())]);
            rules.insert(libc::SYS_tgkill, vec![argument(0, std::process::id())]);
            questions.push(libc::F_GET_SEALS);
        }
    }
    let not_executable = Bound { argument: 2, mask: libc::PROT_EXEC.unsigned_abs(), value: 0 };
    let questions = questions.into_iter().map(|question| argument(1, question.unsigned_abs()));
    rules.insert(libc::SYS_fcntl, questions.collect());
    rules.insert(libc::SYS_mmap, vec![not_executable]);
    rules.insert(libc::SYS_mprotect, vec![not_executable]);
    rules.insert(libc::SYS_ioctl, requests.into_iter().map(|request| argument(1, request)).collect());
    rules
}

fn argument(argument: u8, value: u32) -> Bound {
    Bound { argument, mask: u32::MAX, value }
}

/// The lists as the page of the documentation that shows them.
pub fn listing() -> String {
    let mut page = String::from(
        "# System calls of a running machine\n\n\
         This page is written by a test from `vmm/src/machine/filter.rs`; any other call ends the process by SIGSYS, after a line that names it.\n\n\
         | call | processors | devices |\n|---|---|---|\n",
    );
    let plain = COMMON.iter().map(|(name, _)| (*name, "yes", "yes"));
    let devices = DEVICES.iter().map(|(name, _)| (*name, "", "yes"));
    let mut rows: Vec<(&str, &str, &str)> = plain.chain(devices).collect();
    let processors = |name| if NOT_PROCESSORS.contains(&name) { "" } else { "some" };
    rows.extend(BOUNDED.iter().map(|(name, _)| (*name, processors(name), "some")));
    rows.sort_unstable();
    for (name, processors, devices) in &rows {
        page.push_str(&format!("| {name} | {processors} | {devices} |\n"));
    }
    page.push_str("\nOf some calls only some uses:\n\n");
    for (name, uses) in BOUNDED {
        page.push_str(&format!("- `{name}`: {uses}\n"));
    }
    page.push_str(&format!("\n{} calls in all.\n", rows.len()));
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_documentation_shows_the_lists_as_they_are() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/system-calls.md");
        if std::env::var_os("COFFER_WRITE_DOCS").is_some() {
            std::fs::write(&page, listing()).unwrap();
        }
        let shown = std::fs::read_to_string(page).unwrap_or_default();
        assert_eq!(shown, listing(), "run the test with COFFER_WRITE_DOCS=1");
    }

    #[test]
    fn signals_go_to_the_own_process_only() {
        let own = argument(0, std::process::id());
        assert_eq!(allowed(Thread::Devices)[&libc::SYS_tgkill], [own]);
        assert!(!allowed(Thread::Processor).contains_key(&libc::SYS_tgkill));
    }

    #[test]
    fn there_are_at_most_45_calls() {
        let count = allowed(Thread::Devices).len();
        println!("{count} system calls");
        assert!(count <= 45, "{count}");
        let processors = allowed(Thread::Processor);
        assert!(processors.keys().all(|call| allowed(Thread::Devices).contains_key(call)));
    }
}
