//! A process of a container: its state, its signals, its exit, which is remembered until the last handle is gone.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::error::ContainerError;
use super::launch::{Channel, Launched};
use super::reaper::{Exit, ExitWatch, exited};
use super::state::ProcessState;
use super::stdio::{Stdio, WindowSize};
use super::sys;

/// A handle; clones are the same process.
#[derive(Debug, Clone)]
pub(crate) struct Process(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    container: String,
    pid: i32,
    pidfd: OwnedFd,
    /// What the reaper has seen.
    reaped: ExitWatch,
    /// What the world may see: an init process's exit waits for those of the container's other processes.
    published: watch::Sender<Option<Exit>>,
    /// Gone once the process was started.
    channel: Mutex<Option<Channel>>,
    stdio: Mutex<Option<Stdio>>,
    terminal: Mutex<Option<OwnedFd>>,
    paused: Arc<AtomicBool>,
}

impl Process {
    /// A launched process with the agent's ends of its pipes. `paused` is its container's.
    pub(super) fn new(
        container: &str,
        launched: Launched,
        pipes: Option<Stdio>,
        paused: Arc<AtomicBool>,
    ) -> std::io::Result<Self> {
        let terminal = launched.terminal.as_ref().map(OwnedFd::try_clone).transpose()?;
        if let Some(master) = &launched.terminal {
            rustix::io::ioctl_fionbio(master, true)?;
        }
        let stdio = launched.terminal.map(Stdio::Terminal).or(pipes);
        Ok(Process(Arc::new(Inner {
            container: container.to_owned(),
            pid: launched.process.pid,
            pidfd: launched.process.pidfd,
            reaped: launched.process.exit,
            published: watch::Sender::new(None),
            channel: Mutex::new(Some(launched.channel)),
            stdio: Mutex::new(stdio),
            terminal: Mutex::new(terminal),
            paused,
        })))
    }

    /// Process id in the agent's pid namespace.
    pub(crate) fn pid(&self) -> u32 {
        self.0.pid.unsigned_abs()
    }

    /// Where it is in its life.
    pub(crate) fn state(&self) -> ProcessState {
        if self.exit().is_some() {
            ProcessState::Stopped
        } else if lock(&self.0.channel).is_some() {
            ProcessState::Created
        } else if self.0.paused.load(Ordering::Acquire) {
            ProcessState::Paused
        } else {
            ProcessState::Running
        }
    }

    /// The agent's ends of the standard descriptors; there is one set, for the first who asks.
    pub(crate) fn take_stdio(&self) -> Option<Stdio> {
        lock(&self.0.stdio).take()
    }

    /// Lets it execute its program; returns when it does, or why it cannot.
    pub(crate) async fn start(&self) -> Result<(), ContainerError> {
        let state = self.state();
        let channel = lock(&self.0.channel).take();
        match channel {
            Some(channel) if state == ProcessState::Created => {
                let started = channel.start(&self.0.container).await;
                if started.is_err() {
                    // Whoever hears of the failure may delete the process at once, so it is to be gone by then.
                    self.wait().await;
                }
                started
            }
            _ => Err(ContainerError::State { id: self.0.container.clone(), action: "start", state }),
        }
    }

    /// Sends a signal by number.
    pub(crate) fn signal(&self, signal: i32) -> Result<(), ContainerError> {
        let finished = || ContainerError::Finished { id: self.0.container.clone(), pid: self.pid() };
        if self.0.reaped.borrow().is_some() {
            return Err(finished());
        }
        match sys::pidfd_signal(self.pidfd(), signal) {
            Err(nix::errno::Errno::ESRCH) => Err(finished()),
            sent => {
                sent.map_err(|errno| ContainerError::Agent { action: "send a signal", source: errno.into() })
            }
        }
    }

    /// Sets the size of its terminal.
    pub(crate) fn resize(&self, size: WindowSize) -> Result<(), ContainerError> {
        let terminal = lock(&self.0.terminal);
        let none = || ContainerError::NoTerminal { id: self.0.container.clone(), pid: self.pid() };
        let terminal = terminal.as_ref().ok_or_else(none)?;
        let size =
            rustix::termios::Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(terminal, size)
            .map_err(|errno| ContainerError::Agent { action: "resize a terminal", source: errno.into() })
    }

    /// Waits for its exit; answers any number of times.
    pub(crate) async fn wait(&self) -> Exit {
        let mut published = self.0.published.subscribe();
        exited(&mut published).await
    }

    /// Its exit, if it has happened.
    pub(crate) fn exit(&self) -> Option<Exit> {
        *self.0.published.borrow()
    }

    pub(super) fn pidfd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.pidfd.as_fd()
    }

    /// Waits until the reaper has seen it.
    pub(super) async fn reaped(&self) -> Exit {
        exited(&mut self.0.reaped.clone()).await
    }

    /// Whether the reaper has seen it.
    pub(super) fn is_reaped(&self) -> bool {
        self.0.reaped.borrow().is_some()
    }

    /// Tells the world. The terminal's last descriptor here goes, so that its reader sees the end.
    pub(super) fn publish(&self, exit: Exit) {
        drop(lock(&self.0.terminal).take());
        drop(lock(&self.0.channel).take());
        self.0.published.send_replace(Some(exit));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
