//! The pod's volumes by their ids.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use coffer_protocol::agent::{SyncVolumeRequest, Volume};
use coffer_protocol::{MAX_READ_BACK, SHM_VOLUME};
use rustix::fs::{CWD, OFlags};
use tokio::sync::Mutex as AsyncMutex;

use super::inside::{make_missing, open_inside, path_text, read_end};
use super::live::{Content, Device, Live, Places, blocking};
use super::path::{RelPath, check_id, parse_source};
use super::remove::open_dir;
use super::{VolumeError, mounts};

/// Where a mount's source lies: `path` (relative, possibly empty) is to be resolved within `root` when it is mounted,
/// so that nothing a container does meanwhile can lead outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) root: PathBuf,
    pub(crate) path: PathBuf,
    /// Set when it is the node of a block device, which the container must be allowed to use.
    pub(crate) device: Option<Device>,
}

/// All volumes of the pod; a cheap clone.
#[derive(Clone)]
pub(crate) struct Volumes {
    shared: Arc<Shared>,
}

struct Shared {
    places: Places,
    slots: Mutex<HashMap<String, Slot>>,
}

/// `None` while a volume is being added, and when that failed.
type Slot = Arc<AsyncMutex<Option<Live>>>;

impl Volumes {
    /// No volumes yet; `base` and `scratch` are made when first needed.
    pub(crate) fn new(base: PathBuf, scratch: PathBuf) -> Volumes {
        let shared = Shared { places: Places::new(base, scratch), slots: Mutex::default() };
        Volumes { shared: Arc::new(shared) }
    }

    /// Makes the pod's `/dev/shm`, which the sandbox mounted at `root`, known as the volume `shm`.
    pub(crate) fn register_shm(&self, root: PathBuf) -> Result<(), VolumeError> {
        let slot = Arc::new(AsyncMutex::new(Some(Live { root, content: Content::Shm })));
        self.reserve(SHM_VOLUME, slot)
    }

    /// Adds a volume. A share waits for its stream, a disk for its device; both within a deadline.
    pub(crate) async fn add(&self, volume: Volume) -> Result<(), VolumeError> {
        let id = check_id(&volume.id)?.to_owned();
        let slot = Slot::default();
        let held = Arc::clone(&slot).lock_owned().await;
        self.reserve(&id, slot)?;
        let this = self.clone();
        // A task of its own, so that a caller who goes away cannot leave a mount that nobody knows of.
        let task = tokio::spawn(async move {
            let mut held = held;
            match this.shared.places.make(&volume).await {
                Ok(live) => {
                    *held = Some(live);
                    Ok(())
                }
                Err(error) => {
                    this.slots().remove(&volume.id);
                    Err(error)
                }
            }
        });
        task.await.map_err(|gone| VolumeError::Io { id, action: "add", source: gone.into() })?
    }

    /// Removes a volume; containers that still have it mounted keep what they see.
    pub(crate) async fn remove(&self, id: &str) -> Result<(), VolumeError> {
        let slot = self.slot(id)?;
        let mut held = slot.lock_owned().await;
        let Some(live) = held.take() else {
            return Err(VolumeError::Unknown { id: id.to_owned() });
        };
        if matches!(live.content, Content::Shm) {
            *held = Some(live);
            return Err(VolumeError::Unfit { id: id.to_owned(), reason: "it lives as long as the pod" });
        }
        let (this, name) = (self.clone(), id.to_owned());
        let task = tokio::spawn(async move {
            let result = this.shared.places.unmake(&name, live).await;
            this.slots().remove(&name);
            drop(held);
            result
        });
        task.await.map_err(|gone| VolumeError::Io {
            id: id.to_owned(),
            action: "remove",
            source: gone.into(),
        })?
    }

    /// Takes a part of a snapshot of a `files` volume; the last part applies the snapshot.
    pub(crate) async fn sync(&self, part: SyncVolumeRequest) -> Result<(), VolumeError> {
        let id = part.id.clone();
        let mut held = self.slot(&id)?.lock_owned().await;
        blocking(&part.id.clone(), "update", move || match held.as_mut() {
            Some(Live { content: Content::Files(files), .. }) => files.take(&part),
            Some(_) => Err(VolumeError::Unfit { id, reason: "it does not hold synchronized files" }),
            None => Err(VolumeError::Unknown { id }),
        })
        .await
    }

    /// Reads a regular file of a volume: all of it, or its last `max_bytes`.
    pub(crate) async fn read_file(
        &self,
        id: &str,
        path: &str,
        max_bytes: u64,
    ) -> Result<Vec<u8>, VolumeError> {
        let held = self.slot(id)?.lock_owned().await;
        let path = RelPath::named(id, path)?;
        let (name, max_bytes) = (id.to_owned(), max_bytes.min(MAX_READ_BACK));
        blocking(id, "read a file of", move || {
            let Some(live) = held.as_ref() else { return Err(VolumeError::Unknown { id: name }) };
            read_end(&live.root, &path, max_bytes).map_err(|source| VolumeError::NotInside {
                id: name,
                path: path.as_str().to_owned(),
                source,
            })
        })
        .await
    }

