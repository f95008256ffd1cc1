//! Connections between shim and guest over the vsock device's Unix sockets.
//!
//! ```text
//! connect         ── <run_dir>/vsock.sock, "CONNECT <port>\n" ──▶ device ──▶ guest     "OK <hostport>\n"
//! ready_listener  ◀── <run_dir>/vsock.sock_1023 ── device ◀── the agent, once it listens; its end is the guest's end
//! ```
//! Socket addresses go through a descriptor of the run directory, so that a long path does not exceed their 108 bytes.

use std::fs::Permissions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use coffer_protocol::READY_PORT;
use rustix::fs::{Mode, OFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// Name of the device's socket in the run directory; a guest's connection to host port P goes to `vsock.sock_P`.
pub(super) const SOCKET: &str = "vsock.sock";

/// How long a connection to the guest may take: its kernel answers at once, but under software emulation on a loaded
/// host that may be seconds. Whoever must be done sooner puts its own limit around.
const DEADLINE: Duration = Duration::from_secs(30);

/// How long to wait before a full backlog is tried again.
const PAUSE: Duration = Duration::from_millis(5);

/// The longest answer line: `OK 4294967295\n`.
const MAX_ANSWER: usize = 14;

/// Why there is no connection to the guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The vsock device is not there.
    #[error("cannot reach the vsock device at {path}; has the machine ended?")]
    NoDevice {
        /// Its socket.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// Nobody listens on that port in the guest.
    #[error("the guest refuses vsock port {port}: nothing listens there")]
    Refused {
        /// The port.
        port: u32,
    },
    /// The device says what it must not.
    #[error("the vsock device answers {answer:?} to a connection to port {port}")]
    Answer {
        /// The port.
        port: u32,
        /// What it said.
        answer: String,
    },
    /// The guest did not answer in time.
    #[error("the guest did not answer on vsock port {port} within {waited:?}")]
    Deadline {
        /// The port.
        port: u32,
        /// How long it was given.
        waited: Duration,
    },
    /// The socket that the guest connects to cannot be made.
    #[error("cannot listen for the guest at {path}")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// A directory held open, so that sockets in it have short names.
pub(super) struct SocketDir {
    held: OwnedFd,
}

impl SocketDir {
    /// Holds `path` open.
    pub(super) fn open(path: &Path) -> io::Result<SocketDir> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(SocketDir { held: rustix::fs::open(path, flags, Mode::empty())? })
    }

    /// A short path for `name` in it, good while this lives.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.held.as_raw_fd()))
    }

    /// Listens at `name`, for `uid` alone, in place of whatever is there.
    pub(super) fn listen(&self, name: &str, uid: u32) -> io::Result<std::os::unix::net::UnixListener> {
        let path = self.path(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = std::os::unix::net::UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        chown(&path, Some(uid), Some(uid))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}

/// Connects to a vsock port of the guest whose machine has this run directory.
pub(crate) async fn connect(run_dir: &Path, port: u32) -> Result<UnixStream, ConnectError> {
    match timeout(DEADLINE, handshake(run_dir, port)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ConnectError::Deadline { port, waited: DEADLINE }),
    }
}

async fn handshake(run_dir: &Path, port: u32) -> Result<UnixStream, ConnectError> {
    let lost = |source| ConnectError::NoDevice { path: run_dir.join(SOCKET), source };
    let dir = SocketDir::open(run_dir).map_err(lost)?;
    let mut stream = loop {
        match UnixStream::connect(dir.path(SOCKET)).await {
            Ok(stream) => break stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(lost(error)),
        }
    };
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await.map_err(lost)?;
    let answer = read_answer(&mut stream).await.map_err(lost)?;
    if answer.is_empty() {
        return Err(ConnectError::Refused { port });
    }
    match answer.strip_prefix("OK ").and_then(|rest| rest.strip_suffix('\n')) {
        Some(number) if number.parse::<u32>().is_ok() => Ok(stream),
        _ => Err(ConnectError::Answer { port, answer }),
    }
}

/// Reads one line and not a byte beyond it; empty if the connection was closed instead.
async fn read_answer(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::with_capacity(MAX_ANSWER);
    while line.len() < MAX_ANSWER && line.last() != Some(&b'\n') {
        let mut byte = [0];
        match stream.read(&mut byte).await {
            Ok(0) => break,
            Ok(_) => line.extend(byte),
            // The device closes a refused connection; what it did not read of ours makes that a reset.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Where the guest's agent reports; made before the machine boots.
#[derive(Debug)]
pub(crate) struct ReadyListener {
    listener: UnixListener,
    path: PathBuf,
}

/// The connection that the agent holds while the guest lives.
#[derive(Debug)]
pub(crate) struct Ready {
    stream: UnixStream,
}

/// Listens for connections of a machine whose processes run as `uid` to host port `port`.
pub(crate) fn listen_for_guest(run_dir: &Path, uid: u32, port: u32) -> io::Result<UnixListener> {
    let listener = SocketDir::open(run_dir)?.listen(&format!("{SOCKET}_{port}"), uid)?;
    UnixListener::from_std(listener)
}

/// Listens for the agent of a machine whose processes run as `uid`.
pub(crate) async fn ready_listener(run_dir: &Path, uid: u32) -> Result<ReadyListener, ConnectError> {
    let name = format!("{SOCKET}_{READY_PORT}");
    let path = run_dir.join(&name);
    let listener = SocketDir::open(run_dir)
        .and_then(|dir| dir.listen(&name, uid))
        .and_then(UnixListener::from_std)
        .map_err(|source| ConnectError::Listen { path: path.clone(), source })?;
    Ok(ReadyListener { listener, path })
}

impl ReadyListener {
    /// Waits for the agent. Only one connection is taken: afterwards nobody listens any more.
    pub(crate) async fn accept(self) -> Result<Ready, ConnectError> {
        match self.listener.accept().await {
            Ok((stream, _)) => Ok(Ready { stream }),
            Err(source) => Err(ConnectError::Listen { path: self.path.clone(), source }),
        }
    }
}

impl Drop for ReadyListener {
    fn drop(&mut self) {
        // It may be gone with its directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Ready {
    /// Waits until the agent is gone. What it sends is thrown away: this connection carries nothing.
    pub(crate) async fn gone(&mut self) {
        let mut nothing = [0; 64];
        while let Ok(1..) = self.stream.read(&mut nothing).await {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers one connection as the device would, after checking what it asks for.
    async fn answer(run_dir: &Path, asks: &'static str, says: &'static [u8]) {
        let dir = SocketDir::open(run_dir).unwrap();
        let uid = rustix::process::getuid().as_raw();
        let listener = UnixListener::from_std(dir.listen(SOCKET, uid).unwrap()).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; asks.len()];
            stream.read_exact(&mut asked).await.unwrap();
            assert_eq!(asked, asks.as_bytes());
            stream.write_all(says).await.unwrap();
        });
    }

    #[tokio::test]
    async fn bytes_behind_the_answer_belong_to_the_caller() {
        let run_dir = tempfile::tempdir().unwrap();
        answer(run_dir.path(), "CONNECT 1024\n", b"OK 1073741824\nhello").await;
        let mut stream = connect(run_dir.path(), 1024).await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "hello");
    }

    #[tokio::test]
    async fn a_closed_connection_is_a_refusal() {
        let run_dir = tempfile::tempdir().unwrap();
        answer(run_dir.path(), "CONNECT 9\n", b"").await;
        assert!(matches!(connect(run_dir.path(), 9).await, Err(ConnectError::Refused { port: 9 })));
    }

    #[tokio::test]
    async fn an_answer_that_is_no_answer_is_refused() {
        let run_dir = tempfile::tempdir().unwrap();
        answer(run_dir.path(), "CONNECT 9\n", b"HELLO, WHO ARE YOU?\n").await;
        assert!(matches!(connect(run_dir.path(), 9).await, Err(ConnectError::Answer { .. })));
    }

    #[tokio::test]
    async fn a_missing_device_is_named() {
        let run_dir = tempfile::tempdir().unwrap();
        assert!(matches!(connect(run_dir.path(), 9).await, Err(ConnectError::NoDevice { .. })));
    }

    #[tokio::test]
    async fn a_run_directory_with_a_long_path_works() {
        let top = tempfile::tempdir().unwrap();
        let run_dir = top.path().join("n".repeat(120));
        std::fs::create_dir(&run_dir).unwrap();
        answer(&run_dir, "CONNECT 1\n", b"OK 1\n").await;
        assert!(connect(&run_dir, 1).await.is_ok());
    }

    #[tokio::test]
    async fn the_ready_connection_ends_with_its_other_side() {
        let run_dir = tempfile::tempdir().unwrap();
        let uid = rustix::process::getuid().as_raw();
        let listener = ready_listener(run_dir.path(), uid).await.unwrap();
        let agent = UnixStream::connect(run_dir.path().join("vsock.sock_1023")).await.unwrap();
        let mut ready = listener.accept().await.unwrap();
        drop(agent);
        ready.gone().await;
        assert!(!run_dir.path().join("vsock.sock_1023").exists());
    }
}
