//! Decides what a mount of a container becomes in its guest, from the mount and what its source is. Pure.
//!
//! ```text
//! proc, sysfs, tmpfs, …      ── as it is           regular file: known or kubelet's ── synced file
//! /dev/shm                   ── volume `shm`                     other, writable or large ── share
//! kubelet's configmap & co.  ── synced directory   block device  ── disk
//! kubelet's empty-dir        ── scratch or tmpfs   directory     ── share
//! a window into the host's kernel, sockets, pipes, devices, propagation ── refused
//! ```

use std::path::{Path, PathBuf};

use coffer_protocol::{SHM_VOLUME, VOLUME_SOURCE};

use super::content::{BlockDevice, Changes, Content, Root, SINGLE_FILE, VolumePlan};
use super::facts::{FileSystem, Part, Source, SourceKind};
use super::identity::volume_id;
use super::kubelet::{Kubelet, KubeletPath};
use super::refused::Refused;

/// The largest file that is copied into the guest instead of being served from the host.
const MAX_COPIED_FILE: u64 = 1 << 20;

/// A mount of a container's specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountRequest {
    /// Where in the container.
    pub(crate) destination: PathBuf,
    /// Type; empty for a bind mount that says so in its options.
    pub(crate) kind: String,
    /// Source on the host, or a name.
    pub(crate) source: PathBuf,
    /// Options.
    pub(crate) options: Vec<String>,
}

/// A mount in the guest's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    /// Type, `bind` for a volume.
    pub(crate) kind: String,
    /// Source: a name, or `coffer-volume:<id>[/<path>]`.
    pub(crate) source: String,
    /// Options that mean something in the guest.
    pub(crate) options: Vec<String>,
    /// The volume that must be there first; `None` for what the guest always has.
    pub(crate) volume: Option<VolumePlan>,
    /// Size of the pod's `/dev/shm` that this mount asks for.
    pub(crate) shm_bytes: Option<u64>,
}

/// Types of mounts that the guest's kernel makes itself.
const OF_GUEST: [&str; 7] = ["proc", "sysfs", "tmpfs", "mqueue", "devpts", "cgroup", "cgroup2"];

/// Files that every pod gets from kubelet, containerd or the `nerdctl` command.
const POD_FILES: [&str; 3] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];

impl MountRequest {
    /// Whether this mount shows something of the host: then its source must be looked at.
    pub(crate) fn is_bind(&self) -> bool {
        self.kind == "bind" || self.options.iter().any(|option| matches!(option.as_str(), "bind" | "rbind"))
    }

    fn read_only(&self) -> bool {
        self.options.iter().any(|option| matches!(option.as_str(), "ro" | "rro"))
    }

    fn recursive(&self) -> bool {
        self.options.iter().any(|option| option == "rbind")
    }

    /// The options without those that speak of the host's mounts.
    fn guest_options(&self) -> Vec<String> {
        let of_host = |option: &str| matches!(option, "private" | "rprivate" | "z" | "Z");
        self.options.iter().filter(|option| !of_host(option)).cloned().collect()
    }

    fn refuse_propagation(&self) -> Result<(), Refused> {
        let propagates = |option: &&String| {
            matches!(
                option.as_str(),
                "shared" | "rshared" | "slave" | "rslave" | "unbindable" | "runbindable"
            )
        };
        match self.options.iter().find(propagates) {
            None => Ok(()),
            Some(option) => {
                Err(Refused::Propagation { destination: self.destination.clone(), option: option.clone() })
            }
        }
    }
}

/// Classifies a mount that is not a bind mount.
pub(crate) fn classify_internal(mount: &MountRequest) -> Result<Placed, Refused> {
    mount.refuse_propagation()?;
    if mount.kind == "tmpfs" && mount.destination == Path::new("/dev/shm") {
        return Ok(shm(mount, size_option(&mount.options)));
    }
    if OF_GUEST.contains(&mount.kind.as_str()) {
        return Ok(Placed {
            kind: mount.kind.clone(),
            source: mount.source.to_string_lossy().into_owned(),
            options: mount.options.clone(),
            volume: None,
            shm_bytes: None,
        });
    }
    Err(Refused::Type { destination: mount.destination.clone(), kind: mount.kind.clone() })
}

