//! Running a program to its end, never longer than a limit, with its output kept.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// The limit of a program for which no other was given.
const LIMIT: Duration = Duration::from_secs(60);

/// A program that has not been started yet.
pub struct Run {
    command: Command,
    input: Option<Vec<u8>>,
    limit: Duration,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Ended {
    /// The whole command line.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
    /// How long it ran.
    pub took: Duration,
}

impl Run {
    /// `program`, without arguments and with nothing on standard input.
    pub fn new(program: impl AsRef<Path>) -> Self {
        Self { command: Command::new(program.as_ref()), input: None, limit: LIMIT }
    }

    /// Adds arguments.
    pub fn args<S: AsRef<std::ffi::OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the working directory.
    pub fn directory(mut self, path: impl AsRef<Path>) -> Self {
        self.command.current_dir(path);
        self
    }

    /// Gives it `bytes` on standard input and then the end of file.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Ends it with SIGKILL when it has run for longer.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The command itself, for a caller that starts it in another way.
    pub fn into_command(self) -> Command {
        self.command
    }

    /// Starts it and leaves it to the caller, with nothing on standard input and its output kept for reading.
    pub fn spawn(mut self) -> Result<Child> {
        let line = format!("{:?}", self.command);
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.command.spawn().with_context(|| format!("cannot start {line}"))
    }

    /// Runs it to its end, whatever its exit status; fails when it cannot be started or reaches its limit.
    pub fn end(mut self) -> Result<Ended> {
        let line = format!("{:?}", self.command);
        let start = Instant::now();
        let stdin = if self.input.is_some() { Stdio::piped() } else { Stdio::null() };
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().with_context(|| format!("cannot start {line}"))?;
        let writer = write_all(&mut child, self.input);
        let stdout = read_all(child.stdout.take());
        let stderr = read_all(child.stderr.take());
        let in_time = ends_within(&child, self.limit)?;
        if !in_time {
            child.kill().with_context(|| format!("cannot end {line}"))?;
        }
        let status = child.wait()?;
        if !in_time {
            // Its own children may hold the pipes still, so its output is not waited for.
            bail!("{line} did not end within {} s", self.limit.as_secs());
        }
        let ended =
            Ended { line, status, stdout: collect(stdout)?, stderr: collect(stderr)?, took: start.elapsed() };
        writer.join().map_err(|_| anyhow!("the thread that wrote to {} failed", ended.line))?;
        Ok(ended)
    }

    /// Runs it to its end and returns standard output as text; fails unless it exits with 0.
    pub fn text(self) -> Result<String> {
        let ended = self.end()?;
        ended.succeeded()?;
        Ok(ended.out())
    }

    /// Runs it with its output appended to `log`; fails unless it exits with 0, and names the log.
    pub fn logged(mut self, log: &Path) -> Result<()> {
        let file = File::options().create(true).append(true).open(log)?;
        let line = format!("{:?}", self.command);
        self.command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let mut child = self.command.spawn().with_context(|| format!("cannot start {line}"))?;
        if !ends_within(&child, self.limit)? {
            child.kill()?;
        }
        let status = child.wait()?;
        if !status.success() {
            bail!("{line} ended with {status}; the end of {}:\n{}", log.display(), tail(log));
        }
        Ok(())
    }
}

impl Ended {
    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The exit code as a shell counts it: 128 and the signal for a process that a signal ended.
    pub fn code(&self) -> i32 {
        self.status.code().or_else(|| self.status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
    }

    /// Fails, with everything that was written, unless the exit code is 0.
    pub fn succeeded(&self) -> Result<()> {
        if self.status.success() {
            return Ok(());
        }
        bail!("{self}")
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ended with {}", self.line, self.status)?;
        for (name, text) in [("standard output", self.out()), ("standard error", self.err())] {
            if !text.trim().is_empty() {
                write!(f, "\n{name}: {}", last_lines(text.trim_end(), 40))?;
            }
        }
        Ok(())
    }
}

/// Whether `child` ends within `limit`.
pub fn ends_within(child: &Child, limit: Duration) -> Result<bool> {
    let pid =
        i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a child without a process id")?;
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        // Not yet collected, so the number cannot belong to another process.
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    let mut wanted = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    Ok(poll(&mut wanted, timeout)? > 0)
}

/// The last lines of a log file.
pub fn tail(log: &Path) -> String {
    match std::fs::read(log) {
        Ok(bytes) => last_lines(&String::from_utf8_lossy(&bytes), 40),
        Err(error) => format!("unreadable: {error}"),
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn write_all(child: &mut Child, input: Option<Vec<u8>>) -> JoinHandle<()> {
    let stdin = child.stdin.take();
    thread::spawn(move || {
        if let (Some(mut stdin), Some(input)) = (stdin, input) {
            // A program that does not read its input to the end is no failure of this run.
            let _ = stdin.write_all(&input);
        }
    })
}

fn read_all<R: Read + Send + 'static>(source: Option<R>) -> JoinHandle<std::io::Result<Vec<u8>>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut source) = source {
            source.read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    })
}

fn collect(reader: JoinHandle<std::io::Result<Vec<u8>>>) -> Result<Vec<u8>> {
    Ok(reader.join().map_err(|_| anyhow!("a thread that read output failed"))??)
}
