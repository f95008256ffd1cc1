//! Brings the stream of a share and the call that adds its volume together, whichever comes first.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::VolumeError;

/// How long a share waits for its stream, and then for the server on it.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The most streams that may lie here with no volume for them.
const MAX_EARLY: usize = 64;

/// Streams that wait for their volume, and volumes that wait for their stream.
#[derive(Default)]
pub(super) struct Streams {
    waiting: Mutex<HashMap<String, Waiting>>,
}

enum Waiting {
    Stream(OwnedFd),
    Volume(oneshot::Sender<OwnedFd>),
}

impl Streams {
    /// Hands in the stream of the volume `id`.
    pub(super) fn offer(&self, id: &str, stream: OwnedFd) -> Result<(), VolumeError> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.remove(id) {
            // The volume may have stopped waiting just now; then the stream is dropped, as if it had come too late.
            Some(Waiting::Volume(sender)) => sender.send(stream).map_err(|_| late(id)),
            None if waiting.len() >= MAX_EARLY => Err(VolumeError::Unfit {
                id: id.to_owned(),
                reason: "too many streams wait for their volumes",
            }),
            // An earlier stream that no volume took is one whose volume was given up.
            None | Some(Waiting::Stream(_)) => {
                waiting.insert(id.to_owned(), Waiting::Stream(stream));
                Ok(())
            }
        }
    }

    /// The stream of the volume `id`, as soon as it is here.
    pub(super) async fn take(&self, id: &str) -> Result<OwnedFd, VolumeError> {
        let receiver = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(Waiting::Stream(stream)) = waiting.remove(id) {
                return Ok(stream);
            }
            let (sender, receiver) = oneshot::channel();
            waiting.insert(id.to_owned(), Waiting::Volume(sender));
            receiver
        };
        let outcome = tokio::time::timeout(PATIENCE, receiver).await;
        match outcome {
            Ok(Ok(stream)) => Ok(stream),
            _ => {
                self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
                Err(late(id))
            }
        }
    }
}

fn late(id: &str) -> VolumeError {
    VolumeError::Late { id: id.to_owned(), what: "stream", waited: PATIENCE }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> OwnedFd {
        std::os::unix::net::UnixStream::pair().unwrap().0.into()
    }

    #[tokio::test]
    async fn a_stream_that_came_first_waits_for_its_volume() {
        let streams = Streams::default();
        streams.offer("s", stream()).unwrap();
        assert!(streams.take("s").await.is_ok());
    }

    #[tokio::test]
    async fn a_volume_that_came_first_waits_for_its_stream() {
        let streams = Streams::default();
        let (taken, offered) = tokio::join!(streams.take("s"), async { streams.offer("s", stream()) });
        assert!(taken.is_ok() && offered.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_never_comes_is_not_awaited_for_ever() {
        assert!(matches!(Streams::default().take("s").await, Err(VolumeError::Late { what: "stream", .. })));
    }

    #[tokio::test]
    async fn a_second_stream_takes_the_place_of_one_that_was_given_up() {
        let streams = Streams::default();
        let (old, new) = (stream(), stream());
        let number = rustix::fs::fstat(&new).unwrap().st_ino;
        streams.offer("s", old).unwrap();
        streams.offer("s", new).unwrap();
        assert_eq!(rustix::fs::fstat(streams.take("s").await.unwrap()).unwrap().st_ino, number);
    }

    #[test]
    fn streams_without_volumes_do_not_pile_up() {
        let streams = Streams::default();
        let refused = (0..100).filter(|n| streams.offer(&n.to_string(), stream()).is_err()).count();
        assert_eq!(refused, 100 - MAX_EARLY);
    }
}
