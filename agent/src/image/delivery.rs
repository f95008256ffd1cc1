//! The layers of an admitted image on their way into the guest, as archives that the host sends.
//!
//! ```text
//! Delivery::new ── wanted ── begin, for each stream: is it wanted? whose turn is it? ── unpack, checked to its last byte
//!                            all there ── layers ── the overlay
//! ```
//! An archive that is not what it should be spoils the whole delivery: its container is not made, and no more is taken for it. One
//! that did not come to its end, or found no room, may be sent again.

use std::collections::{HashMap, HashSet};
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coffer_protocol::Digest;
use rustix::fs::fstatvfs;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::unpacked::{Room, Turn, UnpackedLayer, UnpackedLayers};
use crate::chain::Chain;
use crate::gate::Blob;
use coffer_layer::unpack::{Bound, Expected, Limits, UnpackError, unpack};

/// Archives that are unpacked at once, in the whole pod. Each takes a thread, and up to 32 MiB of memory for its window.
const AT_ONCE: usize = 2;
/// What unpacked layers leave free on scratch, unless this is more than an eighth of it.
const RESERVE: u64 = 16 << 20;

/// Why a layer cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeliveryError {
    /// No such layer, or not any more.
    #[error("layer {digest} is not wanted: it is none of the admitted image's, or is here")]
    NotWanted {
        /// Of the archive.
        digest: Digest,
    },
    /// Another stream brings it.
    #[error("layer {digest} is on its way already")]
    OnItsWay {
        /// Of the archive.
        digest: Digest,
    },
    /// The scratch is full.
    #[error("layer {digest} has more than the {free} bytes that are free on the pod's scratch")]
    Full {
        /// Of the archive.
        digest: Digest,
        /// Without what is kept free.
        free: u64,
    },
    /// No room for it.
    #[error("making a directory below {path}")]
    Room {
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// What came is not the layer.
    #[error("layer {digest}")]
    Unpack {
        /// Of the archive, as the image has it.
        digest: Digest,
        /// What is wrong.
        source: UnpackError,
    },
    /// It never came.
    #[error("layer {digest} of the admitted image was not sent")]
    Missing {
        /// Of the archive.
        digest: Digest,
    },
    /// It came and was refused.
    #[error("a layer of the admitted image was refused: {reason}")]
    Spoilt {
        /// Why.
        reason: String,
    },
}

impl DeliveryError {
    /// Whether it would be the same at another attempt: the layer is not what the image says.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Unpack { source, .. } => match source {
                UnpackError::Read { .. } | UnpackError::Write { .. } => false,
                // One that is too short was cut off on its way.
                UnpackError::Size { expected, found } => found > expected,
                _ => true,
            },
            Self::NotWanted { .. } | Self::Spoilt { .. } => true,
            Self::OnItsWay { .. } | Self::Full { .. } | Self::Room { .. } | Self::Missing { .. } => false,
        }
    }
}

/// Unpacks archives for all containers of the pod.
#[derive(Debug, Clone)]
pub(super) struct Unpacker {
    layers: UnpackedLayers,
    permits: Arc<Semaphore>,
}

