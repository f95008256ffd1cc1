//! Takes a layer's archive from the host: two reply lines, one before its first byte and one after its last.
//!
//! ```text
//! header ── offer: wanted? whose turn? ── "ok" ── bytes, on a thread that may block ── "ok", or "error" and why
//!                                          encrypted: bytes ── "once more" ── bytes ── "ok", or "error" and why
//! ```
//! Every step has its end: the host is silent for a minute at most, all of it takes a quarter of an hour at most, and what is sent
//! after the last word is read for a few seconds.

use std::fs::File;
use std::future::Future;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coffer_layer::encrypted::Source;
use coffer_protocol::{AGAIN, Digest, ONCE_MORE, reply_error, reply_ok};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use tokio::time::timeout;

use super::serve::{StreamError, refuse};
use crate::descriptor::Descriptor;

/// How long the host may be silent in the middle of an archive.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one layer may take, from its header to its last byte.
const WHOLE: Duration = Duration::from_secs(15 * 60);
/// How long bytes are still read that nobody wants.
const DRAIN: Duration = Duration::from_secs(5);
/// What the socket is read by.
const CHUNK: usize = 64 * 1024;

/// What takes the bytes of a layer, once it is that one's turn; else why they are not taken.
pub(crate) type OfferLayer = Arc<dyn Fn(String, Digest) -> AwaitLayer + Send + Sync>;
/// See [`OfferLayer`].
pub(crate) type AwaitLayer = Pin<Box<dyn Future<Output = Result<TakeLayer, Refusal>> + Send>>;

/// Reads all bytes of a layer, or says why not. Blocks.
type Unpack = Box<dyn FnOnce(&mut dyn Source) -> Result<(), Refusal> + Send>;

/// Why a layer is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: String,
    /// Whether another attempt may end otherwise.
    pub(crate) again: bool,
}

impl Refusal {
    fn message(&self) -> String {
        format!("{}{}", if self.again { AGAIN } else { "" }, self.reason)
    }
}

/// Takes the bytes of one layer.
pub(crate) struct TakeLayer {
    /// How many are to come.
    pub(crate) size: u64,
    pub(crate) unpack: Unpack,
}

/// Serves one stream.
pub(super) async fn layer(
    connection: Descriptor,
    offer: &OfferLayer,
    container: String,
    digest: Digest,
) -> Result<(), StreamError> {
    let end = Instant::now() + WHOLE;
    let late =
        |_| Err(Refusal { reason: format!("its turn has not come for {} s", WHOLE.as_secs()), again: true });
    let taker = match timeout(WHOLE, offer(container, digest)).await.unwrap_or_else(late) {
        Ok(taker) => taker,
        Err(refusal) => {
            let error = StreamError::Layer { reason: refusal.message() };
            refuse(&connection, &error).await;
            return Err(error);
        }
    };
    let broke = |source| StreamError::Io { source };
    connection.write_all(reply_ok().as_bytes()).await.map_err(broke)?;
    let connection = connection.into_fd();
    let taken = tokio::task::spawn_blocking(move || take(connection, taker, end)).await;
    taken.map_err(|error| broke(io::Error::other(error)))?.map_err(broke)
}

fn take(connection: OwnedFd, taker: TakeLayer, end: Instant) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(&connection, FcntlArg::F_GETFL)?);
    fcntl(&connection, FcntlArg::F_SETFL(flags.difference(OFlag::O_NONBLOCK)))?;
    set_socket_timeout(&connection, Timeout::Send, Some(PATIENCE))?;
    let mut connection = File::from(connection);
    let archive = Until { connection: &connection, end };
    let archive = io::BufReader::with_capacity(CHUNK, archive);
    let unpacked = (taker.unpack)(&mut Sent { archive, connection: &connection });
    let reply = unpacked.map_or_else(|refusal| reply_error(&refusal.message()), |()| reply_ok());
    connection.write_all(reply.as_bytes())?;
    // The host may still be sending, and reads its answer when it has sent all.
    let mut rest = Until { connection: &connection, end: Instant::now() + DRAIN }.take(taker.size);
    let mut buffer = vec![0; CHUNK];
    while rest.read(&mut buffer)? > 0 {}
    Ok(())
}

/// What the host sends, and sends again if it is asked.
struct Sent<'a> {
    archive: io::BufReader<Until<'a>>,
    connection: &'a File,
}

impl Read for Sent<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.archive.read(buffer)
    }
}

impl Source for Sent<'_> {
    fn once_more(&mut self) -> io::Result<()> {
        self.connection.write_all(format!("{ONCE_MORE}\n").as_bytes())
    }
}

