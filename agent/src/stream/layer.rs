//! Takes a layer's archive from the host: two reply lines, one before its first byte and one after its last.
//!
//! ```text
//! header ── offer: wanted? whose turn? ── "ok" ── bytes, on a thread that may block ── "ok", or "error" and why
//! ```

use std::fs::File;
use std::future::Future;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use coffer_protocol::{Digest, reply_error, reply_ok};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::serve::{StreamError, refuse};
use crate::descriptor::Descriptor;

/// How long the host may be silent in the middle of an archive.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the socket is read by.
const CHUNK: usize = 64 * 1024;

/// What takes the bytes of a layer, once it is that one's turn; else why they are not taken.
pub(crate) type OfferLayer = Arc<dyn Fn(String, Digest) -> AwaitLayer + Send + Sync>;
/// See [`OfferLayer`].
pub(crate) type AwaitLayer = Pin<Box<dyn Future<Output = Result<TakeLayer, String>> + Send>>;

/// Reads all bytes of a layer, or says why not. Blocks.
type Unpack = Box<dyn FnOnce(&mut dyn Read) -> Result<(), String> + Send>;

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
    let taker = match offer(container, digest).await {
        Ok(taker) => taker,
        Err(reason) => {
            let error = StreamError::Layer { reason };
            refuse(&connection, &error).await;
            return Err(error);
        }
    };
    let broke = |source| StreamError::Io { source };
    connection.write_all(reply_ok().as_bytes()).await.map_err(broke)?;
    let connection = connection.into_fd();
    let taken = tokio::task::spawn_blocking(move || take(connection, taker)).await;
    taken.map_err(|error| broke(io::Error::other(error)))?.map_err(broke)
}

fn take(connection: OwnedFd, taker: TakeLayer) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(&connection, FcntlArg::F_GETFL)?);
    fcntl(&connection, FcntlArg::F_SETFL(flags.difference(OFlag::O_NONBLOCK)))?;
    for direction in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(&connection, direction, Some(PATIENCE))?;
    }
    let mut connection = File::from(connection);
    let unpacked = (taker.unpack)(&mut io::BufReader::with_capacity(CHUNK, &connection));
    let reply = unpacked.map_or_else(|reason| reply_error(&reason), |()| reply_ok());
    connection.write_all(reply.as_bytes())?;
    // The host may still be sending, and reads its answer when it has sent all.
    let mut rest = (&connection).take(taker.size);
    let mut buffer = vec![0; CHUNK];
    while rest.read(&mut buffer)? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    const ARCHIVE: &[u8] = b"archive";

    /// Takes `archive` and nothing else, for container `c`.
    fn offer() -> OfferLayer {
        Arc::new(|container, _| {
            Box::pin(async move {
                if container != "c" {
                    return Err(format!("nobody admitted an image for {container}"));
                }
                let unpack = |archive: &mut dyn Read| {
                    let mut bytes = [0; ARCHIVE.len()];
                    archive.read_exact(&mut bytes).map_err(|error| error.to_string())?;
                    let more = archive.read(&mut [0]).map_err(|error| error.to_string())?;
                    let right = bytes == ARCHIVE && more == 0;
                    if right { Ok(()) } else { Err("it is another archive".to_owned()) }
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
}
