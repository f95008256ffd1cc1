//! `binary://`: a program that takes a process's output on descriptors 3 and 4 and says on 5 that it is ready.
//!
//! It is spawned with `posix_spawn`, whose file actions put the pipes where the contract wants them. The program
//! outlives the shim if need be: it ends when its pipes do.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::host::StdioError;

/// How long the program may take to get ready.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// Descriptors below this are the contract's own.
const FIRST_FREE_FD: i32 = 16;

/// Whose output it is.
#[derive(Debug, Clone)]
pub(crate) struct LoggerFor {
    /// containerd's namespace.
    pub(crate) namespace: String,
    /// The container.
    pub(crate) container: String,
}

/// Starts the program; returns the pipes for standard output and error.
pub(super) async fn spawn(
    program: &Path,
    args: &[String],
    id: &LoggerFor,
) -> Result<(pipe::Sender, pipe::Sender), StdioError> {
    let failed = |what: &'static str| {
        move |source: io::Error| StdioError::Logger { program: program.to_owned(), what, source }
    };
    let start = || -> io::Result<(pipe::Sender, pipe::Sender, pipe::Receiver)> {
        let (out_reader, out_writer) = pipe_pair()?;
        let (err_reader, err_writer) = pipe_pair()?;
        let (ready_reader, ready_writer) = pipe_pair()?;
        exec(program, args, id, [&out_reader, &err_reader, &ready_writer])?;
        Ok((
            pipe::Sender::from_owned_fd(out_writer)?,
            pipe::Sender::from_owned_fd(err_writer)?,
            pipe::Receiver::from_owned_fd(ready_reader)?,
        ))
    };
    let (stdout, stderr, ready) = start().map_err(failed("does not start"))?;
    timeout(READY_LIMIT, wait_ready(&ready))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(failed("does not get ready"))?;
    Ok((stdout, stderr))
}

/// A byte says ready, and so does the end of the pipe.
async fn wait_ready(ready: &pipe::Receiver) -> io::Result<()> {
    let mut byte = [0];
    loop {
        ready.readable().await?;
        match ready.try_read(&mut byte) {
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
            other => return other.map(drop),
        }
    }
}

/// A pipe whose descriptors are out of the way of 3, 4 and 5, so that no file action overwrites another's source.
fn pipe_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    Ok((
        rustix::io::fcntl_dupfd_cloexec(reader, FIRST_FREE_FD)?,
        rustix::io::fcntl_dupfd_cloexec(writer, FIRST_FREE_FD)?,
    ))
}

fn exec(program: &Path, args: &[String], id: &LoggerFor, fds: [&OwnedFd; 3]) -> io::Result<()> {
    let text = |value: String| CString::new(value).map_err(io::Error::other);
    let mut argv = vec![text(program.display().to_string())?];
    for arg in args {
        argv.push(text(arg.clone())?);
    }
    let mut env = vec![
        text(format!("CONTAINER_ID={}", id.container))?,
        text(format!("CONTAINER_NAMESPACE={}", id.namespace))?,
    ];
    if let Ok(path) = std::env::var("PATH") {
        env.push(text(format!("PATH={path}"))?);
    }
    let mut actions = PosixSpawnFileActions::init()?;
    for (fd, number) in fds.into_iter().zip(3..) {
        actions.add_dup2(fd.as_raw_fd(), number)?;
    }
    posix_spawn(program, &actions, &PosixSpawnAttr::init()?, &argv, &env)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    fn id() -> LoggerFor {
        LoggerFor { namespace: "n".to_owned(), container: "c".to_owned() }
    }

    fn script(text: &str) -> Vec<String> {
        vec!["-c".to_owned(), text.to_owned()]
    }

    #[tokio::test]
    async fn a_logger_gets_both_outputs_and_knows_whose_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let (log, done) = (dir.path().join("log"), dir.path().join("done"));
        nix::unistd::mkfifo(&done, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let text = format!(
            "exec 5>&-; {{ echo $CONTAINER_NAMESPACE/$CONTAINER_ID; cat <&3; cat <&4; }} > {}; echo > {}",
            log.display(),
            done.display()
        );
        let mut ended = pipe::OpenOptions::new().open_receiver(&done).unwrap();
        let (mut out, mut err) = spawn(Path::new("/bin/sh"), &script(&text), &id()).await.unwrap();
        out.write_all(b"out\n").await.unwrap();
        err.write_all(b"err\n").await.unwrap();
        drop((out, err));
        tokio::io::AsyncReadExt::read_u8(&mut ended).await.unwrap();
        assert_eq!(std::fs::read_to_string(log).unwrap(), "n/c\nout\nerr\n");
    }

    #[tokio::test]
    async fn a_logger_that_does_not_exist_is_named() {
        let error = spawn(Path::new("/no/such/logger"), &[], &id()).await.unwrap_err();
        assert!(error.to_string().contains("/no/such/logger"));
    }
}
