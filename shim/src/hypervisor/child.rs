#![allow(unsafe_code)] // tokio can only be told by assertion that a descriptor stays the same as long as it is watched.
//! A process of the machine, held by a descriptor: its pid cannot be taken for another process's.
//!
//! Each child is reaped by a task of its own, once; everybody else asks that task. Nothing in the shim may reap by
//! `waitpid(-1)`: it would take the answer away.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, pidfd_send_signal, waitid,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
    /// Somebody else reaped it.
    Unknown,
}

/// A child process. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Child {
    pid: u32,
    pidfd: Arc<AsyncFd<OwnedFd>>,
    ending: watch::Receiver<Option<Ending>>,
}

impl Child {
    /// Takes over a process that was just started, and has not been waited for.
    pub(super) fn adopt(child: &std::process::Child) -> io::Result<Child> {
        let pid = child.id();
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        let pidfd = pidfd_open(raw, PidfdFlags::NONBLOCK)?;
        // SAFETY: an OwnedFd keeps its one descriptor open until it is dropped, which the AsyncFd does, and nothing
        // below takes it out or replaces it.
        let pidfd = Arc::new(unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?);
        let (sender, ending) = watch::channel(None);
        tokio::spawn(reap(Arc::clone(&pidfd), sender));
        Ok(Child { pid, pidfd, ending })
    }

    /// Its pid.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends SIGKILL, if it still runs.
    pub(super) fn kill(&self) {
        // Fails only when it is gone.
        let _ = pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL);
    }

    /// Waits until it has ended and was reaped.
    pub(super) async fn ended(&self) -> Ending {
        let mut ending = self.ending.clone();
        match ending.wait_for(Option::is_some).await {
            Ok(ending) => ending.unwrap_or(Ending::Unknown),
            Err(_) => Ending::Unknown,
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn reap(pidfd: Arc<AsyncFd<OwnedFd>>, ending: watch::Sender<Option<Ending>>) {
    let outcome = loop {
        let Ok(mut ready) = pidfd.readable().await else { break Ending::Unknown };
        match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) => break Ending::from(status),
            Ok(None) => ready.clear_ready(),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => break Ending::Unknown,
        }
    };
    // Nobody to tell: the machine was dropped.
    let _ = ending.send(Some(outcome));
}

impl From<WaitIdStatus> for Ending {
    fn from(status: WaitIdStatus) -> Ending {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ending::Exited(code),
            (None, Some(signal)) => Ending::Signalled(signal),
            (None, None) => Ending::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[tokio::test]
    async fn an_exit_code_reaches_every_waiter() {
        let child = Child::adopt(&Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().unwrap()).unwrap();
        assert_eq!(child.ended().await, Ending::Exited(7));
        assert_eq!(child.ended().await, Ending::Exited(7));
    }

    #[tokio::test]
    async fn a_killed_child_says_so() {
        let child = Child::adopt(&Command::new("/bin/sleep").arg("1000").spawn().unwrap()).unwrap();
        child.kill();
        assert_eq!(child.ended().await, Ending::Signalled(9));
    }

    #[tokio::test]
    async fn a_dropped_child_is_killed_and_reaped() {
        let child = Child::adopt(&Command::new("/bin/sleep").arg("1000").spawn().unwrap()).unwrap();
        let mut ending = child.ending.clone();
        drop(child);
        assert_eq!(*ending.wait_for(Option::is_some).await.unwrap(), Some(Ending::Signalled(9)));
    }
}
