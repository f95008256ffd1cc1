//! Passes TLS between a guest and the node's verifier: whole records, in both directions, and nothing that is none.
//!
//! The host cannot read what is in them, and cannot make the guest believe another verifier, as the guest knows the authority
//! that the verifier's certificate comes from. It can refuse to pass anything on.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::door::Door;

/// Connections of one guest at once.
const MAX_CONNECTIONS: usize = 8;
/// How long the verifier may take to take a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// Types of records (RFC 8446, section 5.1): change_cipher_spec, alert, handshake, application_data.
const TYPES: std::ops::RangeInclusive<u8> = 20..=23;
/// The longest record: 2^14 bytes and what encryption adds (RFC 8446, section 5.2).
const MAX_RECORD: u16 = (1 << 14) + 256;

/// Serves the guest behind `door` with the verifier at `address`.
pub(super) async fn serve(mut door: Door, address: Arc<str>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            guest = door.next(), if connections.len() < MAX_CONNECTIONS => {
                connections.spawn(pass(guest, address.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn pass(guest: UnixStream, address: Arc<str>) {
    let verifier = match timeout(CONNECT, TcpStream::connect(&*address)).await {
        Ok(Ok(verifier)) => verifier,
        Ok(Err(error)) => {
            return tracing::warn!(%error, verifier = &*address, "the verifier cannot be reached");
        }
        Err(_) => return tracing::warn!(verifier = &*address, "the verifier does not answer"),
    };
    let (mut from_guest, mut to_guest) = guest.into_split();
    let (mut from_verifier, mut to_verifier) = verifier.into_split();
    let ended = tokio::try_join!(
        records(&mut from_guest, &mut to_verifier),
        records(&mut from_verifier, &mut to_guest),
    );
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the verifier ended");
    }
}

/// Copies records until the end of the stream, which is passed on.
async fn records(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut content = vec![0; usize::from(MAX_RECORD)];
    loop {
        let Some(header) = timeout(SILENCE, header(from)).await?? else {
            return to.shutdown().await;
        };
        let [kind, major, _, high, low] = header;
        let length = u16::from_be_bytes([high, low]);
        if !TYPES.contains(&kind) || major != 3 || length > MAX_RECORD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "what was sent is not TLS"));
        }
        let content = content.get_mut(..usize::from(length)).unwrap_or_default();
        timeout(SILENCE, from.read_exact(content)).await??;
        timeout(SILENCE, async {
            to.write_all(&header).await?;
            to.write_all(content).await
        })
        .await??;
    }
}

/// The next record's header; nothing at the end of the stream.
async fn header(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<[u8; 5]>> {
    let mut header = [0; 5];
    let (first, rest) = header.split_at_mut(1);
    if from.read(first).await? == 0 {
        return Ok(None);
    }
    from.read_exact(rest).await?;
    Ok(Some(header))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn passed(sent: &[u8]) -> (Vec<u8>, bool) {
        let mut to = Vec::new();
        let passed = records(&mut &sent[..], &mut to).await;
        (to, passed.is_ok())
    }

    #[tokio::test]
    async fn records_are_passed_on_as_they_came() {
        let sent = [22, 3, 1, 0, 2, 7, 8, 23, 3, 3, 0, 1, 9];
        assert_eq!(passed(&sent).await, (sent.to_vec(), true));
    }

    #[tokio::test]
    async fn plain_text_is_not_passed_on() {
        assert_eq!(passed(b"GET / HTTP/1.1\r\n\r\n").await, (Vec::new(), false));
        assert_eq!(
            passed(&[22, 3, 1, 0, 0, b'G', b'E', b'T', b' ', b'/']).await,
            (vec![22, 3, 1, 0, 0], false)
        );
    }

    #[tokio::test]
    async fn a_record_longer_than_any_is_not_passed_on() {
        let sent = [&[23, 3, 3, 0x41, 1][..], &[0; 0x4101]].concat();
        assert_eq!(passed(&sent).await, (Vec::new(), false));
    }

    #[tokio::test]
    async fn half_a_record_is_not_passed_on() {
        assert_eq!(passed(&[22, 3, 1, 0, 2, 7]).await, (Vec::new(), false));
    }
}
