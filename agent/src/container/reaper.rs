#![allow(unsafe_code)] // waitid with the full siginfo has no safe form that keeps real-time signals.
//! Reaps every child of the agent's main thread in one place, and tells those who wait for a particular one.
//!
//! ```text
//! SIGCHLD ──► waitid(any) until none ──┬─ somebody registered the pid ──► its watch channel
//!                                      ├─ a launch is under way ────────► kept until the launch registers or ends
//!                                      └─ else: an orphan ──────────────► forgotten
//! ```
//! SIGCHLD coalesces, so each wake-up reaps until nothing is left. Orphans come to PID 1's main thread, where the
//! runtime lives; children of other threads are not looked at (`__WNOTHREAD`).
//!
//! Never here: signals to children, meaning of exits.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How and when a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Exit code, or 128 + n when signal n ended it.
    pub(crate) status: u32,
    /// When the agent reaped it.
    pub(crate) at: SystemTime,
    /// Whether the kernel's out-of-memory killer ended it.
    pub(crate) oom_killed: bool,
}

/// A process's exit, before or after it happened.
pub(super) type ExitWatch = watch::Receiver<Option<Exit>>;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Reaper(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    registered: HashMap<i32, watch::Sender<Option<Exit>>>,
    unclaimed: HashMap<i32, Exit>,
    launches: usize,
}

/// While this lives, exits of unknown processes are kept.
#[derive(Debug)]
pub(super) struct Launching(Reaper);

impl Reaper {
    /// Starts reaping on the current runtime, which must run on the thread that spawns the children.
    pub(super) fn start() -> io::Result<Self> {
        let mut child_signals = signal(SignalKind::child())?;
        let reaper = Reaper(Arc::default());
        let state = Arc::downgrade(&reaper.0);
        tokio::spawn(async move {
            // A child may have died before the signal stream existed.
            loop {
                match state.upgrade() {
                    Some(state) => reap_all(&state),
                    None => break,
                }
                if child_signals.recv().await.is_none() {
                    break;
                }
            }
        });
        Ok(reaper)
    }

    /// Announces that a process is about to be made whose pid is not known yet.
    pub(super) fn launching(&self) -> Launching {
        self.lock().launches += 1;
        Launching(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

impl Launching {
    /// Watches a process that was made under this launch. Its pidfd tells whether an exit that was kept for the same
    /// pid is its own or that of an earlier process.
    pub(super) fn register(&self, pid: i32, pidfd: BorrowedFd<'_>) -> ExitWatch {
        let mut state = self.0.lock();
        let (sender, receiver) = watch::channel(None);
        match state.unclaimed.remove(&pid) {
            Some(exit) if has_exited(pidfd) => {
                sender.send_replace(Some(exit));
            }
            _ => {
                state.registered.insert(pid, sender);
            }
        }
        receiver
    }
}

impl Drop for Launching {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.launches -= 1;
        if state.launches == 0 {
            state.unclaimed.clear();
        }
    }
}

/// Waits for an exit; a reaper that is gone counts as an unknown status.
pub(super) async fn exited(watch: &mut ExitWatch) -> Exit {
    let seen = watch.wait_for(Option::is_some).await.ok().and_then(|exit| *exit);
    seen.unwrap_or_else(|| Exit { status: 255, at: SystemTime::now(), oom_killed: false })
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn reap_all(state: &Mutex<State>) {
    while let Some((pid, status)) = reap_one() {
        let exit = Exit { status, at: SystemTime::now(), oom_killed: false };
        let mut state = lock(state);
        match state.registered.remove(&pid) {
            Some(sender) => {
                sender.send_replace(Some(exit));
            }
            None if state.launches > 0 => {
                state.unclaimed.insert(pid, exit);
            }
            None => {}
        }
    }
}

/// Reaps one exited child of this thread.
fn reap_one() -> Option<(i32, u32)> {
    loop {
        // SAFETY: a zeroed siginfo_t is a valid value of that plain structure.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let options = libc::WEXITED | libc::WNOHANG | libc::__WNOTHREAD;
        // SAFETY: `info` is a valid, writable siginfo_t for the duration of the call.
        match Errno::result(unsafe { libc::waitid(libc::P_ALL, 0, &mut info, options) }) {
            Err(Errno::EINTR) => {}
            Err(_) => return None,
            Ok(_) => {
                // SAFETY: waitid fills the fields of a SIGCHLD, or leaves the zeroes.
                let pid = unsafe { info.si_pid() };
                // SAFETY: the same.
                let status = unsafe { info.si_status() };
                let status = status.unsigned_abs();
                let status = if info.si_code == libc::CLD_EXITED { status & 0xff } else { 128 + status };
                return (pid != 0).then_some((pid, status));
            }
        }
    }
}

fn has_exited(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}