impl Unpacker {
    pub(super) fn new(layers: UnpackedLayers) -> Self {
        Self { layers, permits: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

/// The layers of one container's image.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// Lowest first.
    blobs: Vec<Blob>,
    unpacker: Unpacker,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    here: HashMap<Digest, UnpackedLayer>,
    on_its_way: HashSet<Digest>,
    spoilt: Option<String>,
}

/// One archive that may be sent now.
#[derive(Debug)]
pub(crate) struct Unpacking {
    delivery: Arc<Delivery>,
    blob: Blob,
    turn: Turn,
    /// None for who does not unpack.
    _permit: Option<OwnedSemaphorePermit>,
    _mark: Mark,
}

/// An archive is on its way as long as this lives.
#[derive(Debug)]
struct Mark {
    delivery: Arc<Delivery>,
    digest: Digest,
}

impl Delivery {
    /// Layers that are here already are held at once.
    pub(super) fn new(blobs: Vec<Blob>, unpacker: Unpacker) -> Self {
        let held = |blob: &Blob| Some((*blob.digest(), unpacker.layers.held(blob)?));
        let here = blobs.iter().filter_map(held).collect();
        let state = State { here, ..State::default() };
        Self { blobs, unpacker, state: Mutex::new(state) }
    }

    /// Digests of the archives to be sent, lowest layer first.
    pub(crate) fn wanted(&self) -> Vec<Digest> {
        let state = self.lock();
        let mut seen = HashSet::new();
        let digests = self.blobs.iter().map(|blob| *blob.digest());
        digests.filter(|digest| !state.here.contains_key(digest) && seen.insert(*digest)).collect()
    }

    /// Lets an archive be sent, when it is its turn.
    pub(crate) async fn begin(self: Arc<Self>, digest: Digest) -> Result<Unpacking, DeliveryError> {
        let blob = self.blobs.iter().find(|blob| *blob.digest() == digest).cloned();
        let blob = blob.ok_or(DeliveryError::NotWanted { digest })?;
        let mark = self.mark(digest)?;
        let room = |source| DeliveryError::Room { path: self.unpacker.layers.directory(), source };
        let turn = self.unpacker.layers.turn(&blob).await.map_err(room)?;
        let permit = match &turn {
            Turn::There(_) => None,
            // Only now: who waits for another one's layer keeps nobody from unpacking. The semaphore is never closed.
            Turn::Mine(_) => self.unpacker.permits.clone().acquire_owned().await.ok(),
        };
        self.lock().sound()?;
        Ok(Unpacking { delivery: self, blob, turn, _permit: permit, _mark: mark })
    }

    fn mark(self: &Arc<Self>, digest: Digest) -> Result<Mark, DeliveryError> {
        let mut state = self.lock();
        state.sound()?;
        if state.here.contains_key(&digest) {
            return Err(DeliveryError::NotWanted { digest });
        }
        if !state.on_its_way.insert(digest) {
            return Err(DeliveryError::OnItsWay { digest });
        }
        Ok(Mark { delivery: self.clone(), digest })
    }

    /// Every layer, lowest first.
    pub(super) fn layers(&self) -> Result<Vec<UnpackedLayer>, DeliveryError> {
        let state = self.lock();
        state.sound()?;
        let layer = |blob: &Blob| {
            let digest = *blob.digest();
            state.here.get(&digest).cloned().ok_or(DeliveryError::Missing { digest })
        };
        self.blobs.iter().map(layer).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Nothing more is taken for a delivery that is spoilt.
    fn sound(&self) -> Result<(), DeliveryError> {
        match &self.spoilt {
            Some(reason) => Err(DeliveryError::Spoilt { reason: reason.clone() }),
            None => Ok(()),
        }
    }
}

impl Unpacking {
    /// Bytes of the archive.
    pub(crate) fn size(&self) -> u64 {
        self.blob.size()
    }

    /// Reads the archive to its end and unpacks it. Blocks.
    pub(crate) fn run(self, archive: impl Read) -> Result<(), DeliveryError> {
        let digest = *self.blob.digest();
        let layer = match self.turn {
            // Somebody else was quicker; what is sent all the same is for nobody.
            Turn::There(layer) => Ok(layer),
            Turn::Mine(room) => fill(room, &self.blob, archive),
        };
        let mut state = self.delivery.lock();
        match layer {
            Ok(layer) => {
                state.here.insert(digest, layer);
                Ok(())
            }
            Err(error) => {
                if error.is_final() {
                    state.spoilt = Some(Chain(&error).to_string());
                }
                Err(error)
            }
        }
    }
}

fn fill(room: Room, blob: &Blob, archive: impl Read) -> Result<UnpackedLayer, DeliveryError> {
    let refused = |source| DeliveryError::Room { path: room.path().to_owned(), source };
    let directory = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(room.path());
    let directory = directory.map_err(refused)?;
    let space = fstatvfs(&directory).map_err(|errno| refused(errno.into()))?;
    let reserve = RESERVE.min(space.f_blocks.saturating_mul(space.f_frsize) / 8);
    let free = space.f_bavail.saturating_mul(space.f_frsize).saturating_sub(reserve);
    let expected = Expected {
        digest: *blob.digest(),
        size: blob.size(),
        diff_id: *blob.diff_id(),
        media_type: blob.media_type().to_owned(),
    };
    let most = Limits::default();
    let limits = Limits { bytes: free.min(most.bytes), ..most };
    let unpacked = unpack(archive, &expected, directory.as_fd(), &limits);
    unpacked.map_err(|source| stopped(expected.digest, source, free))?;
    Ok(room.filled())
}

/// Who finds less room than any layer may have says nothing of the layer.
fn stopped(digest: Digest, source: UnpackError, free: u64) -> DeliveryError {
    match source {
        UnpackError::TooMuch { bound: Bound::Bytes, most, .. } if most < Limits::default().bytes => {
            DeliveryError::Full { digest, free }
        }
        source => DeliveryError::Unpack { digest, source },
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.delivery.lock().on_its_way.remove(&self.digest);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::gate::samples::{archive, blobs};
    use crate::image::trash::Trash;

    struct Bench {
        directory: tempfile::TempDir,
        unpacker: Unpacker,
    }

    impl Bench {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let trash = Trash::below(&directory.path().join("trash"));
            let unpacker = Unpacker::new(UnpackedLayers::below(&directory.path().join("u"), trash));
            Self { directory, unpacker }
        }

        fn delivery(&self, layers: &[&[u8]]) -> Arc<Delivery> {
            Arc::new(Delivery::new(blobs(layers), self.unpacker.clone()))
        }

        /// How many layers are there.
        fn count(&self) -> usize {
            fs::read_dir(self.directory.path().join("u")).map_or(0, Iterator::count)
        }
    }

    async fn send(delivery: &Arc<Delivery>, bytes: &[u8]) -> Result<(), DeliveryError> {
        delivery.clone().begin(Digest::of(bytes)).await?.run(bytes)
    }

    fn text(layer: &Path, path: &str) -> String {
        fs::read_to_string(layer.join(path)).unwrap()
    }

    #[tokio::test]
    async fn layers_are_there_when_all_have_come_lowest_first() {
        let bench = Bench::new();
        let (low, high) = (archive("name", "low"), archive("name", "high"));
        let delivery = bench.delivery(&[&low, &high]);
        assert_eq!(delivery.wanted(), [Digest::of(&low), Digest::of(&high)]);
        send(&delivery, &high).await.unwrap();
        assert!(
            matches!(delivery.layers(), Err(DeliveryError::Missing { digest }) if digest == Digest::of(&low))
        );
        send(&delivery, &low).await.unwrap();
        let layers = delivery.layers().unwrap();
        let texts: Vec<String> = layers.iter().map(|layer| text(layer.path(), "name")).collect();
        assert_eq!(texts, ["low", "high"]);
        assert!(matches!(send(&delivery, &low).await, Err(DeliveryError::NotWanted { .. })));
    }

    #[tokio::test]
    async fn a_layer_that_another_container_has_is_not_sent_again_and_goes_with_the_last() {
        let bench = Bench::new();
        let layer = archive("name", "x");
        let first = bench.delivery(&[&layer]);
        send(&first, &layer).await.unwrap();
        let second = bench.delivery(&[&layer]);
        assert_eq!(second.wanted(), []);
        drop(first);
        let held = second.layers().unwrap();
        drop(second);
        assert_eq!(text(held[0].path(), "name"), "x");
        drop(held);
        assert_eq!(bench.count(), 0);
    }

    #[tokio::test]
    async fn of_two_that_come_at_once_one_is_unpacked() {
        let bench = Bench::new();
        let layer = archive("name", "x");
        let (first, second) = (bench.delivery(&[&layer]), bench.delivery(&[&layer]));
        let unpacking = first.clone().begin(Digest::of(&layer)).await.unwrap();
        let waits = second.clone().begin(Digest::of(&layer));
        let unpacks = async { unpacking.run(layer.as_slice()) };
        let (waited, unpacked) = tokio::join!(waits, unpacks);
        unpacked.unwrap();
        // Nothing of what is sent is needed.
        waited.unwrap().run(io::empty()).unwrap();
        assert_eq!((second.layers().unwrap().len(), bench.count()), (1, 1));
    }

    #[tokio::test]
    async fn when_the_first_of_two_fails_the_other_ones_archive_is_taken() {
        let bench = Bench::new();
        let layer = archive("name", "x");
        let (first, second) = (bench.delivery(&[&layer]), bench.delivery(&[&layer]));
        let unpacking = first.clone().begin(Digest::of(&layer)).await.unwrap();
        let fails = async { unpacking.run(archive("name", "y").as_slice()) };
        let (waited, failed) = tokio::join!(second.clone().begin(Digest::of(&layer)), fails);
        assert!(failed.is_err());
        waited.unwrap().run(layer.as_slice()).unwrap();
        assert!(first.layers().is_err() && second.layers().is_ok());
    }

    #[tokio::test]
    async fn an_archive_that_is_another_one_spoils_the_delivery_and_leaves_nothing() {
        let bench = Bench::new();
        let layer = archive("name", "x");
        let delivery = bench.delivery(&[&layer]);
        let unpacking = delivery.clone().begin(Digest::of(&layer)).await.unwrap();
        let refused = unpacking.run(archive("name", "y").as_slice());
        assert!(matches!(refused, Err(DeliveryError::Unpack { source: UnpackError::Digest { .. }, .. })));
        assert!(matches!(delivery.layers(), Err(DeliveryError::Spoilt { .. })));
        assert_eq!(bench.count(), 0);
    }

    #[tokio::test]
    async fn what_no_admitted_image_has_is_not_wanted() {
        let bench = Bench::new();
        let delivery = bench.delivery(&[&archive("name", "x")]);
        let refused = send(&delivery, &archive("name", "y")).await;
        assert!(matches!(refused, Err(DeliveryError::NotWanted { .. })));
    }

    #[tokio::test]
    async fn an_archive_that_is_on_its_way_is_not_sent_beside_it() {
        let bench = Bench::new();
        let layer = archive("name", "x");
        let delivery = bench.delivery(&[&layer]);
        let unpacking = delivery.clone().begin(Digest::of(&layer)).await.unwrap();
        let beside = delivery.clone().begin(Digest::of(&layer)).await;
        assert!(matches!(&beside, Err(error @ DeliveryError::OnItsWay { .. }) if !error.is_final()));
        // A stream that never came to anything leaves it wanted.
        drop(unpacking);
        send(&delivery, &layer).await.unwrap();
    }

    #[tokio::test]
    async fn an_archive_that_was_cut_off_may_be_sent_again() {
        let bench = Bench::new();
        let layer = archive("name", "x");
        let delivery = bench.delivery(&[&layer]);
        for end in [0, 1, 512, 700, 1024, layer.len() - 1] {
            let unpacking = delivery.clone().begin(Digest::of(&layer)).await.unwrap();
            let error = unpacking.run(&layer[..end]).unwrap_err();
            assert!(!error.is_final(), "{end} of {}: {error:?}", layer.len());
            assert!(matches!(delivery.layers(), Err(DeliveryError::Missing { .. })));
        }
        send(&delivery, &layer).await.unwrap();
        assert_eq!((delivery.layers().unwrap().len(), bench.count()), (1, 1));
    }

    #[test]
    fn a_scratch_that_is_full_says_nothing_of_the_layer() {
        let (digest, most) = (Digest::of(b"x"), Limits::default().bytes);
        let too_much = |most, bound| UnpackError::TooMuch { bound, most, found: most + 1 };
        let full = stopped(digest, too_much(100, Bound::Bytes), 100);
        assert!(matches!(full, DeliveryError::Full { free: 100, .. }) && !full.is_final());
        assert!(stopped(digest, too_much(most, Bound::Bytes), most).is_final());
        assert!(stopped(digest, too_much(100, Bound::Entries), 100).is_final());
    }

    #[tokio::test]
    async fn nothing_more_is_taken_for_a_delivery_that_is_spoilt() {
        let bench = Bench::new();
        let (low, high) = (archive("name", "low"), archive("name", "high"));
        let delivery = bench.delivery(&[&low, &high]);
        let unpacking = delivery.clone().begin(Digest::of(&low)).await.unwrap();
        unpacking.run(archive("name", "other").as_slice()).unwrap_err();
        assert!(matches!(send(&delivery, &high).await, Err(DeliveryError::Spoilt { .. })));
    }

    #[tokio::test]
    async fn who_waits_for_a_layer_of_another_keeps_no_third_from_unpacking() {
        let bench = Bench::new();
        let (shared, own) = (archive("name", "shared"), archive("name", "own"));
        let first = bench.delivery(&[&shared]);
        let unpacking = first.clone().begin(Digest::of(&shared)).await.unwrap();
        let waiting: Vec<_> = (0..AT_ONCE).map(|_| bench.delivery(&[&shared])).collect();
        let mut waits: Vec<_> =
            waiting.iter().map(|each| Box::pin(each.clone().begin(Digest::of(&shared)))).collect();
        for wait in &mut waits {
            let polled = std::future::poll_fn(|context| std::task::Poll::Ready(wait.as_mut().poll(context)));
            assert!(polled.await.is_pending());
        }
        send(&bench.delivery(&[&own]), &own).await.unwrap();
        unpacking.run(shared.as_slice()).unwrap();
        for wait in waits {
            wait.await.unwrap().run(io::empty()).unwrap();
        }
    }
}
