//! Lets in only who shows the pod's key first: its agent. Any process of the guest can connect to a port of the host, and the
//! host is not told which one did.

use std::time::Duration;

use coffer_protocol::HOST_KEY_BYTES;
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Connections that may have shown nothing yet, at once. Those that were let in do not count.
const MAX_WAITING: usize = 64;
/// How long the key may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the agent is told and containers are not.
#[derive(Clone, Copy)]
pub(super) struct HostKey(pub(super) [u8; HOST_KEY_BYTES]);

/// A port of the host.
pub(super) struct Door {
    listener: UnixListener,
    key: HostKey,
    waiting: JoinSet<Option<UnixStream>>,
}

impl Door {
    pub(super) fn new(listener: UnixListener, key: HostKey) -> Self {
        Self { listener, key, waiting: JoinSet::new() }
    }

    /// The next connection whose first bytes were the key. What follows them is not read yet. May be dropped at any time.
    pub(super) async fn next(&mut self) -> UnixStream {
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if self.waiting.len() < MAX_WAITING => match accepted {
                    Ok((stream, _)) => drop(self.waiting.spawn(admitted(stream, self.key))),
                    Err(error) => {
                        // Out of descriptors, for instance.
                        tracing::warn!(%error, "a connection of the guest is not accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(shown) = self.waiting.join_next() => match shown {
                    Ok(Some(stream)) => return stream,
                    _ => tracing::warn!("something in the guest that is not the agent asked for a port of the agent's"),
                },
            }
        }
    }
}

async fn admitted(mut stream: UnixStream, key: HostKey) -> Option<UnixStream> {
    let mut shown = [0; HOST_KEY_BYTES];
    timeout(PATIENCE, stream.read_exact(&mut shown)).await.ok()?.ok()?;
    // All of it is looked at: how long that takes says nothing.
    let differ = shown.iter().zip(key.0).fold(0, |differ, (shown, key)| differ | (shown ^ key));
    (differ == 0).then_some(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn only_who_shows_the_key_is_let_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut door = Door::new(UnixListener::bind(&path).unwrap(), HostKey([7; HOST_KEY_BYTES]));
        let mut other = UnixStream::connect(&path).await.unwrap();
        other.write_all(&[6; HOST_KEY_BYTES]).await.unwrap();
        let silent = UnixStream::connect(&path).await.unwrap();
        let mut agent = UnixStream::connect(&path).await.unwrap();
        agent.write_all(&[7; HOST_KEY_BYTES]).await.unwrap();
        agent.write_all(b"more").await.unwrap();
        let mut admitted = door.next().await;
        let mut more = [0; 4];
        admitted.read_exact(&mut more).await.unwrap();
        assert_eq!(&more, b"more");
        // Nothing but an end comes of the one with another key.
        assert_eq!(other.read(&mut more).await.unwrap_or(0), 0);
        drop(silent);
    }
}
