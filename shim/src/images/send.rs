//! Streams an image's blobs from containerd to the guest, which holds them against the signed digests while it unpacks them.
//!
//! ```text
//! containerd ── ReadContent ── stream `layer` ── "ok", the blob's bytes, half-close ── second line: what became of them
//! ```
//! An encrypted one goes twice over its stream, if the guest asks for it once more: it is authentic only as a whole.
//!
//! At most [`AT_ONCE`] at a time. What is under way ends when the future is dropped: nothing outlives it.

use std::error::Error;
use std::time::Duration;

use coffer_image::artefact::{Descriptor, Digest};
use coffer_layer::encrypted::decrypted_type;
use coffer_protocol::{AGAIN, MAX_LINE, StreamHeader, StreamHeaderError, parse_once_more, parse_reply};
use futures::{StreamExt, TryFutureExt, TryStreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::containerd::{Blob, Containerd, ContainerdError};
use super::gate::Gate;
use super::said::Said;
use super::{BoxError, ImageError, Streams};

/// Blobs that are streamed at once.
const AT_ONCE: usize = 2;

/// How long the guest may take for the next piece, and for its last word. It writes what it unpacks, under software emulation
/// slowly.
const PIECE_LIMIT: Duration = Duration::from_secs(60);
const LAST_LIMIT: Duration = Duration::from_secs(120);

/// How long the whole image may take.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// Why a blob did not reach the guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// containerd's part.
    #[error("it cannot be read")]
    Read(#[source] ContainerdError),
    /// The stream.
    #[error("the guest takes no stream for it")]
    Open(#[source] BoxError),
    /// The stream broke.
    #[error("its stream to the guest broke")]
    Broken(#[source] std::io::Error),
    /// More or fewer bytes than the manifest says.
    #[error("containerd has {found} bytes of it, the manifest says {expected}")]
    Length {
        /// Bytes that there are, as far as they were read.
        found: u64,
        /// Bytes that there should be.
        expected: u64,
    },
    /// The guest says no.
    #[error("the guest refuses it: {0}")]
    Refused(String),
    /// The guest could not take it, and says nothing against it.
    #[error("the guest could not take it: {0}")]
    Untaken(String),
    /// Too slow.
    #[error("the guest did not {doing} within {} s", limit.as_secs())]
    Late {
        /// What.
        doing: &'static str,
        /// The limit.
        limit: Duration,
    },
}

impl Gate {
    /// Sends the blobs `wanted` of an image to the container `id`.
    ///
    /// # Errors
    /// [`ImageError`]: the first failure ends the others.
    pub(crate) async fn send(
        &self,
        id: &str,
        said: &Said,
        wanted: &[Digest],
        streams: &dyn Streams,
    ) -> Result<(), ImageError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let containerd = self.connect().await?;
        let mut each = Vec::with_capacity(wanted.len());
        for digest in wanted {
            let Some(layer) = said.layer(digest) else { continue };
            let sent = send_one(containerd.clone(), id, layer, streams);
            each.push(sent.map_err(|source| ImageError::Send { digest: *digest, source }));
        }
        let all = futures::stream::iter(each).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>();
        let late = |_| ImageError::Late { name: said.reference().to_owned(), limit: LIMIT };
        timeout(LIMIT, all).await.map_err(late)?.map(drop)
    }
}

/// Sends one blob.
pub(super) async fn send_one(
    containerd: Containerd,
    id: &str,
    layer: &Descriptor,
    streams: &dyn Streams,
) -> Result<(), SendError> {
    let blob = async || containerd.blob(&layer.digest, "a layer").await.map_err(SendError::Read);
    let first = blob().await?;
    let header = StreamHeader::Layer { container: id.to_owned(), digest: layer.digest.to_string() };
    let mut stream = streams.open(&header).await.map_err(unopened)?;
    if decrypted_type(&layer.media_type).is_none() {
        return carry(first, layer.size, &mut stream).await;
    }
    match carry_whole(first, layer.size, &mut stream).await? {
        Seen::Enough => Ok(()),
        Seen::OnceMore => carry(blob().await?, layer.size, &mut stream).await,
    }
}

/// What the guest says when it has seen all of an encrypted blob.
enum Seen {
    /// It has the layer.
    Enough,
    /// It is authentic, and wanted once more.
    OnceMore,
}

/// Carries an encrypted blob for the first time, and leaves the stream open behind it.
async fn carry_whole(blob: Blob, expected: u64, stream: &mut UnixStream) -> Result<Seen, SendError> {
    let (mut answer, mut sink) = stream.split();
    let line = line_after(write_all(blob, expected, &mut sink), &mut answer).await?;
    match parse_once_more(&line) {
        Ok(true) => Ok(Seen::OnceMore),
        Ok(false) => Ok(Seen::Enough),
        Err(refused) => Err(no(refused)),
    }
}

/// Carries a blob over a stream that the guest has accepted, and hears what became of it.
async fn carry(blob: Blob, expected: u64, stream: &mut UnixStream) -> Result<(), SendError> {
    let (mut answer, mut sink) = stream.split();
    let written = async {
        write_all(blob, expected, &mut sink).await?;
        sink.shutdown().await.map_err(SendError::Broken)
    };
    let line = line_after(written, &mut answer).await?;
    parse_reply(&line).map_err(no)
}

/// Writes a blob of `expected` bytes.
async fn write_all(
    mut blob: Blob,
    expected: u64,
    sink: &mut (impl AsyncWrite + Unpin),
) -> Result<(), SendError> {
    let mut found: u64 = 0;
    while let Some(piece) = blob.next().await.map_err(SendError::Read)? {
        found = found.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        if found > expected {
            return Err(SendError::Length { found, expected });
        }
        let taken = timeout(PIECE_LIMIT, sink.write_all(&piece)).await;
        let late = |_| SendError::Late { doing: "take the next bytes", limit: PIECE_LIMIT };
        taken.map_err(late)?.map_err(SendError::Broken)?;
    }
    if found != expected {
        return Err(SendError::Length { found, expected });
    }
    Ok(())
}

/// The guest's next line, once all is written, or before: a guest that has seen enough says so before it has seen all, and hangs
/// up.
async fn line_after(
    written: impl Future<Output = Result<(), SendError>>,
    answer: &mut (impl AsyncRead + Unpin),
) -> Result<String, SendError> {
    let mut line = std::pin::pin!(line(answer));
    let written = tokio::select! {
        biased;
        said = &mut line => return said,
        written = written => written,
    };
    match written {
        Ok(()) => {
            let late = |_| SendError::Late { doing: "say what became of it", limit: LAST_LIMIT };
            timeout(LAST_LIMIT, line).await.map_err(late)?
        }
        Err(SendError::Broken(source)) => match timeout(PIECE_LIMIT, line).await {
            Ok(Ok(said)) if parse_reply(&said).is_err() => Ok(said),
            _ => Err(SendError::Broken(source)),
        },
        Err(other) => Err(other),
    }
}

async fn line(answer: &mut (impl AsyncRead + Unpin)) -> Result<String, SendError> {
    let mut line = Vec::with_capacity(8);
    loop {
        match answer.read_u8().await.map_err(SendError::Broken)? {
            b'\n' => break,
            byte => line.push(byte),
        }
        if line.len() > MAX_LINE {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// A guest may have something against a layer before its first byte: that it has no key for it.
fn unopened(error: BoxError) -> SendError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&*error);
    while let Some(found) = cause {
        let inner = found.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(refused) = inner.and_then(|inner| inner.downcast_ref::<StreamHeaderError>()) {
            return no(refused.clone());
        }
        cause = found.source();
    }
    SendError::Open(error)
}

fn no(refused: StreamHeaderError) -> SendError {
    match refused {
        StreamHeaderError::Refused { message } => match message.strip_prefix(AGAIN) {
            Some(why) => SendError::Untaken(why.to_owned()),
            None => SendError::Refused(message),
        },
        other => SendError::Refused(other.to_string()),
    }
}
