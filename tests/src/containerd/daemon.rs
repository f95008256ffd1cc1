//! containerd's process: started, awaited, stopped or killed by its process id.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::config::Layout;
use super::version::Programs;
use crate::run::{ends_within, tail};
use crate::wait;

/// A containerd on a busy machine, with a data directory that it has to look through.
const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(20);

/// A running containerd.
pub struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts containerd and returns when it answers. `programs_first` are directories put before its `PATH`.
    pub fn start(layout: &Layout, programs: &Programs, programs_first: &[PathBuf]) -> Result<Self> {
        let log = File::options().create(true).append(true).open(layout.log())?;
        let mut path: Vec<PathBuf> = programs_first.to_vec();
        path.extend([programs.containerd.clone(), programs.runc.clone()]);
        path.extend(std::env::split_paths(
            &std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/sbin:/usr/bin")),
        ));
        // The thread that starts it may end before it does, so no parent-death signal: a stale one is swept by the next run.
        let child = Command::new(programs.containerd.join("containerd"))
            .arg("--config")
            .arg(layout.containerd_config())
            .env("PATH", std::env::join_paths(path)?)
            .env("COFFER_CONFIG", layout.coffer_config())
            .env("COFFER_TEST_NODE", &layout.tag)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start containerd")?;
        let mut daemon = Self { child };
        daemon.answers(layout)?;
        Ok(daemon)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end, as an administrator would, and waits for that.
    pub fn stop(self) -> Result<()> {
        self.end(Signal::SIGTERM)
    }

    /// Ends it without asking.
    pub fn kill(self) -> Result<()> {
        self.end(Signal::SIGKILL)
    }

    fn answers(&mut self, layout: &Layout) -> Result<()> {
        let socket = layout.socket();
        wait::until("containerd to answer", START, || {
            if let Some(status) = self.child.try_wait()? {
                bail!("containerd ended with {status}; the end of its log:\n{}", tail(&layout.log()));
            }
            Ok(UnixStream::connect(&socket).ok())
        })?;
        Ok(())
    }

    fn end(mut self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), signal).context("cannot signal containerd")?;
        if !ends_within(&self.child, STOP)? {
            self.child.kill()?;
            self.child.wait()?;
            bail!("containerd did not end within {} s of {signal}", STOP.as_secs());
        }
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Already collected after `stop` and `kill`; else a test failed, and its own message matters more than this one's.
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill().and_then(|()| self.child.wait());
        }
    }
}