    /// Hands in the stream of a share, before or after its volume is added. The reply line must be on it already.
    pub(crate) fn offer_share_stream(&self, id: &str, stream: OwnedFd) -> Result<(), VolumeError> {
        self.shared.places.streams.offer(check_id(id)?, stream)
    }

    /// Finds what a container's mount names; `None` when `source` names no volume.
    ///
    /// A directory that is missing in a volume that started empty is made, for kubelet made it in the host's copy
    /// of such a volume when a container asked for a `subPath`.
    pub(crate) async fn resolve(&self, source: &str) -> Result<Option<Location>, VolumeError> {
        let Some(parsed) = parse_source(source) else { return Ok(None) };
        let (id, path) = parsed?;
        let held = self.slot(id)?.lock_owned().await;
        let name = id.to_owned();
        blocking(id, "look into", move || {
            let Some(live) = held.as_ref() else { return Err(VolumeError::Unknown { id: name }) };
            let outside = |source: io::Error| VolumeError::NotInside {
                id: name.clone(),
                path: path.as_str().to_owned(),
                source,
            };
            if let Content::Device(device) = live.content {
                if !path.is_root() {
                    return Err(outside(io::ErrorKind::NotADirectory.into()));
                }
                return Ok(Some(Location {
                    root: live.root.clone(),
                    path: PathBuf::from(mounts::NODE),
                    device: Some(device),
                }));
            }
            let root =
                open_dir(CWD, path_text(&live.root).map_err(outside)?).map_err(|e| outside(e.into()))?;
            if matches!(live.content, Content::Space { .. }) {
                make_missing(&root, &path).map_err(outside)?;
            }
            open_inside(&root, &path, OFlags::PATH).map_err(outside)?;
            Ok(Some(Location { root: live.root.clone(), path: PathBuf::from(path.as_str()), device: None }))
        })
        .await
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<String, Slot>> {
        self.shared.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, id: &str) -> Result<Slot, VolumeError> {
        let id = check_id(id)?;
        self.slots().get(id).cloned().ok_or_else(|| VolumeError::Unknown { id: id.to_owned() })
    }

    fn reserve(&self, id: &str, slot: Slot) -> Result<(), VolumeError> {
        let mut slots = self.slots();
        if slots.contains_key(id) {
            return Err(VolumeError::Exists { id: id.to_owned() });
        }
        slots.insert(id.to_owned(), slot);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::ErrorKind;
    use super::*;
    use coffer_protocol::agent::{
        FileEntry, FilesVolume, ScratchVolume, ShareVolume, TmpfsVolume, volume::Kind,
    };
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    struct Pod {
        base: tempfile::TempDir,
        volumes: Volumes,
    }

    impl Pod {
        fn new() -> Pod {
            let base = tempfile::tempdir().unwrap();
            let volumes = Volumes::new(base.path().join("volumes"), base.path().join("scratch"));
            Pod { base, volumes }
        }

        async fn add(&self, id: &str, kind: Kind) -> Result<(), VolumeError> {
            let volume = Volume { id: id.to_owned(), kind: Some(kind), ..Default::default() };
            self.volumes.add(volume).await
        }

        async fn find(&self, source: &str) -> Result<PathBuf, VolumeError> {
            self.volumes.resolve(source).await.map(|found| {
                let found = found.unwrap();
                found.root.join(found.path)
            })
        }
    }

    /// Runs a test in a mount namespace of its own, as root; the threads it starts are in there too.
    fn with_mounts<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
        std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNS).expect("these tests mount, so they need root");
                let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
            });
            run.join().unwrap();
        });
    }

    fn mounted(path: &std::path::Path) -> bool {
        fs::read_to_string("/proc/thread-self/mountinfo").unwrap().contains(path.to_str().unwrap())
    }

    #[test]
    fn files_are_synchronized_read_back_and_removed() {
        with_mounts(|| async {
            let pod = Pod::new();
            pod.add("etc", Kind::Files(FilesVolume::new())).await.unwrap();
            let file = FileEntry {
                path: "file".to_owned(),
                mode: 0o100644,
                data: b"abc".to_vec(),
                ..Default::default()
            };
            let id = "etc".to_owned();
            let part = SyncVolumeRequest {
                id,
                generation: 1,
                entries: vec![file],
                last: true,
                ..Default::default()
            };
            pod.volumes.sync(part).await.unwrap();

            let path = pod.find("coffer-volume:etc/file").await.unwrap();
            fs::write(&path, "written by a container").unwrap();
            assert_eq!(pod.volumes.read_file("etc", "file", 9).await.unwrap(), b"container");

            pod.volumes.remove("etc").await.unwrap();
            assert!(!mounted(pod.base.path()));
            assert!(!pod.base.path().join("volumes/etc").exists());
            assert!(matches!(pod.find("coffer-volume:etc/file").await, Err(VolumeError::Unknown { .. })));
        });
    }

    #[test]
    fn a_tmpfs_has_its_size_and_owner() {
        with_mounts(|| async {
            let pod = Pod::new();
            let space = TmpfsVolume { bytes: 1 << 20, mode: 0o2770, uid: 5, gid: 7, ..Default::default() };
            pod.add("mem", Kind::Tmpfs(space)).await.unwrap();
            let root = pod.find("coffer-volume:mem").await.unwrap();
            let metadata = fs::metadata(&root).unwrap();
            assert_eq!(
                (metadata.uid(), metadata.gid(), metadata.permissions().mode() & 0o7777),
                (5, 7, 0o2770)
            );
            assert!(fs::write(root.join("big"), vec![0; 2 << 20]).is_err());
        });
    }

    #[test]
    fn a_scratch_volume_makes_the_sub_path_that_a_mount_names() {
        with_mounts(|| async {
            let pod = Pod::new();
            let space = ScratchVolume { mode: 0o2777, gid: 9, ..Default::default() };
            pod.add("cache", Kind::Scratch(space)).await.unwrap();
            let sub = pod.find("coffer-volume:cache/a/b").await.unwrap();
            let metadata = fs::metadata(&sub).unwrap();
            assert_eq!((metadata.gid(), metadata.permissions().mode() & 0o7777), (9, 0o2777));

            pod.volumes.remove("cache").await.unwrap();
            assert!(!pod.base.path().join("scratch/cache").exists());
        });
    }

    #[test]
    fn a_sub_path_that_a_container_turned_into_a_link_stays_inside() {
        with_mounts(|| async {
            let pod = Pod::new();
            pod.add("cache", Kind::Scratch(ScratchVolume::new())).await.unwrap();
            let root = pod.find("coffer-volume:cache").await.unwrap();
            symlink("/etc", root.join("evil")).unwrap();
            symlink("../../../../../etc", root.join("climb")).unwrap();
            assert!(matches!(
                pod.find("coffer-volume:cache/evil/passwd").await,
                Err(VolumeError::NotInside { .. })
            ));
            assert!(matches!(
                pod.find("coffer-volume:cache/climb/passwd").await,
                Err(VolumeError::NotInside { .. })
            ));
            assert!(matches!(
                pod.volumes.read_file("cache", "evil/passwd", 10).await,
                Err(VolumeError::NotInside { .. })
            ));
        });
    }

    #[test]
    fn a_missing_path_in_a_synchronized_volume_is_not_made() {
        with_mounts(|| async {
            let pod = Pod::new();
            pod.add("etc", Kind::Files(FilesVolume::new())).await.unwrap();
            let found = pod.find("coffer-volume:etc/none").await;
            assert!(matches!(&found, Err(error) if error.kind() == ErrorKind::NotFound));
        });
    }

    #[test]
    fn reading_back_a_fifo_does_not_hang() {
        with_mounts(|| async {
            let pod = Pod::new();
            pod.add("cache", Kind::Scratch(ScratchVolume::new())).await.unwrap();
            let root = pod.find("coffer-volume:cache").await.unwrap();
            nix::unistd::mkfifo(&root.join("file"), nix::sys::stat::Mode::S_IRWXU).unwrap();
            assert!(matches!(
                pod.volumes.read_file("cache", "file", 10).await,
                Err(VolumeError::NotInside { .. })
            ));
        });
    }

    #[test]
    fn a_second_volume_of_the_same_id_is_refused() {
        with_mounts(|| async {
            let pod = Pod::new();
            pod.add("v", Kind::Scratch(ScratchVolume::new())).await.unwrap();
            let again = pod.add("v", Kind::Scratch(ScratchVolume::new())).await;
            assert!(matches!(&again, Err(error) if error.kind() == ErrorKind::AlreadyExists));
        });
    }

    #[test]
    fn a_volume_that_could_not_be_added_leaves_nothing() {
        with_mounts(|| async {
            let pod = Pod::new();
            let kind = Kind::Tmpfs(TmpfsVolume { uid: u32::MAX, ..Default::default() });
            assert!(pod.add("d", kind).await.is_err());
            assert!(!pod.base.path().join("volumes/d").exists());
            // Its id is free again.
            pod.add("d", Kind::Files(FilesVolume::new())).await.unwrap();
        });
    }

    #[test]
    fn a_share_whose_stream_ends_at_once_fails_and_leaves_nothing() {
        with_mounts(|| async {
            let pod = Pod::new();
            let (stream, other) = std::os::unix::net::UnixStream::pair().unwrap();
            drop(other);
            pod.volumes.offer_share_stream("s", stream.into()).unwrap();
            let added = pod.add("s", Kind::Share(ShareVolume::new())).await;
            assert!(matches!(added, Err(VolumeError::Mount { .. })));
            assert!(!pod.base.path().join("volumes/s").exists());
        });
    }

    #[test]
    fn the_pods_shm_cannot_be_removed() {
        with_mounts(|| async {
            let pod = Pod::new();
            pod.volumes.register_shm(pod.base.path().to_owned()).unwrap();
            assert_eq!(pod.find("coffer-volume:shm").await.unwrap(), pod.base.path().join(""));
            let removed = pod.volumes.remove("shm").await;
            assert!(matches!(&removed, Err(error) if error.kind() == ErrorKind::FailedPrecondition));
        });
    }
}
