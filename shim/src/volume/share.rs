#![allow(unsafe_code)] // A child's descriptors and parent-death signal are set between fork and exec.
//! Starts the file server of a share: this program again, as the process that `ninep` is.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

/// How long a server may take to notice that its stream has ended.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// The most bytes of a server's last words.
const LAST_WORDS: u64 = 2048;

/// What a server is given.
pub(crate) struct ShareSpec<'a> {
    /// The directory or file that it serves.
    pub(crate) source: &'a Path,
    /// Whether it refuses writes.
    pub(crate) read_only: bool,
    /// Whether it sees what is mounted below.
    pub(crate) recursive: bool,
}

/// A file server; it is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct ShareServer {
    child: Child,
}

impl ShareServer {
    /// Starts a server on a stream. Must be called on the shim's main thread, whose end ends the server.
    pub(crate) fn start(spec: &ShareSpec<'_>, stream: OwnedFd) -> io::Result<ShareServer> {
        // O_PATH: opening the source does nothing to it, whatever it is.
        let root = rustix::fs::openat(CWD, spec.source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let (root_fd, stream_fd) = (root.as_raw_fd(), stream.as_raw_fd());
        let mut command = Command::new("/proc/self/exe");
        command.arg(crate::ninep::WORD).args([
            "--root-fd",
            &root_fd.to_string(),
            "--stream-fd",
            &stream_fd.to_string(),
        ]);
        command.args(spec.read_only.then_some("--read-only")).args(spec.recursive.then_some("--recursive"));
        command.env_clear().current_dir("/").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let parent = rustix::process::getpid();
        // SAFETY: the closure runs in the child between fork and exec and makes system calls only; it allocates
        // nothing and takes no lock.
        unsafe {
            command.pre_exec(move || {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                // The parent may have died before the line above.
                if rustix::process::getppid() != Some(parent) {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                keep_across_exec(root_fd)?;
                keep_across_exec(stream_fd)
            })
        };
        let child = command.spawn()?;
        drop((root, stream));
        Ok(ShareServer { child })
    }

    /// Process id, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for the end of a server whose stream has ended; then kills it. Answers how it ended.
    pub(crate) async fn leave(mut self) -> io::Result<ExitStatus> {
        if let Ok(status) = tokio::time::timeout(LEAVE_LIMIT, self.child.wait()).await {
            return status;
        }
        self.child.kill().await?;
        self.child.wait().await
    }

    /// Kills a server that is of no use and answers what it said.
    pub(crate) async fn last_words(mut self) -> String {
        let mut words = Vec::new();
        // It may be about to end by itself, with the reason.
        if tokio::time::timeout(Duration::from_millis(200), self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
        if let Some(stderr) = self.child.stderr.take() {
            let _ = tokio::time::timeout(LEAVE_LIMIT, stderr.take(LAST_WORDS).read_to_end(&mut words)).await;
        }
        String::from_utf8_lossy(&words).trim().to_owned()
    }
}

fn keep_across_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: both descriptors stay open in the child until exec, because the parent's copies were open at the fork.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?)
}
