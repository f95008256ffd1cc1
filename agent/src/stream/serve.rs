//! Accepts stream connections, reads their header, and does what it asks for.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use coffer_protocol::{StreamHeader, StreamHeaderError, StreamKind, reply_error, reply_ok};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, socket};
use rustix::net::{SocketFlags, accept_with};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::copy::{copy, copy_both_ways};
use super::layer::{OfferLayer, layer};
use super::registry::{AttachError, Registry};
use crate::chain::Chain;
use crate::descriptor::Descriptor;

/// How long a connection may take to send its header line.
const HEADER_PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait when a connection cannot be accepted for want of memory or descriptors.
const BREATH: Duration = Duration::from_millis(100);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;
/// Any header line is refused beyond this.
const MAX_HEADER: usize = 512;

/// Why a stream ended before its bytes did.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    /// The header is not understood.
    #[error(transparent)]
    Header(StreamHeaderError),
    /// No header came.
    #[error("no header line within {} s", HEADER_PATIENCE.as_secs())]
    Late,
    /// The process's stream cannot be had.
    #[error(transparent)]
    Attach(AttachError),
    /// Nothing listens on the port.
    #[error("connecting to port {port} of the pod's loopback")]
    Connect {
        /// Port number.
        port: u16,
        /// The kernel's answer on ::1.
        source: io::Error,
    },
    /// The volumes did not take it.
    #[error("share {volume} refused: {reason}")]
    Share {
        /// Volume id.
        volume: String,
        /// Their reason.
        reason: String,
    },
    /// The layer is not wanted, or not what it should be.
    #[error("{reason}")]
    Layer {
        /// Why.
        reason: String,
    },
    /// The connection broke.
    #[error("the connection broke")]
    Io {
        /// How.
        source: io::Error,
    },
}

/// What takes the streams of share volumes.
pub(crate) type TakeShare = std::sync::Arc<dyn Fn(&str, OwnedFd) -> Result<(), String> + Send + Sync>;

/// What streams can lead to.
#[derive(Clone)]
pub(crate) struct Targets {
    /// Processes.
    pub(crate) registry: Registry,
    /// Volumes.
    pub(crate) share: TakeShare,
    /// Images that were admitted.
    pub(crate) layer: OfferLayer,
}

/// Listens on a vsock port, for any context id.
pub(crate) fn listen(port: u32) -> io::Result<Descriptor> {
    let listener = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(listener.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, port))?;
    nix::sys::socket::listen(&listener, Backlog::new(BACKLOG)?)?;
    Descriptor::new(listener)
}