/// A connection that is read until a moment, and no longer than [`PATIENCE`] for its next bytes.
struct Until<'a> {
    connection: &'a File,
    end: Instant,
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        set_socket_timeout(self.connection, Timeout::Recv, Some(left.min(PATIENCE)))?;
        self.connection.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    const ARCHIVE: &[u8] = b"archive";

    fn another() -> Refusal {
        Refusal { reason: "it is another archive".to_owned(), again: false }
    }

    /// Takes `archive` and nothing else, for container `c`.
    fn offer() -> OfferLayer {
        Arc::new(|container, digest| {
            Box::pin(async move {
                if container != "c" {
                    let reason = format!("nobody admitted an image for {container}");
                    return Err(Refusal { reason, again: container == "busy" });
                }
                let twice = digest == Digest::of(b"twice");
                let unpack = move |archive: &mut dyn Source| {
                    let mut bytes = [0; ARCHIVE.len()];
                    let broke = |_| Refusal { reason: "it was cut off".to_owned(), again: true };
                    archive.read_exact(&mut bytes).map_err(broke)?;
                    if twice {
                        archive.once_more().map_err(broke)?;
                        archive.read_exact(&mut bytes).map_err(broke)?;
                    }
                    let more = archive.read(&mut [0]).map_err(broke)?;
                    let right = bytes == ARCHIVE && more == 0;
                    if right { Ok(()) } else { Err(another()) }
                };
                Ok(TakeLayer { size: 1 << 20, unpack: Box::new(unpack) })
            })
        })
    }

    /// What the guest answers, and how it ends, when the host sends these bytes.
    async fn sent(container: &str, bytes: &'static [u8]) -> (String, Result<(), StreamError>) {
        let (mut host, guest) = UnixStream::pair().unwrap();
        let guest = Descriptor::new(OwnedFd::from(guest)).unwrap();
        let host = tokio::task::spawn_blocking(move || {
            host.write_all(bytes).unwrap();
            host.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answers = String::new();
            host.read_to_string(&mut answers).unwrap();
            answers
        });
        let ended = layer(guest, &offer(), container.to_owned(), Digest::of(ARCHIVE)).await;
        (host.await.unwrap(), ended)
    }

    #[tokio::test]
    async fn an_archive_that_is_right_is_answered_twice() {
        let (answers, ended) = sent("c", ARCHIVE).await;
        assert_eq!(answers, "ok\nok\n");
        ended.unwrap();
    }

    #[tokio::test]
    async fn an_archive_that_is_wanted_once_more_is_asked_for_on_the_same_stream() {
        let (mut host, guest) = UnixStream::pair().unwrap();
        let guest = Descriptor::new(OwnedFd::from(guest)).unwrap();
        let host = tokio::task::spawn_blocking(move || {
            host.write_all(ARCHIVE).unwrap();
            let mut asked = [0; b"ok\nonce more\n".len()];
            host.read_exact(&mut asked).unwrap();
            host.write_all(ARCHIVE).unwrap();
            host.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            host.read_to_string(&mut answer).unwrap();
            (asked, answer)
        });
        layer(guest, &offer(), "c".to_owned(), Digest::of(b"twice")).await.unwrap();
        assert_eq!(host.await.unwrap(), (*b"ok\nonce more\n", "ok\n".to_owned()));
    }

    #[tokio::test]
    async fn an_archive_that_is_wrong_or_too_long_is_told_why() {
        assert_eq!(sent("c", b"brchive").await.0, "ok\nerror it is another archive\n");
        let (answers, _) = sent("c", &[b'a'; 900_000]).await;
        assert_eq!(answers, "ok\nerror it is another archive\n");
    }

    #[tokio::test]
    async fn an_archive_that_nobody_wants_is_not_read() {
        let (answers, ended) = sent("d", b"").await;
        assert_eq!(answers, "error nobody admitted an image for d\n");
        assert!(matches!(ended, Err(StreamError::Layer { .. })));
    }

    #[tokio::test]
    async fn a_failure_that_says_nothing_of_the_layer_asks_for_another_attempt() {
        assert_eq!(sent("c", b"arch").await.0, "ok\nerror again: it was cut off\n");
        assert_eq!(sent("busy", b"").await.0, "error again: nobody admitted an image for busy\n");
    }

    #[test]
    fn nothing_is_read_beyond_its_time_however_much_the_host_sends() {
        let (mut host, guest) = UnixStream::pair().unwrap();
        host.write_all(b"more").unwrap();
        let guest = File::from(OwnedFd::from(guest));
        let over = Until { connection: &guest, end: Instant::now() }.read(&mut [0; 4]);
        assert_eq!(over.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let in_time = Until { connection: &guest, end: Instant::now() + WHOLE }.read(&mut [0; 4]);
        assert_eq!(in_time.unwrap(), 4);
    }
}