/// Classifies a bind mount.
pub(crate) fn classify_bind(
    mount: &MountRequest,
    source: &Source,
    kubelet: &Kubelet,
) -> Result<Placed, Refused> {
    mount.refuse_propagation()?;
    let destination = || mount.destination.clone();
    if !mount.source.is_absolute() {
        return Err(Refused::Relative { destination: destination(), path: mount.source.clone() });
    }
    refuse_of_host(mount, source)?;
    if let Some(part) = &source.part
        && let Some(KubeletPath::EmptyDirectory { .. }) = kubelet.parse(&part.volume)
    {
        return Ok(placed(mount, empty_directory(mount, &part.volume, &part.of)?, &part.path));
    }
    match (kubelet.parse(&mount.source), source.kind) {
        (_, SourceKind::BlockDevice(device)) => {
            let node = Root { mode: source.mode, uid: source.uid, gid: source.gid };
            Ok(placed(mount, disk(device, mount.read_only(), node), ""))
        }
        (Some(KubeletPath::EmptyDirectory { root, rest }), SourceKind::Directory) if rest.is_empty() => {
            Ok(placed(mount, empty_directory(mount, &root, source)?, ""))
        }
        (Some(KubeletPath::Published), SourceKind::Directory) => Ok(placed(mount, synced(mount, true), "")),
        (Some(KubeletPath::SubPath), SourceKind::Directory)
            if source.part.as_ref().is_some_and(|part| published(part, kubelet)) =>
        {
            Ok(placed(mount, synced(mount, false), ""))
        }
        (_, SourceKind::Directory) if is_shm(mount, source) => match source.file_system {
            FileSystem::Tmpfs { bytes } => Ok(shm(mount, Some(bytes))),
            _ => Ok(shm(mount, None)),
        },
        (place, SourceKind::File { bytes }) => {
            Ok(placed(mount, file(mount, place.as_ref(), bytes), SINGLE_FILE))
        }
        _ => Ok(placed(mount, share(mount), "")),
    }
}

/// What of a container's devices goes to the guest as it is: nodes of things that the guest's own kernel has.
pub(crate) fn is_guest_device(major: i64, minor: i64) -> bool {
    // null, zero, full, random, urandom; tty, console, ptmx; tun, fuse (Documentation/admin-guide/devices.txt).
    matches!((major, minor), (1, 3 | 5 | 7 | 8 | 9) | (5, 0..=2) | (10, 200 | 229))
}

fn refuse_of_host(mount: &MountRequest, source: &Source) -> Result<(), Refused> {
    let (destination, path) = (mount.destination.clone(), mount.source.clone());
    let one_kernel =
        |what| Err(Refused::OneKernel { destination: destination.clone(), what, path: path.clone() });
    match (source.kind, source.file_system) {
        (SourceKind::Socket, _) => one_kernel("socket"),
        (SourceKind::Fifo, _) => one_kernel("named pipe"),
        (SourceKind::CharacterDevice, _) => one_kernel("character device"),
        (SourceKind::BlockDevice(_), _) => Ok(()),
        (_, FileSystem::Kernel(name)) => Err(Refused::HostKernel { destination, name, path }),
        // devtmpfs calls itself tmpfs.
        _ if path == Path::new("/dev") => Err(Refused::HostKernel { destination, name: "devtmpfs", path }),
        _ => Ok(()),
    }
}

fn is_shm(mount: &MountRequest, source: &Source) -> bool {
    mount.destination == Path::new("/dev/shm") && matches!(source.file_system, FileSystem::Tmpfs { .. })
}

fn published(part: &Part, kubelet: &Kubelet) -> bool {
    matches!(kubelet.parse(&part.volume), Some(KubeletPath::Published))
}

fn empty_directory(mount: &MountRequest, root: &Path, source: &Source) -> Result<VolumePlan, Refused> {
    let look = Root { mode: source.mode, uid: source.uid, gid: source.gid };
    let id = volume_id("empty-dir", root);
    match source.file_system {
        FileSystem::Hugetlbfs => Err(Refused::HugePages { destination: mount.destination.clone() }),
        FileSystem::Tmpfs { bytes } if source.mount_root => {
            Ok(VolumePlan { id, content: Content::Tmpfs { bytes, root: look } })
        }
        _ => Ok(VolumePlan { id, content: Content::Scratch { root: look } }),
    }
}

