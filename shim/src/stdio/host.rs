//! The host's ends of a process's descriptors.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::unix::pipe;
use tokio::time::{sleep, timeout};

use super::StdioPaths;
use super::logger;
use super::uri::{self, Target, UnknownScheme};

/// How long a fifo that nobody reads is kept after its writer's end: containerd does not wait longer for a command's output.
const READER_LIMIT: Duration = Duration::from_secs(5);

/// Nobody tells that a fifo was opened; so long is waited before it is looked again.
const READER_PAUSE: Duration = Duration::from_millis(5);

/// Opened host ends.
#[derive(Debug, Default)]
pub(crate) struct HostEnds {
    pub(super) stdin: Option<pipe::Receiver>,
    pub(super) stdout: Option<Output>,
    pub(super) stderr: Option<Output>,
}

/// Where output goes.
#[derive(Debug)]
pub(super) enum Output {
    /// A fifo, or the pipe to a logging program.
    Pipe(pipe::Sender),
    /// A fifo that nobody but us had open when we opened it.
    Unread(pipe::Sender),
    /// A file.
    File(File),
}

/// Why a process's descriptors cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StdioError {
    /// A path of an unknown kind.
    #[error("a stdio path is refused")]
    Scheme {
        /// Which.
        source: UnknownScheme,
    },
    /// Standard input from something that is no fifo.
    #[error("standard input can only come from a fifo, not from {uri:?}")]
    Input {
        /// As given.
        uri: String,
    },
    /// A fifo or file cannot be opened.
    #[error("cannot open {path}")]
    Open {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The logging program does not start, or does not get ready.
    #[error("logging program {program} {what}")]
    Logger {
        /// Which.
        program: PathBuf,
        /// What is wrong.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

impl HostEnds {
    /// Opens what the paths name; `id` is told to logging programs.
    pub(crate) async fn open(paths: &StdioPaths, id: &logger::LoggerFor) -> Result<Self, StdioError> {
        let parse = |text: &str| uri::parse(text).map_err(|source| StdioError::Scheme { source });
        let stdin = open_input(parse(&paths.stdin)?, &paths.stdin)?;
        let (out, err) = (parse(&paths.stdout)?, parse(&paths.stderr)?);
        if let Target::Logger { program, args } = &out {
            let (stdout, stderr) = logger::spawn(program, args, id).await?;
            let stderr = (!paths.terminal).then_some(Output::Pipe(stderr));
            return Ok(Self { stdin, stdout: Some(Output::Pipe(stdout)), stderr });
        }
        let stderr = if paths.terminal { None } else { open_output(err)? };
        Ok(Self { stdin, stdout: open_output(out)?, stderr })
    }

    /// Which descriptors there are: standard input, output, error.
    pub(crate) fn present(&self) -> (bool, bool, bool) {
        (self.stdin.is_some(), self.stdout.is_some(), self.stderr.is_some())
    }
}

fn open_input(target: Target, uri: &str) -> Result<Option<pipe::Receiver>, StdioError> {
    match target {
        Target::Nothing => Ok(None),
        // Read-only: with a writing end of our own, its end would never be seen.
        Target::Fifo(path) => pipe::OpenOptions::new()
            .open_receiver(&path)
            .map(Some)
            .map_err(|source| StdioError::Open { path, source }),
        _ => Err(StdioError::Input { uri: uri.to_owned() }),
    }
}

fn open_output(target: Target) -> Result<Option<Output>, StdioError> {
    match target {
        Target::Nothing | Target::Logger { .. } => Ok(None),
        Target::Fifo(path) => open_fifo(&path).map(Some).map_err(|source| StdioError::Open { path, source }),
        Target::File(path) => append(&path)
            .map(|file| Some(Output::File(file)))
            .map_err(|source| StdioError::Open { path, source }),
    }
}

fn open_fifo(path: &Path) -> io::Result<Output> {
    // For writing alone it opens only if it has a reader already, who sees no end: it stays open until the other is.
    let reader = pipe::OpenOptions::new().open_sender(path);
    // For reading too: a reader that goes away (containerd restarts) breaks no pipe, and a later one reads on.
    let sender = pipe::OpenOptions::new().read_write(true).open_sender(path)?;
    Ok(if reader.is_ok() { Output::Pipe(sender) } else { Output::Unread(sender) })
}

fn append(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    File::options().create(true).append(true).open(path)
}

impl Output {
    /// Writes all of `data`; waits while a pipe's reader does not read. Adds to `taken` what has been written, bit by bit.
    pub(super) async fn write_all(&mut self, mut data: &[u8], taken: &AtomicU64) -> io::Result<()> {
        let count = |written: usize| taken.fetch_add(written as u64, Ordering::Relaxed);
        let pipe = match self {
            Output::File(file) => {
                file.write_all(data)?;
                count(data.len());
                return Ok(());
            }
            Output::Pipe(pipe) | Output::Unread(pipe) => pipe,
        };
        while !data.is_empty() {
            pipe.writable().await?;
            match pipe.try_write(data) {
                Ok(written) => {
                    count(written);
                    data = data.get(written..).unwrap_or_default();
                }
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }

    /// Closes it; a fifo that had no reader waits for one first, at most for [`READER_LIMIT`].
    ///
    /// containerd opens its end beside the calls that it makes. If a process has ended before that, what it wrote would be lost
    /// with the last open end, and containerd would then wait in vain for somebody who writes.
    pub(super) async fn close(self) {
        let Output::Unread(pipe) = self else { return };
        let own = format!("/proc/self/fd/{}", pipe.as_fd().as_raw_fd());
        let Ok(writer) = pipe::OpenOptions::new().open_sender(own) else { return };
        // Only without our own reading end does the system tell whether there is another.
        drop(pipe);
        let read = async {
            while !has_reader(&writer) {
                sleep(READER_PAUSE).await;
            }
        };
        let _ = timeout(READER_LIMIT, read).await;
    }
}

/// Whether anybody has a fifo open for reading; if the system does not tell, nobody is waited for.
fn has_reader(writer: &pipe::Sender) -> bool {
    let mut fds = [PollFd::new(writer, PollFlags::empty())];
    let asked = poll(&mut fds, Some(&Timespec::default()));
    asked.is_err() || !fds.iter().any(|fd| fd.revents().contains(PollFlags::ERR))
}
