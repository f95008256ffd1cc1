//! The layers of an admitted image on their way into the guest, as archives that the host sends.
//!
//! ```text
//! Delivery::new ── wanted ── begin, for each stream: is it wanted? whose turn is it? ── unpack, checked to its last byte
//!                            all there ── layers ── the overlay
//! ```
//! An encrypted one needs its key when its turn has come, and comes twice: first it is authenticated, then decrypted.
//!
//! An archive that is not what it should be spoils the whole delivery: its container is not made, and no more is taken for it. One
//! that did not come to its end, or found no room, may be sent again.

use std::collections::{HashMap, HashSet};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coffer_attestation::handshake::ResourceName;
use coffer_layer::encrypted::{KeyError, LayerKey, PassError, Source};
use coffer_layer::unpack::{Bound, Content, Expected, Limits, UnpackError, unpack};
use coffer_protocol::Digest;
use rustix::fs::fstatvfs;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::unpacked::{Room, Turn, UnpackedLayer, UnpackedLayers};
use crate::attest::{AttestError, Fetched, Shown};
use crate::chain::Chain;
use crate::gate::Blob;

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
    /// No key: nobody to ask.
    #[error(
        "layer {digest} is encrypted under the key kbs:///{key}, and this guest has no verifier to ask for it: encrypted images run \
         beside a secure processor, with token_configs.kbs in the aa.toml of the pod's initdata"
    )]
    Unattested {
        /// Of the encrypted archive.
        digest: Digest,
        /// Of the key, without its scheme.
        key: String,
    },
    /// No key: it was not given.
    #[error("layer {digest} is encrypted, and there is no key kbs:///{key} for it")]
    Key {
        /// Of the encrypted archive.
        digest: Digest,
        /// Of the key, without its scheme.
        key: String,
        /// What the verifier said.
        source: Box<AttestError>,
    },
    /// It was given, and is not the right one.
    #[error("layer {digest} is encrypted, and its own key is not had with the key kbs:///{key}")]
    Unwrap {
        /// Of the encrypted archive.
        digest: Digest,
        /// Of the key, without its scheme.
        key: String,
        /// What is wrong.
        source: KeyError,
    },
    /// What came is not what the key was used for.
    #[error("encrypted layer {digest}")]
    Encrypted {
        /// Of the encrypted archive.
        digest: Digest,
        /// What is wrong.
        source: PassError,
    },
    /// Nobody says what should be in it.
    #[error(
        "encrypted layer {digest}: the image's configuration has a placeholder for it, and nothing says what it holds (its digest \
         was not wrapped with its key)"
    )]
    Unsaid {
        /// Of the encrypted archive.
        digest: Digest,
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
            Self::Key { source, .. } => !matches!(**source, AttestError::Unreachable { .. }),
            Self::Encrypted { source, .. } => !matches!(source, PassError::Read { .. }),
            Self::NotWanted { .. } | Self::Spoilt { .. } => true,
            Self::Unattested { .. } | Self::Unwrap { .. } | Self::Unsaid { .. } => true,
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
    /// That layers' own keys are wrapped under: each is asked for once while the guest shows the same images, and gone with this.
    keys: tokio::sync::Mutex<HashMap<ResourceName, Fetched>>,
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
    /// Of an encrypted one, once it is had.
    key: Option<LayerKey>,
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
        Self { blobs, unpacker, state: Mutex::new(state), keys: tokio::sync::Mutex::default() }
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
        Ok(Unpacking { delivery: self, blob, turn, key: None, _permit: permit, _mark: mark })
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

    /// What the key is called that an encrypted archive needs before it is [`run`](Self::run).
    pub(crate) fn locked(&self) -> Option<ResourceName> {
        let encryption = self.blob.encryption().filter(|_| matches!(self.turn, Turn::Mine(_)))?;
        Some(encryption.key.clone())
    }

    /// Why an encrypted archive cannot be unpacked in a guest that can ask nobody.
    pub(crate) fn unattested(&self, key: &ResourceName) -> DeliveryError {
        unattested(&self.blob, key)
    }

    /// Has the archive's own key unwrapped; `ask` gives the key that it is wrapped under, unless another layer's was wrapped under
    /// it, too. A key that was given for other images than are `shown` by now is asked for again.
    pub(crate) async fn unlocked<A: Future<Output = Result<Fetched, AttestError>>>(
        mut self,
        shown: &Shown,
        mut ask: impl FnMut(ResourceName) -> A,
    ) -> Result<Self, DeliveryError> {
        let (Some(encryption), digest) = (self.blob.encryption(), *self.blob.digest()) else {
            return Ok(self);
        };
        let name = &encryption.key;
        let key = || name.path().to_owned();
        let mut keys = self.delivery.keys.lock().await;
        // It ends: a guest shows a bounded number of images, and takes none back.
        while keys.get(name).is_none_or(|key| key.changes != shown.changes()) {
            keys.remove(name);
            let asked = ask(name.clone()).await;
            let asked = asked.map_err(|source| DeliveryError::Key {
                digest,
                key: key(),
                source: Box::new(source),
            })?;
            keys.insert(name.clone(), asked);
        }
        let wrapping = keys.get(name).map_or(&[][..], |key| key.value.as_slice());
        let opened = encryption.envelope.open(wrapping);
        if opened.is_err() {
            // Another attempt may be given another one.
            keys.remove(name);
        }
        drop(keys);
        self.key = Some(opened.map_err(|source| DeliveryError::Unwrap { digest, key: key(), source })?);
        Ok(self)
    }

    /// Reads the archive to its end and unpacks it. Blocks.
    pub(crate) fn run(self, archive: &mut impl Source) -> Result<(), DeliveryError> {
        let digest = *self.blob.digest();
        let layer = match self.turn {
            // Somebody else was quicker; what is sent all the same is for nobody.
            Turn::There(layer) => Ok(layer),
            Turn::Mine(room) => fill(room, &self.blob, self.key, archive),
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

fn fill(
    room: Room,
    blob: &Blob,
    key: Option<LayerKey>,
    archive: &mut impl Source,
) -> Result<UnpackedLayer, DeliveryError> {
    match (blob.encryption(), key) {
        (None, _) => fill_with(room, blob, blob.content(), archive),
        (Some(_), Some(key)) => decrypt(room, blob, key, archive),
        (Some(encryption), None) => Err(unattested(blob, &encryption.key)),
    }
}

fn unattested(blob: &Blob, key: &ResourceName) -> DeliveryError {
    DeliveryError::Unattested { digest: *blob.digest(), key: key.path().to_owned() }
}

/// Sees the blob whole, and only then takes anything of it, when it comes once more.
fn decrypt(
    room: Room,
    blob: &Blob,
    key: LayerKey,
    archive: &mut impl Source,
) -> Result<UnpackedLayer, DeliveryError> {
    let digest = *blob.digest();
    let refused = |source| DeliveryError::Encrypted { digest, source };
    let authentic = key.authenticate(archive, blob.size(), &digest).map_err(refused)?;
    let content = blob.decrypted(authentic.digest()).ok_or(DeliveryError::Unsaid { digest })?;
    let read = blob.size();
    archive.once_more().map_err(|source| refused(PassError::Read { read, source }))?;
    let mut plain = authentic.decrypt(archive);
    let filled = fill_with(room, blob, content, &mut plain);
    match plain.changed() {
        Some(changed) => Err(refused(changed)),
        None => filled,
    }
}

fn fill_with(
    room: Room,
    blob: &Blob,
    content: Content,
    archive: &mut impl io::Read,
) -> Result<UnpackedLayer, DeliveryError> {
    let digest = *blob.digest();
    let refused = |source| DeliveryError::Room { path: room.path().to_owned(), source };
    let directory = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(room.path());
    let directory = directory.map_err(refused)?;
    let space = fstatvfs(&directory).map_err(|errno| refused(errno.into()))?;
    let reserve = RESERVE.min(space.f_blocks.saturating_mul(space.f_frsize) / 8);
    let free = space.f_bavail.saturating_mul(space.f_frsize).saturating_sub(reserve);
    let expected = Expected { content, size: blob.size(), media_type: blob.media_type().to_owned() };
    let most = Limits::default();
    let limits = Limits { bytes: free.min(most.bytes), ..most };
    let unpacked = unpack(archive, &expected, directory.as_fd(), &limits);
    unpacked.map_err(|source| stopped(digest, source, free))?;
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
    use std::io::Cursor;
    use std::path::Path;

    use super::*;
    use crate::attest::sample_record;
    use zeroize::Zeroizing;

    use crate::gate::Claim;
    use crate::gate::samples::{
        KEY, Keyless, WRAPPING_KEY, admitted_blobs, archive, blobs, encrypted_blobs, encrypted_image,
    };
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
        delivery.clone().begin(Digest::of(bytes)).await?.run(&mut Cursor::new(bytes))
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
        let unpacks = async { unpacking.run(&mut Cursor::new(&layer)) };
        let (waited, unpacked) = tokio::join!(waits, unpacks);
        unpacked.unwrap();
        // Nothing of what is sent is needed.
        waited.unwrap().run(&mut Cursor::new([])).unwrap();
        assert_eq!((second.layers().unwrap().len(), bench.count()), (1, 1));
    }

    #[tokio::test]
    async fn when_the_first_of_two_fails_the_other_ones_archive_is_taken() {
        let bench = Bench::new();
        let layer = archive("name", "x");
        let (first, second) = (bench.delivery(&[&layer]), bench.delivery(&[&layer]));
        let unpacking = first.clone().begin(Digest::of(&layer)).await.unwrap();
        let fails = async { unpacking.run(&mut Cursor::new(archive("name", "y"))) };
        let (waited, failed) = tokio::join!(second.clone().begin(Digest::of(&layer)), fails);
        assert!(failed.is_err());
        waited.unwrap().run(&mut Cursor::new(&layer)).unwrap();
        assert!(first.layers().is_err() && second.layers().is_ok());
    }

    #[tokio::test]
    async fn an_archive_that_is_another_one_spoils_the_delivery_and_leaves_nothing() {
        let bench = Bench::new();
        let layer = archive("name", "x");
        let delivery = bench.delivery(&[&layer]);
        let unpacking = delivery.clone().begin(Digest::of(&layer)).await.unwrap();
        let refused = unpacking.run(&mut Cursor::new(archive("name", "y")));
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
            let error = unpacking.run(&mut Cursor::new(&layer[..end])).unwrap_err();
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
        unpacking.run(&mut Cursor::new(archive("name", "other"))).unwrap_err();
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
        unpacking.run(&mut Cursor::new(&shared)).unwrap();
        for wait in waits {
            wait.await.unwrap().run(&mut Cursor::new([])).unwrap();
        }
    }

    type Asked = Result<Fetched, AttestError>;

    async fn right(key: ResourceName) -> Asked {
        assert_eq!(key.path(), "acme/image-kek/web");
        Ok(given(&WRAPPING_KEY, 0))
    }

    fn given(key: &[u8], changes: u64) -> Fetched {
        Fetched { value: Zeroizing::new(key.to_vec()), changes }
    }

    /// An archive that may be sent now, with its key.
    async fn unlocked(delivery: &Arc<Delivery>, blob: &[u8]) -> Result<Unpacking, DeliveryError> {
        let unpacking = delivery.clone().begin(Digest::of(blob)).await?;
        assert!(unpacking.locked().is_some());
        unpacking.unlocked(&Shown::default(), right).await
    }

    fn encrypted(bench: &Bench, layers: &[&[u8]], keyless: Keyless) -> (Arc<Delivery>, Vec<Vec<u8>>) {
        let (blobs, bytes) = encrypted_blobs(layers, keyless);
        (Arc::new(Delivery::new(blobs, bench.unpacker.clone())), bytes)
    }

    #[tokio::test]
    async fn an_encrypted_layer_is_unpacked_with_its_key_whatever_nodes_unpack_in_its_place() {
        for keyless in [Keyless::True, Keyless::Placeholder] {
            let bench = Bench::new();
            let (delivery, blobs) = encrypted(&bench, &[&archive("name", "secret")], keyless);
            let unpacking = unlocked(&delivery, &blobs[0]).await.unwrap();
            unpacking.run(&mut Cursor::new(&blobs[0])).unwrap();
            assert_eq!(text(delivery.layers().unwrap()[0].path(), "name"), "secret");
        }
    }

    #[tokio::test]
    async fn the_key_of_several_layers_is_asked_for_once() {
        let bench = Bench::new();
        let layers = [archive("name", "low"), archive("name", "high")];
        let (delivery, blobs) = encrypted(&bench, &[&layers[0], &layers[1]], Keyless::Placeholder);
        drop(unlocked(&delivery, &blobs[0]).await.unwrap());
        let other = delivery.clone().begin(Digest::of(&blobs[1])).await.unwrap();
        async fn never(_: ResourceName) -> Asked {
            panic!("asked again")
        }
        other.unlocked(&Shown::default(), never).await.unwrap().run(&mut Cursor::new(&blobs[1])).unwrap();
    }

    #[tokio::test]
    async fn a_key_that_was_given_for_other_images_is_asked_for_again() {
        let bench = Bench::new();
        let layers = [archive("name", "low"), archive("name", "high")];
        let (delivery, blobs) = encrypted(&bench, &[&layers[0], &layers[1]], Keyless::Placeholder);
        drop(unlocked(&delivery, &blobs[0]).await.unwrap());
        let shown = Shown::default();
        shown.note(sample_record("another")).unwrap();
        let begin = || delivery.clone().begin(Digest::of(&blobs[1]));
        let no = |_| {
            let (what, reason) = ("the key".to_owned(), "not beside another".to_owned());
            std::future::ready(Err(AttestError::Refused { what, status: 403, reason }))
        };
        let refused = begin().await.unwrap().unlocked(&shown, no).await.unwrap_err();
        assert!(matches!(refused, DeliveryError::Key { .. }), "{refused:?}");
        // One is admitted while the key is on its way: it was given for those before.
        let mut asked = 0;
        let late = |_| {
            asked += 1;
            let changes = shown.changes();
            if asked == 1 {
                shown.note(sample_record("a third")).unwrap();
            }
            std::future::ready(Ok(given(&WRAPPING_KEY, changes)))
        };
        begin()
            .await
            .unwrap()
            .unlocked(&shown, late)
            .await
            .unwrap()
            .run(&mut Cursor::new(&blobs[1]))
            .unwrap();
        assert_eq!(asked, 2);
    }

    #[tokio::test]
    async fn a_decrypted_layer_is_for_containers_of_its_own_image_alone() {
        let bench = Bench::new();
        let (claim, bytes) = encrypted_image(&[&archive("name", "secret")], KEY, Keyless::Placeholder);
        let delivery = |reference: &str| {
            let claim = Claim { reference: reference.to_owned(), ..claim.clone() };
            Arc::new(Delivery::new(admitted_blobs(claim), bench.unpacker.clone()))
        };
        let digest = Digest::of(&bytes[0]);
        let first = delivery("r.example.com/acme/app:v1");
        let unpacking = unlocked(&first, &bytes[0]).await.unwrap();
        // Nobody else's turn waits for it while it arrives, and nobody else has it when it is there.
        drop(unlocked(&delivery("r.example.com/other/app:v1"), &bytes[0]).await.unwrap());
        unpacking.run(&mut Cursor::new(&bytes[0])).unwrap();
        assert_eq!(delivery("r.example.com/acme/app:v1").wanted(), []);
        let other = delivery("r.example.com/other/app:v1");
        assert_eq!(other.wanted(), [digest]);
        let keyless = other.clone().begin(digest).await.unwrap().run(&mut Cursor::new(&bytes[0]));
        assert!(matches!(keyless, Err(DeliveryError::Unattested { .. })), "{keyless:?}");
    }

    #[tokio::test]
    async fn without_its_key_nothing_of_an_encrypted_layer_is_taken() {
        let bench = Bench::new();
        let (delivery, blobs) = encrypted(&bench, &[&archive("name", "secret")], Keyless::Placeholder);
        let begin = || delivery.clone().begin(Digest::of(&blobs[0]));
        let keyless = begin().await.unwrap().run(&mut Cursor::new(&blobs[0])).unwrap_err();
        assert!(keyless.to_string().contains("kbs:///acme/image-kek/web"), "{keyless}");
        assert!(matches!(keyless, DeliveryError::Unattested { .. }) && bench.count() == 0);
    }

    #[tokio::test]
    async fn a_verifiers_refusal_is_told_and_its_silence_may_pass() {
        let bench = Bench::new();
        let (delivery, blobs) = encrypted(&bench, &[&archive("name", "secret")], Keyless::Placeholder);
        let with = async |asked: Asked| {
            let unpacking = delivery.clone().begin(Digest::of(&blobs[0])).await.unwrap();
            let mut asked = Some(asked);
            let once = |_| std::future::ready(asked.take().unwrap());
            unpacking.unlocked(&Shown::default(), once).await.unwrap_err()
        };
        let reason = "no policy releases it".to_owned();
        let no = AttestError::Refused { what: "the secret a/b/c".to_owned(), status: 403, reason };
        let refused = with(Err(no)).await;
        assert!(refused.is_final() && Chain(&refused).to_string().contains("no policy releases it"));
        let (verifier, reason) = ("v".to_owned(), "down".to_owned());
        assert!(!with(Err(AttestError::Unreachable { verifier, reason })).await.is_final());
        let another = with(Ok(given(&[8; 32], 0))).await;
        assert!(matches!(another, DeliveryError::Unwrap { source: KeyError::Another, .. }));
        assert!(matches!(delivery.layers(), Err(DeliveryError::Missing { .. })));
        unlocked(&delivery, &blobs[0]).await.unwrap().run(&mut Cursor::new(&blobs[0])).unwrap();
    }

    /// Gives other bytes the second time.
    struct Liar {
        first: Cursor<Vec<u8>>,
        second: Vec<u8>,
    }

    impl io::Read for Liar {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.first.read(buffer)
        }
    }

    impl Source for Liar {
        fn once_more(&mut self) -> io::Result<()> {
            self.first = Cursor::new(std::mem::take(&mut self.second));
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_node_that_sends_other_bytes_the_first_or_the_second_time_is_refused_and_nothing_is_left() {
        let layer = archive("name", "secret");
        for (first, second) in [(true, false), (false, true)] {
            let bench = Bench::new();
            let (delivery, blobs) = encrypted(&bench, &[&layer], Keyless::Placeholder);
            let flipped = |flip: bool| {
                let mut blob = blobs[0].clone();
                blob[600] ^= u8::from(flip);
                blob
            };
            let unpacking = unlocked(&delivery, &blobs[0]).await.unwrap();
            let mut liar = Liar { first: Cursor::new(flipped(first)), second: flipped(second) };
            let refused = unpacking.run(&mut liar).unwrap_err();
            assert!(matches!(&refused, DeliveryError::Encrypted { .. }) && refused.is_final(), "{refused:?}");
            assert!(matches!(delivery.layers(), Err(DeliveryError::Spoilt { .. })) && bench.count() == 0);
        }
    }
}