fn synced(mount: &MountRequest, live: bool) -> VolumePlan {
    let source = mount.source.clone();
    VolumePlan { id: volume_id("files", &source), content: Content::SyncedDirectory { source, live } }
}

/// Files of the pod are copied, and so are small ones that the container may only read. A termination log is copied
/// and comes back. Whatever else the container may write is served, so that host and container see one file.
fn file(mount: &MountRequest, place: Option<&KubeletPath>, bytes: u64) -> VolumePlan {
    let of_pod = POD_FILES.iter().any(|name| mount.destination == Path::new(name));
    let changes = match place {
        _ if of_pod => Some(Changes::ToGuest),
        Some(KubeletPath::HostsFile) => Some(Changes::ToGuest),
        Some(KubeletPath::ContainerFile) if mount.read_only() => Some(Changes::ToGuest),
        Some(KubeletPath::ContainerFile) => Some(Changes::ToHost),
        Some(KubeletPath::SubPath) if mount.read_only() => Some(Changes::Stay),
        _ if mount.read_only() => Some(Changes::ToGuest),
        _ => None,
    };
    match changes {
        Some(changes) if bytes <= MAX_COPIED_FILE => {
            let source = mount.source.clone();
            VolumePlan { id: volume_id("file", &source), content: Content::SyncedFile { source, changes } }
        }
        _ => share(mount),
    }
}

fn share(mount: &MountRequest) -> VolumePlan {
    let (read_only, recursive) = (mount.read_only(), mount.recursive());
    let kind = match (read_only, recursive) {
        (true, true) => "share-ro",
        (false, true) => "share-rw",
        (true, false) => "share-ro1",
        (false, false) => "share-rw1",
    };
    let source = mount.source.clone();
    VolumePlan { id: volume_id(kind, &source), content: Content::Share { source, read_only, recursive } }
}

/// A device of the host as a volume: one per look of the node, which is the container's.
pub(crate) fn disk(device: BlockDevice, read_only: bool, node: Root) -> VolumePlan {
    let BlockDevice { major, minor } = device;
    let Root { mode, uid, gid } = node;
    let kind = if read_only { "disk-ro" } else { "disk-rw" };
    let id = format!("{kind}.{major}-{minor}.{mode:o}-{uid}-{gid}");
    VolumePlan { id, content: Content::Disk { device, read_only, node } }
}

fn placed(mount: &MountRequest, volume: VolumePlan, path: &str) -> Placed {
    let slash = if path.is_empty() { "" } else { "/" };
    let mut options = mount.guest_options();
    if !options.iter().any(|option| matches!(option.as_str(), "bind" | "rbind")) {
        options.push("bind".to_owned());
    }
    let source = format!("{VOLUME_SOURCE}{}{slash}{path}", volume.id);
    Placed { kind: "bind".to_owned(), source, options, volume: Some(volume), shm_bytes: None }
}

/// A size of the mount's own would cut what containers share, so only the mount's restrictions stay.
fn shm(mount: &MountRequest, bytes: Option<u64>) -> Placed {
    let stays = |option: &&String| matches!(option.as_str(), "ro" | "rw" | "nosuid" | "nodev" | "noexec");
    let mut options = vec!["rbind".to_owned()];
    options.extend(mount.options.iter().filter(stays).cloned());
    let source = format!("{VOLUME_SOURCE}{SHM_VOLUME}");
    Placed { kind: "bind".to_owned(), source, options, volume: None, shm_bytes: bytes }
}