/// Serves connections for ever.
pub(crate) async fn serve(listener: Descriptor, targets: Targets) {
    loop {
        let accepted = listener.when_readable(|fd| Ok(accept_with(fd, SocketFlags::CLOEXEC)?)).await;
        match accepted.and_then(Descriptor::new) {
            Ok(connection) => {
                let targets = targets.clone();
                tokio::spawn(async move {
                    if let Err(error) = one_stream(connection, &targets).await {
                        tracing::debug!(error = %Chain(&error), "stream ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "stream not accepted");
                sleep(BREATH).await;
            }
        }
    }
}

async fn one_stream(connection: Descriptor, targets: &Targets) -> Result<(), StreamError> {
    let header = timeout(HEADER_PATIENCE, read_header(&connection)).await.unwrap_or(Err(StreamError::Late));
    let served = match header {
        Ok(StreamHeader::Stdio { container, exec, kind }) => {
            return stdio(connection, targets, &container, exec.as_deref().unwrap_or_default(), kind).await;
        }
        Ok(StreamHeader::Forward { port }) => forward(&connection, port).await,
        Ok(StreamHeader::Share { volume }) => return share(connection, targets, volume).await,
        Ok(StreamHeader::Layer { container, digest }) => {
            return match digest.parse() {
                Ok(digest) => layer(connection, &targets.layer, container, digest).await,
                Err(_) => Err(StreamError::Header(StreamHeaderError::Malformed { line: digest })),
            };
        }
        Err(error) => Err(error),
    };
    if let Err(error) = &served {
        refuse(&connection, error).await;
    }
    served
}

/// Reads no byte beyond the line: what follows belongs to the stream.
async fn read_header(connection: &Descriptor) -> Result<StreamHeader, StreamError> {
    let mut line = Vec::with_capacity(128);
    let mut byte = [0];
    loop {
        match connection.read(&mut byte).await {
            Ok(0) => return Err(StreamError::Io { source: io::ErrorKind::UnexpectedEof.into() }),
            Ok(_) if byte == *b"\n" => break,
            Ok(_) => line.extend_from_slice(&byte),
            Err(source) => return Err(StreamError::Io { source }),
        }
        if line.len() >= MAX_HEADER {
            return Err(StreamError::Header(StreamHeaderError::TooLong { length: line.len() }));
        }
    }
    StreamHeader::parse(&String::from_utf8_lossy(&line)).map_err(StreamError::Header)
}

async fn stdio(
    connection: Descriptor,
    targets: &Targets,
    container: &str,
    exec: &str,
    kind: StreamKind,
) -> Result<(), StreamError> {
    let mut attached = match targets.registry.attach(container, exec, kind) {
        Ok(attached) => attached,
        Err(error) => {
            let error = StreamError::Attach(error);
            refuse(&connection, &error).await;
            return Err(error);
        }
    };
    let work = async {
        connection.write_all(reply_ok().as_bytes()).await?;
        match kind {
            StreamKind::Stdin => input(&connection, &attached.end).await,
            StreamKind::Stdout | StreamKind::Stderr => copy(&attached.end, &connection).await,
        }
    };
    tokio::select! {
        done = work => done.map_err(|source| StreamError::Io { source }),
        _ = attached.forgotten.changed() => Ok(()),
    }
}

/// A process that does not read its input to the end is no error.
async fn input(connection: &Descriptor, process: &Descriptor) -> io::Result<()> {
    match copy(connection, process).await {
        Err(error) if error.raw_os_error() == Some(Errno::EPIPE as i32) => Ok(()),
        result => result,
    }
}

async fn forward(connection: &Descriptor, port: u16) -> Result<(), StreamError> {
    let broke = |source| StreamError::Io { source };
    let server = connect(port).await?;
    connection.write_all(reply_ok().as_bytes()).await.map_err(broke)?;
    copy_both_ways(connection, &server).await.map_err(broke)
}

async fn connect(port: u16) -> Result<Descriptor, StreamError> {
    let refused = |source| StreamError::Connect { port, source };
    let to = |address: IpAddr| TcpStream::connect(SocketAddr::new(address, port));
    let stream = match to(Ipv4Addr::LOCALHOST.into()).await {
        Ok(stream) => stream,
        Err(_) => to(Ipv6Addr::LOCALHOST.into()).await.map_err(refused)?,
    };
    let _ = stream.set_nodelay(true);
    let stream = stream.into_std().map_err(refused)?;
    Descriptor::new(OwnedFd::from(stream)).map_err(refused)
}

/// The reply is sent first, because the connection is the volume's afterwards.
async fn share(connection: Descriptor, targets: &Targets, volume: String) -> Result<(), StreamError> {
    connection.write_all(reply_ok().as_bytes()).await.map_err(|source| StreamError::Io { source })?;
    (targets.share)(&volume, connection.into_fd()).map_err(|reason| StreamError::Share { volume, reason })
}

pub(super) async fn refuse(connection: &Descriptor, error: &StreamError) {
    let reply = reply_error(&Chain(error).to_string());
    // The other side may be gone already, and then needs no reason.
    let _ = connection.write_all(reply.as_bytes()).await;
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::sync::Arc;

    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

    use super::*;
    use crate::container::Stdio;
    use crate::stream::Refusal;

    struct Guest {
        directory: tempfile::TempDir,
        registry: Registry,
    }

    impl Guest {
        fn start() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let listener = UnixListener::bind(directory.path().join("s")).unwrap();
            let registry = Registry::default();
            let share: TakeShare = Arc::new(|volume, _| Err(format!("no volume {volume}")));
            let layer: OfferLayer = Arc::new(|_, digest| {
                let refusal = Refusal { reason: format!("layer {digest} is not wanted"), again: false };
                Box::pin(async move { Err(refusal) })
            });
            let targets = Targets { registry: registry.clone(), share, layer };
            tokio::spawn(serve(Descriptor::new(OwnedFd::from(listener)).unwrap(), targets));
            Guest { directory, registry }
        }

        /// Opens a stream, and returns it with the reply to its header.
        async fn open(&self, header: &str) -> (BufReader<tokio::net::UnixStream>, String) {
            let stream = UnixStream::connect(self.directory.path().join("s")).unwrap();
            stream.set_nonblocking(true).unwrap();
            let mut stream = BufReader::new(tokio::net::UnixStream::from_std(stream).unwrap());
            stream.write_all(header.as_bytes()).await.unwrap();
            let mut reply = String::new();
            stream.read_line(&mut reply).await.unwrap();
            (stream, reply)
        }
    }

    #[tokio::test]
    async fn output_arrives_and_then_its_end() {
        let guest = Guest::start();
        let (stdout, theirs) = nix::unistd::pipe().unwrap();
        let stdio = Stdio::Pipes { stdin: None, stdout: Some(stdout), stderr: None };
        guest.registry.announce("c", "", stdio).unwrap();
        let (mut stream, reply) = guest.open("stdio c - stdout\n").await;
        assert_eq!(reply, "ok\n");
        nix::unistd::write(&theirs, b"hello").unwrap();
        drop(theirs);
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
    }

    #[tokio::test]
    async fn the_end_of_an_input_stream_closes_stdin_after_its_bytes() {
        let guest = Guest::start();
        let (theirs, stdin) = nix::unistd::pipe().unwrap();
        let stdio = Stdio::Pipes { stdin: Some(stdin), stdout: None, stderr: None };
        guest.registry.announce("c", "e", stdio).unwrap();
        let (mut stream, reply) = guest.open("stdio c e stdin\nhi").await;
        assert_eq!(reply, "ok\n");
        stream.shutdown().await.unwrap();
        let theirs = Descriptor::new(theirs).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(theirs.read(&mut buffer).await.unwrap(), 2);
        assert_eq!(theirs.read(&mut buffer).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn deleting_a_process_ends_a_stream_whose_pipe_a_grandchild_holds() {
        let guest = Guest::start();
        let (stdout, _held_by_grandchild) = nix::unistd::pipe().unwrap();
        let stdio = Stdio::Pipes { stdin: None, stdout: Some(stdout), stderr: None };
        guest.registry.announce("c", "", stdio).unwrap();
        let (mut stream, _) = guest.open("stdio c - stdout\n").await;
        guest.registry.forget("c", "");
        let mut rest = Vec::new();
        assert_eq!(stream.read_to_end(&mut rest).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_forwarded_connection_reaches_a_server_on_loopback_and_half_closes() {
        let guest = Guest::start();
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let (mut stream, reply) = guest.open(&format!("forward {port}\n")).await;
        assert_eq!(reply, "ok\n");
        let (mut accepted, _) = server.accept().await.unwrap();
        stream.write_all(b"question").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut question = String::new();
        accepted.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        accepted.write_all(b"answer").await.unwrap();
        drop(accepted);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
    }

    #[tokio::test]
    async fn a_stream_of_an_unknown_process_is_refused_by_name() {
        let guest = Guest::start();
        let (_, reply) = guest.open("stdio nobody - stdout\n").await;
        assert_eq!(reply, "error process - of container nobody is not known\n");
    }

    #[tokio::test]
    async fn a_layer_that_nobody_wants_is_refused_by_its_digest() {
        let guest = Guest::start();
        let digest = coffer_protocol::Digest::of(b"x");
        let (_, reply) = guest.open(&format!("layer c {digest}\n")).await;
        assert_eq!(reply, format!("error layer {digest} is not wanted\n"));
    }

    #[tokio::test]
    async fn a_header_without_an_end_is_refused() {
        let guest = Guest::start();
        let (_, reply) = guest.open(&"x".repeat(MAX_HEADER)).await;
        assert!(reply.starts_with("error "), "{reply}");
    }
}
