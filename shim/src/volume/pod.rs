//! The volumes of a pod, counted by the containers that use them.
//!
//! ```text
//! prepare(container, plan) ── each volume: first user makes it, later ones wait for that and share it
//! read_back(container)     ── before the container's exit is told: termination logs reach the host
//! release(container)       ── each volume: last user removes it, unless it holds data of the pod (emptyDir)
//! ```
//! Different volumes never wait for each other; a volume that failed is tried again by its next user.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coffer_protocol::agent::{
    DiskVolume, FilesVolume, ScratchVolume, ShareVolume, TmpfsVolume, Volume, volume::Kind,
};
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::AbortHandle;

use super::content::{BlockDevice, Changes, Content, VolumePlan};
use super::device::open_device;
use super::guest::{Guest, Machine};
use super::identity::disk_serial;
use super::plan::Plan;
use super::share::{ShareServer, ShareSpec};
use super::sync::{Sender, SyncError, SyncSource};
use super::watch::Watches;

/// Why a container's volume could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    /// A synced one.
    #[error("volume {id} (a copy of {source_path}) cannot be had")]
    Synced {
        /// Its id.
        id: String,
        /// What it is copied from.
        source_path: PathBuf,
        /// What failed.
        source: SyncError,
    },
    /// The guest refused it.
    #[error("the guest cannot add volume {id}")]
    Guest {
        /// Its id.
        id: String,
        /// The guest's answer.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file server of a share.
    #[error("{source_path} cannot be served to the guest as volume {id}: {words}")]
    Server {
        /// Its id.
        id: String,
        /// What was to be served.
        source_path: PathBuf,
        /// What the server said before it ended.
        words: String,
        /// What failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A device of the host.
    #[error("block device {major}:{minor} of the host cannot be opened for volume {id}")]
    Device {
        /// Its id.
        id: String,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
        /// The system's answer.
        source: io::Error,
    },
    /// The machine refused a disk.
    #[error("the virtual machine cannot attach disk {serial} for volume {id}")]
    Attach {
        /// Its id.
        id: String,
        /// The disk's serial.
        serial: String,
        /// The machine's answer.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The volumes of one pod.
pub(crate) struct PodVolumes {
    guest: Arc<dyn Guest>,
    machine: Arc<dyn Machine>,
    watches: Watches,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
    /// How many volumes use each disk.
    disks: AsyncMutex<HashMap<String, usize>>,
}

#[derive(Default)]
struct Slot {
    users: Mutex<BTreeSet<String>>,
    /// `None` before the volume is made, when that failed, and after it was removed.
    held: AsyncMutex<Option<Held>>,
}

/// What has to be taken back.
enum Held {
    /// An emptyDir: it lives as long as the pod, because between two containers that use it there may be a time in
    /// which none does.
    Lasting,
    Synced {
        source: Arc<SyncSource>,
        follower: Option<AbortHandle>,
        comes_back: bool,
    },
    Share(ShareServer),
    Disk {
        serial: String,
    },
}

impl PodVolumes {
    /// No volumes; must be called within a runtime.
    pub(crate) fn new(guest: Arc<dyn Guest>, machine: Arc<dyn Machine>) -> PodVolumes {
        let (slots, disks) = (Mutex::default(), AsyncMutex::default());
        PodVolumes { guest, machine, watches: Watches::new(), slots, disks }
    }

    /// Makes what a container needs and is not there yet. When it fails, nothing is left of it.
    pub(crate) async fn prepare(&self, container: &str, plan: &Plan) -> Result<(), VolumeError> {
        for volume in &plan.volumes {
            let slot = self.enter(&volume.id, container);
            let mut held = slot.held.lock().await;
            if held.is_some() {
                continue;
            }
            match self.make(volume).await {
                Ok(made) => *held = Some(made),
                Err(error) => {
                    drop(held);
                    self.release(container).await;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Writes to the host what a container leaves there: called when it has ended, before its exit is told.
    pub(crate) async fn read_back(&self, container: &str) {
        for (id, slot) in self.used_by(container) {
            let held = slot.held.lock().await;
            if let Some(Held::Synced { source, comes_back: true, .. }) = held.as_ref()
                && let Err(error) = source.read_back(&id, self.guest.as_ref()).await
            {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::warn!(volume = id, container, %error, cause, "what a container wrote did not reach the host");
            }
        }
    }

    /// Gives a container's volumes back; those that no other container uses are removed.
    pub(crate) async fn release(&self, container: &str) {
        for (id, slot) in self.used_by(container) {
            slot.users().remove(container);
            let mut held = slot.held.lock().await;
            // Another container may have come meanwhile; it found the volume or makes it anew.
            let unused = slot.users().is_empty();
            if let Some(held) = held.take_if(|held| unused && !matches!(held, Held::Lasting)) {
                self.unmake(&id, held).await;
            }
            let empty = held.is_none();
            drop(held);
            let mut slots = self.slots();
            if empty && slot.users().is_empty() {
                slots.remove(&id);
            }
        }
    }

    /// Ends what runs on the host for volumes, without a guest: it is gone or about to go.
    pub(crate) async fn abandon(&self) {
        let slots: Vec<_> = self.slots().drain().map(|(_, slot)| slot).collect();
        for slot in slots {
            match slot.held.lock().await.take() {
                Some(Held::Synced { follower, .. }) => follower.iter().for_each(AbortHandle::abort),
                Some(Held::Share(server)) => drop(server.leave().await),
                _ => {}
            }
        }
    }

    /// Process ids of the file servers that run.
    #[cfg(test)]
    pub(crate) async fn servers(&self) -> Vec<u32> {
        let slots: Vec<_> = self.slots().values().cloned().collect();
        let mut pids = Vec::new();
        for slot in slots {
            if let Some(Held::Share(server)) = slot.held.lock().await.as_ref() {
                pids.extend(server.pid());
            }
        }
        pids
    }

    async fn make(&self, volume: &VolumePlan) -> Result<Held, VolumeError> {
        match &volume.content {
            Content::SyncedDirectory { source, live } => {
                let opened = SyncSource::directory(source);
                let changes = if *live { Changes::ToGuest } else { Changes::Stay };
                self.make_synced(&volume.id, source, opened, changes).await
            }
            Content::SyncedFile { source, changes } => {
                let opened = SyncSource::file(source, *changes == Changes::ToHost);
                self.make_synced(&volume.id, source, opened, *changes).await
            }
            Content::Tmpfs { bytes, root } => {
                let (mode, uid, gid) = (root.mode, root.uid, root.gid);
                self.add(
                    &volume.id,
                    Kind::Tmpfs(TmpfsVolume { bytes: *bytes, mode, uid, gid, ..Default::default() }),
                )
                .await?;
                Ok(Held::Lasting)
            }
            Content::Scratch { root } => {
                let (mode, uid, gid) = (root.mode, root.uid, root.gid);
                self.add(&volume.id, Kind::Scratch(ScratchVolume { mode, uid, gid, ..Default::default() }))
                    .await?;
                Ok(Held::Lasting)
            }
            Content::Share { source, read_only, recursive } => {
                let spec = ShareSpec { source, read_only: *read_only, recursive: *recursive };
                self.make_share(&volume.id, &spec).await
            }
            Content::Disk { device, read_only, node } => {
                let serial = self.attach(&volume.id, *device, *read_only).await?;
                let kind = Kind::Disk(DiskVolume {
                    serial: serial.clone(),
                    read_only: *read_only,
                    mode: node.mode,
                    uid: node.uid,
                    gid: node.gid,
                    ..Default::default()
                });
                match self.add(&volume.id, kind).await {
                    Ok(()) => Ok(Held::Disk { serial }),
                    Err(error) => {
                        self.detach(&serial).await;
                        Err(error)
                    }
                }
            }
        }
    }

    async fn make_synced(
        &self,
        id: &str,
        path: &Path,
        opened: Result<SyncSource, SyncError>,
        changes: Changes,
    ) -> Result<Held, VolumeError> {
        let failed = |source| VolumeError::Synced { id: id.to_owned(), source_path: path.to_owned(), source };
        let source = Arc::new(opened.map_err(failed)?);
        // Before the first copy, so that no change falls between the two.
        let watch = (changes == Changes::ToGuest).then(|| {
            let (file, directory) = source.watched();
            self.watches.watch(file, directory)
        });
        self.add(id, Kind::Files(FilesVolume::new())).await?;
        let mut sender = Sender::new(id, source.clone(), self.guest.clone());
        if let Err(error) = sender.send().await {
            self.forget(id).await;
            return Err(failed(error));
        }
        let follower = watch.map(|watch| tokio::spawn(sender.follow(watch)).abort_handle());
        Ok(Held::Synced { source, follower, comes_back: changes == Changes::ToHost })
    }

    async fn make_share(&self, id: &str, spec: &ShareSpec<'_>) -> Result<Held, VolumeError> {
        let failed = |words, source| VolumeError::Server {
            id: id.to_owned(),
            source_path: spec.source.to_owned(),
            words,
            source,
        };
        let stream = self.guest.open_share(id).await.map_err(|error| failed(String::new(), error))?;
        let server = ShareServer::start(spec, stream).map_err(|error| failed(String::new(), error.into()))?;
        let pid = server.pid();
        pid.into_iter().for_each(|pid| self.machine.note_server(pid));
        let mut volume = Volume { id: id.to_owned(), ..Default::default() };
        volume.kind = Some(Kind::Share(ShareVolume { read_only: spec.read_only, ..Default::default() }));
        match self.guest.add_volume(volume).await {
            Ok(()) => Ok(Held::Share(server)),
            Err(error) => {
                let words = server.last_words().await;
                pid.into_iter().for_each(|pid| self.machine.forget_server(pid));
                Err(failed(words, error))
            }
        }
    }

    async fn unmake(&self, id: &str, held: Held) {
        if let Held::Synced { follower: Some(follower), .. } = &held {
            follower.abort();
        }
        self.forget(id).await;
        match held {
            Held::Lasting | Held::Synced { .. } => {}
            Held::Share(server) => {
                let pid = server.pid();
                match server.leave().await {
                    Ok(status) if status.success() => {}
                    Ok(status) => tracing::warn!(volume = id, %status, "a file server ended badly"),
                    Err(error) => tracing::warn!(volume = id, %error, "a file server cannot be awaited"),
                }
                pid.into_iter().for_each(|pid| self.machine.forget_server(pid));
            }
            Held::Disk { serial } => self.detach(&serial).await,
        }
    }

    async fn add(&self, id: &str, kind: Kind) -> Result<(), VolumeError> {
        let volume = Volume { id: id.to_owned(), kind: Some(kind), ..Default::default() };
        self.guest.add_volume(volume).await.map_err(|source| VolumeError::Guest { id: id.to_owned(), source })
    }

    async fn forget(&self, id: &str) {
        if let Err(error) = self.guest.remove_volume(id).await {
            tracing::warn!(volume = id, %error, "the guest did not remove a volume");
        }
    }

    /// Attaches a device, or finds it attached for another volume.
    async fn attach(&self, id: &str, device: BlockDevice, read_only: bool) -> Result<String, VolumeError> {
        let BlockDevice { major, minor } = device;
        let serial = disk_serial(device, read_only);
        let mut disks = self.disks.lock().await;
        if let Some(users) = disks.get_mut(&serial) {
            *users += 1;
            return Ok(serial);
        }
        let file = open_device(device, read_only).map_err(|source| VolumeError::Device {
            id: id.to_owned(),
            major,
            minor,
            source,
        })?;
        let attached = self.machine.attach_disk(&serial, file, read_only).await;
        attached.map_err(|source| VolumeError::Attach {
            id: id.to_owned(),
            serial: serial.clone(),
            source,
        })?;
        disks.insert(serial.clone(), 1);
        Ok(serial)
    }

    async fn detach(&self, serial: &str) {
        let mut disks = self.disks.lock().await;
        match disks.get_mut(serial) {
            Some(users) if *users > 1 => *users -= 1,
            _ => {
                disks.remove(serial);
                if let Err(error) = self.machine.detach_disk(serial).await {
                    tracing::warn!(serial, %error, "a volume's disk was not detached");
                }
            }
        }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<String, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a container a user of a volume.
    fn enter(&self, id: &str, container: &str) -> Arc<Slot> {
        let mut slots = self.slots();
        let slot = slots.entry(id.to_owned()).or_default().clone();
        slot.users().insert(container.to_owned());
        slot
    }

    fn used_by(&self, container: &str) -> Vec<(String, Arc<Slot>)> {
        let slots = self.slots();
        let used = slots.iter().filter(|(_, slot)| slot.users().contains(container));
        used.map(|(id, slot)| (id.clone(), slot.clone())).collect()
    }
}

impl Slot {
    fn users(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::guest::Answer;
    use super::super::plan::Plan;
    use super::*;
    use async_trait::async_trait;
    use coffer_protocol::agent::{ReadVolumeFileRequest, SyncVolumeRequest};
    use std::fs;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::{MetadataExt, symlink};
    use tokio::sync::mpsc;

    /// A guest that keeps what it is told, and tells the test of each whole snapshot.
    struct Recorder {
        volumes: Mutex<Vec<String>>,
        snapshots: mpsc::UnboundedSender<Vec<(String, Vec<u8>)>>,
        refuse: Mutex<Option<&'static str>>,
    }

    #[async_trait]
    impl Guest for Recorder {
        async fn add_volume(&self, volume: Volume) -> Answer<()> {
            if let Some(reason) = *self.refuse.lock().unwrap() {
                return Err(reason.into());
            }
            self.volumes.lock().unwrap().push(volume.id);
            Ok(())
        }

        async fn remove_volume(&self, id: &str) -> Answer<()> {
            self.volumes.lock().unwrap().retain(|volume| volume != id);
            Ok(())
        }

        async fn sync_volume(&self, part: SyncVolumeRequest) -> Answer<()> {
            let entries = part.entries.into_iter().map(|entry| (entry.path, entry.data)).collect();
            self.snapshots.send(entries)?;
            Ok(())
        }

        async fn read_volume_file(&self, _request: ReadVolumeFileRequest) -> Answer<Vec<u8>> {
            Ok(b"last words".to_vec())
        }

        async fn open_share(&self, _id: &str) -> Answer<OwnedFd> {
            Err("no streams here".into())
        }
    }

    #[derive(Default)]
    struct NoMachine {
        servers: Mutex<Vec<u32>>,
    }

    #[async_trait]
    impl Machine for NoMachine {
        async fn attach_disk(&self, _serial: &str, _file: OwnedFd, _read_only: bool) -> Answer<()> {
            Err("no disks here".into())
        }

        async fn detach_disk(&self, _serial: &str) -> Answer<()> {
            Ok(())
        }

        fn note_server(&self, pid: u32) {
            self.servers.lock().unwrap().push(pid);
        }

        fn forget_server(&self, pid: u32) {
            self.servers.lock().unwrap().retain(|noted| *noted != pid);
        }
    }

    struct Fixture {
        dir: tempfile::TempDir,
        guest: Arc<Recorder>,
        volumes: PodVolumes,
        snapshots: mpsc::UnboundedReceiver<Vec<(String, Vec<u8>)>>,
    }

    impl Fixture {
        fn new() -> Fixture {
            let (sender, snapshots) = mpsc::unbounded_channel();
            let (volumes, refuse) = (Mutex::default(), Mutex::default());
            let guest = Arc::new(Recorder { volumes, snapshots: sender, refuse });
            let volumes = PodVolumes::new(guest.clone(), Arc::new(NoMachine::default()));
            Fixture { dir: tempfile::tempdir().unwrap(), guest, volumes, snapshots }
        }

        fn ids(&self) -> Vec<String> {
            self.guest.volumes.lock().unwrap().clone()
        }

        fn directory(&self) -> Plan {
            let content = Content::SyncedDirectory { source: self.dir.path().to_owned(), live: true };
            plan("config", content)
        }

        fn publish(&self, version: &str, value: &str) {
            let path = self.dir.path();
            fs::create_dir(path.join(version)).unwrap();
            fs::write(path.join(version).join("key"), value).unwrap();
            symlink(version, path.join("..data_tmp")).unwrap();
            fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
        }
    }

    fn plan(id: &str, content: Content) -> Plan {
        Plan { volumes: vec![VolumePlan { id: id.to_owned(), content }], ..Plan::default() }
    }

    fn scratch() -> Plan {
        plan("cache", Content::Scratch { root: super::super::content::Root { mode: 0o777, uid: 0, gid: 0 } })
    }

    fn is_send<T: Send>(value: T) -> T {
        value
    }

    #[tokio::test]
    async fn a_copy_lives_as_long_as_its_last_container() {
        let fixture = Fixture::new();
        is_send(fixture.volumes.prepare("a", &fixture.directory())).await.unwrap();
        is_send(fixture.volumes.prepare("b", &fixture.directory())).await.unwrap();
        is_send(fixture.volumes.release("a")).await;
        assert_eq!(fixture.ids(), ["config"]);
        fixture.volumes.release("b").await;
        assert_eq!(fixture.ids(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn an_empty_directory_outlives_its_containers_and_is_made_once() {
        let fixture = Fixture::new();
        fixture.volumes.prepare("init", &scratch()).await.unwrap();
        fixture.volumes.release("init").await;
        fixture.volumes.prepare("main", &scratch()).await.unwrap();
        assert_eq!(fixture.ids(), ["cache"]);
    }

    #[tokio::test]
    async fn a_container_whose_volume_fails_keeps_none_and_may_try_again() {
        let fixture = Fixture::new();
        let mut both = fixture.directory();
        both.volumes.extend(
            plan(
                "disk",
                Content::Share { source: fixture.dir.path().to_owned(), read_only: true, recursive: false },
            )
            .volumes,
        );
        assert!(matches!(fixture.volumes.prepare("a", &both).await, Err(VolumeError::Server { .. })));
        assert_eq!(fixture.ids(), Vec::<String>::new());
        fixture.volumes.prepare("a", &fixture.directory()).await.unwrap();
        assert_eq!(fixture.ids(), ["config"]);
    }

    #[tokio::test]
    async fn a_volume_that_the_guest_refused_is_tried_by_the_next_container() {
        let fixture = Fixture::new();
        *fixture.guest.refuse.lock().unwrap() = Some("not now");
        assert!(matches!(fixture.volumes.prepare("a", &scratch()).await, Err(VolumeError::Guest { .. })));
        *fixture.guest.refuse.lock().unwrap() = None;
        fixture.volumes.prepare("b", &scratch()).await.unwrap();
        assert_eq!(fixture.ids(), ["cache"]);
    }

    #[tokio::test]
    async fn a_new_publication_reaches_the_guest_by_itself() {
        let mut fixture = Fixture::new();
        fixture.publish("..v1", "old");
        fixture.volumes.prepare("a", &fixture.directory()).await.unwrap();
        fixture.snapshots.recv().await.unwrap();

        fixture.publish("..v2", "new");

        let entries = fixture.snapshots.recv().await.unwrap();
        assert!(entries.contains(&("..v2/key".to_owned(), b"new".to_vec())));
        assert!(entries.contains(&("..data".to_owned(), b"..v2".to_vec())));
    }

    #[tokio::test]
    async fn a_change_that_changes_nothing_is_not_sent() {
        let mut fixture = Fixture::new();
        fixture.publish("..v1", "old");
        fixture.volumes.prepare("a", &fixture.directory()).await.unwrap();
        fixture.snapshots.recv().await.unwrap();

        // What kubelet is preparing is not published yet.
        fs::create_dir(fixture.dir.path().join("..v2")).unwrap();
        tokio::task::yield_now().await;
        fixture.publish("..v3", "new");

        let entries = fixture.snapshots.recv().await.unwrap();
        assert!(entries.contains(&("..v3/key".to_owned(), b"new".to_vec())));
    }

    #[tokio::test]
    async fn a_file_that_is_rewritten_reaches_the_guest_by_itself() {
        let mut fixture = Fixture::new();
        let source = fixture.dir.path().join("hosts");
        fs::write(&source, "one").unwrap();
        let content = Content::SyncedFile { source: source.clone(), changes: Changes::ToGuest };
        fixture.volumes.prepare("a", &plan("hosts", content)).await.unwrap();
        assert_eq!(fixture.snapshots.recv().await.unwrap(), [("file".to_owned(), b"one".to_vec())]);
        fs::write(&source, "two").unwrap();
        assert_eq!(fixture.snapshots.recv().await.unwrap(), [("file".to_owned(), b"two".to_vec())]);
    }

    #[tokio::test]
    async fn a_termination_log_comes_back_into_the_file_that_was_there_at_the_start() {
        let fixture = Fixture::new();
        let (source, other) = (fixture.dir.path().join("log"), fixture.dir.path().join("other"));
        fs::write(&source, "a longer first text").unwrap();
        fs::write(&other, "kept").unwrap();
        let inode = fs::metadata(&source).unwrap().ino();
        let content = Content::SyncedFile { source: source.clone(), changes: Changes::ToHost };
        fixture.volumes.prepare("a", &plan("log", content)).await.unwrap();

        fs::rename(&source, fixture.dir.path().join("moved")).unwrap();
        symlink(&other, &source).unwrap();
        is_send(fixture.volumes.read_back("a")).await;

        let moved = fixture.dir.path().join("moved");
        assert_eq!(fs::read_to_string(&moved).unwrap(), "last words");
        assert_eq!(fs::metadata(&moved).unwrap().ino(), inode);
        assert_eq!(fs::read_to_string(&other).unwrap(), "kept");
    }

    #[tokio::test]
    async fn a_termination_log_that_is_a_link_is_refused() {
        let fixture = Fixture::new();
        let source = fixture.dir.path().join("log");
        symlink("/etc/passwd", &source).unwrap();
        let content = Content::SyncedFile { source, changes: Changes::ToHost };
        assert!(matches!(
            fixture.volumes.prepare("a", &plan("log", content)).await,
            Err(VolumeError::Synced { source: SyncError::Open { .. }, .. })
        ));
    }

    #[tokio::test]
    async fn a_disk_that_cannot_be_opened_names_the_device() {
        let fixture = Fixture::new();
        let root = super::super::content::Root { mode: 0o660, uid: 0, gid: 0 };
        let device = BlockDevice { major: 4095, minor: 7 };
        let content = Content::Disk { device, read_only: true, node: root };
        let error = fixture.volumes.prepare("a", &plan("disk", content)).await.unwrap_err();
        assert!(error.to_string().contains("4095:7"));
    }

    #[tokio::test]
    async fn what_follows_the_host_ends_with_an_abandoned_pod() {
        let fixture = Fixture::new();
        fixture.volumes.prepare("a", &fixture.directory()).await.unwrap();
        is_send(fixture.volumes.abandon()).await;
        assert_eq!(is_send(fixture.volumes.servers()).await, Vec::<u32>::new());
    }
}
