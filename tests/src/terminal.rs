//! A program with a terminal: `ctr run --tty` wants a real one on its own side.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::run::ends_within;

/// A running program and the far side of its terminal.
pub struct Terminal {
    child: Child,
    far: File,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    /// Starts `command` with a terminal of `columns` by `rows` as its three streams.
    pub fn spawn(mut command: Command, columns: u16, rows: u16) -> Result<Self> {
        let far = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&far)?;
        unlockpt(&far)?;
        set_size(&far, columns, rows)?;
        let name = ptsname(&far, Vec::new())?.into_string()?;
        let near = File::options().read(true).write(true).open(name)?;
        let streams = command.stdin(near.try_clone()?).stdout(near.try_clone()?).stderr(Stdio::from(near));
        let child = streams.spawn().context("cannot start a program with a terminal")?;
        // The near side must be open in the child only, or its end is never seen.
        drop(command);
        let far = File::from(far);
        let output = read_along(far.try_clone()?);
        Ok(Self { child, far, output, seen: String::new() })
    }

    /// Types `text`.
    pub fn type_text(&mut self, text: &str) -> Result<()> {
        Ok(self.far.write_all(text.as_bytes())?)
    }

    /// Gives the terminal another size and tells the program so.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        set_size(&self.far.try_clone()?.into(), columns, rows)?;
        // A terminal tells its foreground group; this one is nobody's controlling terminal.
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGWINCH)?)
    }

    /// Waits until the output since the last call contains `wanted`, at most for `limit`.
    pub fn wait_for(&mut self, wanted: &str, limit: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(at) = self.seen.find(wanted) {
                self.seen.drain(..at + wanted.len());
                return Ok(());
            }
            let left = limit.saturating_sub(start.elapsed());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("no {wanted:?} within {limit:?}, only {:?}", self.seen)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the program ended without {wanted:?}, after {:?}", self.seen)
                }
            }
        }
    }

    /// The exit code, once the program has ended within `limit`.
    pub fn end(mut self, limit: Duration) -> Result<Option<i32>> {
        if !ends_within(&self.child, limit)? {
            self.child.kill()?;
            self.child.wait()?;
            bail!(
                "the program with a terminal did not end within {limit:?}; its last output: {:?}",
                self.seen
            );
        }
        Ok(self.child.wait()?.code())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill().and_then(|()| self.child.wait());
        }
    }
}

fn set_size(far: &OwnedFd, columns: u16, rows: u16) -> Result<()> {
    Ok(tcsetwinsize(far, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?)
}

fn read_along(mut far: File) -> Receiver<Vec<u8>> {
    let (send, output) = channel();
    thread::spawn(move || {
        let mut block = [0; 4096];
        // The far side reports an error once the near side is closed.
        while let Ok(length @ 1..) = far.read(&mut block) {
            if send.send(block[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    output
}