/// Reads `size=` as the kernel does: bytes, or with a suffix k, m or g.
fn size_option(options: &[String]) -> Option<u64> {
    let text = options.iter().find_map(|option| option.strip_prefix("size="))?;
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..)? {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODS: &str = "/var/lib/kubelet/pods/u";

    fn bind(source: &str, destination: &str, options: &[&str]) -> MountRequest {
        let options =
            ["rbind", "rprivate"].iter().chain(options).map(|option| (*option).to_owned()).collect();
        MountRequest {
            destination: destination.into(),
            kind: "bind".to_owned(),
            source: source.into(),
            options,
        }
    }

    fn internal(kind: &str, destination: &str, options: &[&str]) -> MountRequest {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        MountRequest { destination: destination.into(), kind: kind.to_owned(), source: kind.into(), options }
    }

    fn directory() -> Source {
        Source {
            kind: SourceKind::Directory,
            mode: 0o2777,
            uid: 1,
            gid: 2,
            file_system: FileSystem::Other,
            mount_root: false,
            part: None,
        }
    }

    fn of_kind(kind: SourceKind) -> Source {
        Source { kind, ..directory() }
    }

    fn on(file_system: FileSystem) -> Source {
        Source { file_system, mount_root: true, ..directory() }
    }

    fn classify(mount: &MountRequest, source: &Source) -> Result<Placed, Refused> {
        classify_bind(mount, source, &Kubelet::default())
    }

    fn content(mount: &MountRequest, source: &Source) -> Content {
        classify(mount, source).unwrap().volume.unwrap().content
    }

    const SMALL: SourceKind = SourceKind::File { bytes: 100 };
    const LOOK: Root = Root { mode: 0o2777, uid: 1, gid: 2 };

    #[test]
    fn what_the_guests_kernel_makes_stays_as_it_is() {
        let mount = internal("proc", "/proc", &["nosuid", "noexec"]);
        let placed = classify_internal(&mount).unwrap();
        assert_eq!((placed.kind.as_str(), placed.source.as_str(), placed.volume), ("proc", "proc", None));
        assert_eq!(placed.options, mount.options);
    }

    #[test]
    fn a_type_that_nobody_knows_is_refused() {
        assert!(matches!(classify_internal(&internal("nfs", "/data", &[])), Err(Refused::Type { .. })));
    }

    #[test]
    fn a_tmpfs_at_dev_shm_is_the_pods_and_tells_its_size() {
        let placed =
            classify_internal(&internal("tmpfs", "/dev/shm", &["nosuid", "mode=1777", "size=65536k"]))
                .unwrap();
        assert_eq!((placed.source.as_str(), placed.shm_bytes), ("coffer-volume:shm", Some(64 << 20)));
        assert_eq!(placed.options, ["rbind", "nosuid"]);
    }

    #[test]
    fn the_sandboxes_shm_is_the_pods_and_tells_its_size() {
        let mount = bind("/run/containerd/sandboxes/s/shm", "/dev/shm", &["rw"]);
        let placed = classify(&mount, &on(FileSystem::Tmpfs { bytes: 1 << 20 })).unwrap();
        assert_eq!((placed.source.as_str(), placed.shm_bytes), ("coffer-volume:shm", Some(1 << 20)));
    }

    #[test]
    fn an_empty_directory_in_memory_at_dev_shm_stays_that_volume() {
        let mount = bind(&format!("{PODS}/volumes/kubernetes.io~empty-dir/shm"), "/dev/shm", &["rw"]);
        let source = on(FileSystem::Tmpfs { bytes: 1 << 20 });
        assert_eq!(content(&mount, &source), Content::Tmpfs { bytes: 1 << 20, root: LOOK });
    }

    #[test]
    fn the_hosts_file_follows_the_host() {
        let mount = bind(&format!("{PODS}/etc-hosts"), "/etc/hosts", &["rw"]);
        let changes = Changes::ToGuest;
        assert_eq!(
            content(&mount, &of_kind(SMALL)),
            Content::SyncedFile { source: mount.source.clone(), changes }
        );
    }

    #[test]
    fn the_resolver_file_of_containerd_is_copied_though_writable() {
        let mount = bind("/run/containerd/sandboxes/s/resolv.conf", "/etc/resolv.conf", &["rw"]);
        assert!(matches!(
            content(&mount, &of_kind(SMALL)),
            Content::SyncedFile { changes: Changes::ToGuest, .. }
        ));
    }

    #[test]
    fn a_synced_file_is_mounted_as_that_file() {
        let mount = bind(&format!("{PODS}/etc-hosts"), "/etc/hosts", &["rw"]);
        let placed = classify(&mount, &of_kind(SMALL)).unwrap();
        assert_eq!(placed.source, format!("coffer-volume:{}/file", placed.volume.unwrap().id));
        assert_eq!(placed.options, ["rbind", "rw"]);
    }

    #[test]
    fn the_termination_log_comes_back() {
        let mount = bind(&format!("{PODS}/containers/app/1a2b"), "/dev/termination-log", &["rw"]);
        assert!(matches!(
            content(&mount, &of_kind(SMALL)),
            Content::SyncedFile { changes: Changes::ToHost, .. }
        ));
    }

    #[test]
    fn a_config_map_is_a_live_copy() {
        let mount = bind(&format!("{PODS}/volumes/kubernetes.io~configmap/c"), "/etc/c", &["ro"]);
        assert!(matches!(content(&mount, &directory()), Content::SyncedDirectory { live: true, .. }));
    }

    #[test]
    fn a_service_account_token_is_a_live_copy() {
        let mount = bind(&format!("{PODS}/volumes/kubernetes.io~projected/token"), "/run/secrets", &["ro"]);
        assert!(matches!(content(&mount, &directory()), Content::SyncedDirectory { live: true, .. }));
    }

    #[test]
    fn a_file_of_a_config_map_by_sub_path_is_copied_once() {
        let mount = bind(&format!("{PODS}/volume-subpaths/c/app/0"), "/etc/c.conf", &["ro"]);
        assert!(matches!(
            content(&mount, &of_kind(SMALL)),
            Content::SyncedFile { changes: Changes::Stay, .. }
        ));
    }

    #[test]
    fn a_directory_of_a_config_map_by_sub_path_is_copied_once() {
        let mount = bind(&format!("{PODS}/volume-subpaths/c/app/0"), "/etc/c", &["ro"]);
        let volume = PathBuf::from(format!("{PODS}/volumes/kubernetes.io~configmap/c"));
        let part = Some(Part { volume, path: "..v1/dir".to_owned(), of: Box::new(directory()) });
        let source = Source { part, ..directory() };
        assert!(matches!(content(&mount, &source), Content::SyncedDirectory { live: false, .. }));
    }

    #[test]
    fn an_empty_directory_is_scratch_with_the_hosts_owner_and_mode() {
        let mount = bind(&format!("{PODS}/volumes/kubernetes.io~empty-dir/cache"), "/cache", &["rw"]);
        assert_eq!(content(&mount, &directory()), Content::Scratch { root: LOOK });
    }

    #[test]
    fn an_empty_directory_below_a_tmpfs_root_is_still_scratch() {
        let mount = bind(&format!("{PODS}/volumes/kubernetes.io~empty-dir/cache"), "/cache", &["rw"]);
        let source = Source { mount_root: false, ..on(FileSystem::Tmpfs { bytes: 1 }) };
        assert_eq!(content(&mount, &source), Content::Scratch { root: LOOK });
    }

    #[test]
    fn a_sub_path_of_an_empty_directory_is_the_same_volume() {
        let whole = bind(&format!("{PODS}/volumes/kubernetes.io~empty-dir/cache"), "/cache", &["rw"]);
        let sub = bind(&format!("{PODS}/volume-subpaths/cache/app/0"), "/part", &["rw"]);
        let part =
            Some(Part { volume: whole.source.clone(), path: "a/b".to_owned(), of: Box::new(directory()) });
        let of_whole = classify(&whole, &directory()).unwrap();
        let of_sub = classify(&sub, &Source { part, ..directory() }).unwrap();
        assert_eq!(of_sub.volume, of_whole.volume);
        assert_eq!(of_sub.source, format!("{}/a/b", of_whole.source));
    }

    #[test]
    fn an_empty_directory_of_huge_pages_is_refused() {
        let mount = bind(&format!("{PODS}/volumes/kubernetes.io~empty-dir/huge"), "/huge", &["rw"]);
        assert!(matches!(classify(&mount, &on(FileSystem::Hugetlbfs)), Err(Refused::HugePages { .. })));
    }

    #[test]
    fn a_host_directory_is_served_as_its_mount_allows() {
        let (rw, ro) = (bind("/srv", "/srv", &["rw"]), bind("/srv", "/srv", &["ro"]));
        assert!(matches!(
            content(&rw, &directory()),
            Content::Share { read_only: false, recursive: true, .. }
        ));
        assert!(matches!(
            content(&ro, &directory()),
            Content::Share { read_only: true, recursive: true, .. }
        ));
        assert_ne!(classify(&rw, &directory()).unwrap().volume, classify(&ro, &directory()).unwrap().volume);
    }

    #[test]
    fn a_volume_of_a_storage_driver_is_served() {
        let mount = bind(&format!("{PODS}/volumes/kubernetes.io~csi/pvc/mount"), "/data", &["rw"]);
        assert!(matches!(content(&mount, &directory()), Content::Share { read_only: false, .. }));
    }

    #[test]
    fn a_small_file_that_may_only_be_read_is_copied_and_follows() {
        let mount = bind("/etc/machine-id", "/etc/machine-id", &["ro"]);
        assert!(matches!(
            content(&mount, &of_kind(SMALL)),
            Content::SyncedFile { changes: Changes::ToGuest, .. }
        ));
    }

    #[test]
    fn a_file_that_may_be_written_is_served() {
        let mount = bind("/var/log/app.log", "/log", &["rw"]);
        let placed = classify(&mount, &of_kind(SMALL)).unwrap();
        assert!(placed.source.ends_with("/file"));
        assert!(matches!(placed.volume.unwrap().content, Content::Share { read_only: false, .. }));
    }

    #[test]
    fn a_large_file_is_served() {
        let mount = bind("/srv/model.bin", "/model.bin", &["ro"]);
        let source = of_kind(SourceKind::File { bytes: MAX_COPIED_FILE + 1 });
        assert!(matches!(content(&mount, &source), Content::Share { read_only: true, .. }));
    }

    #[test]
    fn a_block_device_file_is_a_disk() {
        let device = BlockDevice { major: 8, minor: 16 };
        let placed =
            classify(&bind("/dev/sdb", "/dev/xvda", &["rw"]), &of_kind(SourceKind::BlockDevice(device)))
                .unwrap();
        let volume = placed.volume.unwrap();
        assert_eq!(volume.content, Content::Disk { device, read_only: false, node: LOOK });
        assert_eq!(placed.source, format!("coffer-volume:{}", volume.id));
    }

    #[test]
    fn bidirectional_propagation_is_refused_in_words_of_kubernetes() {
        let refused = classify(&bind("/srv", "/srv", &["rshared"]), &directory()).unwrap_err();
        assert!(refused.to_string().contains("mountPropagation"));
    }

    #[test]
    fn propagation_from_the_host_is_refused() {
        assert!(matches!(
            classify(&bind("/srv", "/srv", &["rslave"]), &directory()),
            Err(Refused::Propagation { .. })
        ));
    }

    #[test]
    fn a_socket_is_refused() {
        let mount = bind("/run/containerd/containerd.sock", "/c.sock", &["rw"]);
        let refused = classify(&mount, &of_kind(SourceKind::Socket));
        assert!(matches!(refused, Err(Refused::OneKernel { what: "socket", .. })));
    }

    #[test]
    fn a_named_pipe_is_refused() {
        let refused = classify(&bind("/run/p", "/p", &["rw"]), &of_kind(SourceKind::Fifo));
        assert!(matches!(refused, Err(Refused::OneKernel { what: "named pipe", .. })));
    }

    #[test]
    fn a_character_device_is_refused() {
        let refused = classify(&bind("/dev/kvm", "/dev/kvm", &["rw"]), &of_kind(SourceKind::CharacterDevice));
        assert!(matches!(refused, Err(Refused::OneKernel { what: "character device", .. })));
    }

    #[test]
    fn the_hosts_proc_is_refused() {
        let refused = classify(&bind("/proc", "/host/proc", &["ro"]), &on(FileSystem::Kernel("proc")));
        assert!(matches!(refused, Err(Refused::HostKernel { name: "proc", .. })));
    }

    #[test]
    fn the_hosts_devices_are_refused() {
        let refused = classify(&bind("/dev", "/host/dev", &["ro"]), &on(FileSystem::Tmpfs { bytes: 1 }));
        assert!(matches!(refused, Err(Refused::HostKernel { name: "devtmpfs", .. })));
    }

    #[test]
    fn a_source_without_a_root_is_refused() {
        assert!(matches!(
            classify(&bind("srv", "/srv", &["rw"]), &directory()),
            Err(Refused::Relative { .. })
        ));
    }
}
