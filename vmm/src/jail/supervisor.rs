#![allow(unsafe_code)] // A process id namespace begins with a child, which is made by fork.
//! A process id namespace for the machine: it is the first process in it, and the one that was started only waits for it.
//!
//! ```text
//! shim ─▶ supervisor (no descriptor, the machine's user, three system calls) ─▶ the machine
//! ```
//! The supervisor ends as the machine did: with its status, or by its signal. If it is killed, so is the machine.

use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, AsRawFd};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, raise, signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, geteuid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::filter::{Rules, allow_only};
use super::process::{JailError, become_user, bind_to_parent};

/// What the machine knows its supervisor by: as long as it is there, the other end of a pipe is.
#[derive(Debug)]
pub struct Lifeline(PipeReader);

impl Lifeline {
    /// Whether the supervisor is gone.
    pub(super) fn is_cut(&self) -> bool {
        let mut watched = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        !matches!(poll(&mut watched, Some(&now)), Ok(0))
    }
}

/// Returns in a new process, the first of its own namespace; the calling one waits for it as `uid`, and ends as it does.
/// Ends with the parent `parent`. To be called before there is a second thread.
pub fn enter_own_processes(uid: u32, parent: u32) -> Result<Lifeline, JailError> {
    if !geteuid().is_root() {
        return Err(JailError::NotRoot);
    }
    let fail = |source| JailError::Namespaces { what: "process ids", source };
    unshare(CloneFlags::CLONE_NEWPID).map_err(fail)?;
    let (reader, writer) = std::io::pipe().map_err(JailError::Limit)?;
    // SAFETY: there is one thread, so the child finds no lock that nobody holds.
    match unsafe { fork() }.map_err(fail)? {
        ForkResult::Child => {
            drop(writer);
            Ok(Lifeline(reader))
        }
        ForkResult::Parent { child } => {
            drop(reader);
            let outcome = supervise(child, uid, parent, writer);
            // The machine cannot outlive what it is bound to.
            eprintln!("coffer-vmm: cannot wait for the machine: {outcome:?}");
            std::process::exit(1);
        }
    }
}

/// Waits for the machine and ends as it did; returns only what hindered it.
fn supervise(machine: Pid, uid: u32, parent: u32, lifeline: PipeWriter) -> Result<(), JailError> {
    close_all_but(&lifeline);
    become_user(uid)?;
    bind_to_parent(uid)?;
    if std::os::unix::process::parent_id() != parent {
        return Err(JailError::Orphan);
    }
    let calls = [
        libc::SYS_wait4,
        libc::SYS_exit_group,
        libc::SYS_gettid,
        libc::SYS_getpid,
        libc::SYS_tgkill,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_restart_syscall,
        libc::SYS_write,
    ];
    allow_only(&calls.into_iter().map(|call| (call, Vec::new())).collect::<Rules>())?;
    loop {
        match waitpid(machine, None) {
            Ok(WaitStatus::Exited(_, code)) => end(code),
            Ok(WaitStatus::Signaled(_, by, _)) => {
                // SAFETY: the default action is no handler of ours.
                let _ = unsafe { signal(by, SigHandler::SigDfl) };
                let _ = raise(by);
                end(128 + by as i32)
            }
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(source) => return Err(JailError::User { uid, source }),
        }
    }
}

/// Ends at once: nothing of this process is to be tidied up.
fn end(code: i32) -> ! {
    // SAFETY: takes a number and does not return.
    unsafe { libc::_exit(code) }
}

/// Closes every descriptor but the standard three and this one: the machine has its own copies.
fn close_all_but(kept: &PipeWriter) {
    let Ok(kept) = libc::c_uint::try_from(kept.as_raw_fd()) else { return };
    for (first, last) in [(3, kept.saturating_sub(1)), (kept + 1, libc::c_uint::MAX)] {
        if first <= last {
            // SAFETY: nothing in this process uses one of them any more: it only waits, and never returns to their owners.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
}
