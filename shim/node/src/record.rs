//! A pod's record: every resource that the pod has on this node, written down before it is made.
//!
//! ```text
//! /run/coffer/<namespace>/<pod>/record.json      add ──► write tmp ──► rename ──► only now make the resource
//! ```
//! Whoever finds a record whose shim is dead can undo the pod by it (see [`crate::cleanup`]). An entry may name a
//! thing that was never made; undoing that is a no-op. A process is the one exception to "before": its pid is not
//! known earlier, so it is written directly after the spawn, and until then the kernel's parent-death signal and
//! the pod's cgroup stand for it.

use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::images::ToldImage;
use crate::process::{ProcessId, boot_id};

/// File name of the record in a pod's run directory.
pub const RECORD_FILE: &str = "record.json";

/// Version of the record's form; a record of another version is reported, not guessed at.
pub const RECORD_VERSION: u32 = 1;

/// A record larger than this is not one of ours.
const MAX_RECORD_BYTES: u64 = 1 << 20;

/// Longest socket path that fits `sockaddr_un` with its terminating zero.
const MAX_SOCKET_PATH: usize = 107;

/// Room kept for a socket's name in a run directory: `/vsock.sock_65535`.
const SOCKET_NAME_ROOM: usize = 17;

/// Names a pod on this node: containerd's namespace and the sandbox's (or lone container's) id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodKey {
    namespace: String,
    pod: String,
}

/// One thing that a pod has made outside its own processes' memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Resource {
    /// A child of the shim.
    Process {
        /// Which.
        process: ProcessId,
        /// What it does, for people: `qemu`, `vsock`, `mkfs`.
        role: String,
    },
    /// A tap device and the traffic redirection between it and a link of the pod's network namespace.
    Tap {
        /// The namespace.
        netns: Netns,
        /// Name of the tap.
        tap: String,
        /// Name of the link that it is joined to.
        link: String,
    },
    /// An nftables table of family inet in the pod's network namespace.
    NftTable {
        /// The namespace.
        netns: Netns,
        /// Its name.
        table: String,
    },
    /// A cgroup directory made for this pod.
    Cgroup {
        /// The directory.
        path: PathBuf,
    },
    /// The unprivileged user that the pod's processes run as.
    UidLease {
        /// User id.
        uid: u32,
        /// The file that stands for the lease.
        path: PathBuf,
    },
    /// A mount that the shim made, undone with everything below it.
    Mount {
        /// Mount point.
        path: PathBuf,
    },
    /// A socket or plain file.
    File {
        /// Its path.
        path: PathBuf,
    },
    /// A directory, removed with its contents; mounts below it are detached first.
    Directory {
        /// Its path.
        path: PathBuf,
    },
    /// A layer of the cache in use by the pod, kept from being pruned; undoing it removes nothing.
    Layer {
        /// `sha256:<hex>`.
        digest: String,
    },
}

/// A network namespace by path, and by inode so that another namespace at the same path is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Netns {
    /// Path as containerd gave it.
    pub path: PathBuf,
    /// Inode number of the namespace.
    pub inode: u64,
}

/// The contents of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// Which pod.
    pub key: PodKey,
    /// Boot in which processes, namespaces, mounts and cgroups of this record exist.
    pub boot_id: String,
    /// The pod's shim.
    pub shim: ProcessId,
    /// Address on which the shim answers containerd.
    pub shim_address: Option<String>,
    /// containerd's bundle directory.
    pub bundle: PathBuf,
    /// The pod's network namespace, if it has one.
    pub netns: Option<Netns>,
    /// Trace id of the pod's start.
    pub trace_id: String,
    /// When the record was opened, in milliseconds since the epoch.
    pub created_unix_ms: u64,
    /// Hypervisor in use, once chosen.
    pub hypervisor: Option<String>,
    /// What exists, oldest first.
    pub resources: Vec<Resource>,
    /// What the guest said of its containers' images; the newest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ToldImage>,
}

/// What the shim knows when it opens a record.
#[derive(Debug, Clone)]
pub struct NewPod {
    /// Which pod.
    pub key: PodKey,
    /// containerd's bundle directory.
    pub bundle: PathBuf,
    /// Address on which the shim answers containerd.
    pub shim_address: Option<String>,
    /// Trace id of the pod's start.
    pub trace_id: String,
}

/// The record of a living pod, shared by all parts of its shim; clones are the same record.
#[derive(Debug, Clone)]
pub struct PodRecord {
    run_dir: PathBuf,
    record: Arc<Mutex<Record>>,
}

/// Why a record could not be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A namespace or id that cannot be a path component.
    #[error(
        "{what} {value:?} cannot name a directory: use letters, digits, '.', '_' and '-', at most 128 of them, not starting with '.' or '-'"
    )]
    Name {
        /// Which of the two.
        what: &'static str,
        /// As given.
        value: String,
    },
    /// Sockets in the run directory would not fit the kernel's limit.
    #[error(
        "run directory {path} is too long for sockets in it: {length} bytes, at most {limit}; set a shorter run_dir"
    )]
    PathTooLong {
        /// The directory.
        path: PathBuf,
        /// Its length.
        length: usize,
        /// What would fit.
        limit: usize,
    },
    /// The pod has a record already.
    #[error("pod {key} already has a record at {path}; if no such pod runs, `coffer gc` removes it")]
    Exists {
        /// Which pod.
        key: PodKey,
        /// The record.
        path: PathBuf,
    },
    /// The record is not there.
    #[error("no record at {path}")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The record's bytes are not a record.
    #[error("record {path} is corrupt: {reason}")]
    Corrupt {
        /// The record.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The record was written by another release.
    #[error("record {path} has version {found}, this release knows {RECORD_VERSION}")]
    Version {
        /// The record.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The operating system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
}

impl PodKey {
    /// Checks that both names can be path components.
    pub fn new(namespace: &str, pod: &str) -> Result<Self, RecordError> {
        check_name("namespace", namespace)?;
        check_name("pod id", pod)?;
        Ok(PodKey { namespace: namespace.to_owned(), pod: pod.to_owned() })
    }

    /// containerd's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The pod's id.
    pub fn pod(&self) -> &str {
        &self.pod
    }

    /// The pod's run directory.
    pub fn run_dir(&self, run_root: &Path) -> PathBuf {
        run_root.join(&self.namespace).join(&self.pod)
    }
}

impl std::fmt::Display for PodKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.pod)
    }
}

impl Netns {
    /// The namespace that is at `path` now.
    pub fn at(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        Ok(Netns { path: path.to_owned(), inode: fs::metadata(path)?.ino() })
    }

    /// Whether the same namespace is still there.
    pub fn still_there(&self) -> bool {
        Netns::at(&self.path).is_ok_and(|now| now.inode == self.inode)
    }
}

impl Record {
    /// Reads the record in a pod's run directory.
    pub fn load(run_dir: &Path) -> Result<Self, RecordError> {
        let path = run_dir.join(RECORD_FILE);
        let bytes = read_bounded(&path)?;
        let corrupt = |reason: String| RecordError::Corrupt { path: path.clone(), reason };
        let version: Version = serde_json::from_slice(&bytes).map_err(|err| corrupt(err.to_string()))?;
        if version.version != RECORD_VERSION {
            return Err(RecordError::Version { path, found: version.version });
        }
        let record: Record = serde_json::from_slice(&bytes).map_err(|err| corrupt(err.to_string()))?;
        check_name("namespace", &record.key.namespace)?;
        check_name("pod id", &record.key.pod)?;
        Ok(record)
    }

    /// Whether the record is of the current boot and its shim runs.
    pub fn shim_is_alive(&self) -> bool {
        boot_id().is_ok_and(|boot| boot == self.boot_id) && self.shim.is_alive()
    }
}

impl PodRecord {
    /// Makes the pod's run directory (mode 0711) and an empty record in it.
    pub fn create(run_root: &Path, pod: NewPod) -> Result<Self, RecordError> {
        let run_dir = pod.key.run_dir(run_root);
        let limit = MAX_SOCKET_PATH - SOCKET_NAME_ROOM;
        let length = run_dir.as_os_str().as_bytes().len();
        if length > limit {
            return Err(RecordError::PathTooLong { path: run_dir, length, limit });
        }
        let path = run_dir.join(RECORD_FILE);
        make_dir(&run_dir)?;
        if path.exists() {
            return Err(RecordError::Exists { key: pod.key, path });
        }
        let proc_path = Path::new("/proc/self/stat");
        let record = Record {
            version: RECORD_VERSION,
            key: pod.key,
            boot_id: boot_id()
                .map_err(|source| io_error("read the boot id below", Path::new("/proc"), source))?,
            shim: ProcessId::current().map_err(|source| io_error("read", proc_path, source))?,
            shim_address: pod.shim_address,
            bundle: pod.bundle,
            netns: None,
            trace_id: pod.trace_id,
            created_unix_ms: unix_millis(),
            hypervisor: None,
            resources: Vec::new(),
            images: Vec::new(),
        };
        write_atomically(&path, &record)?;
        Ok(PodRecord { run_dir, record: Arc::new(Mutex::new(record)) })
    }

    /// The pod's run directory.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// Which pod.
    pub fn key(&self) -> PodKey {
        self.lock().key.clone()
    }

    /// Writes a resource down; make the resource only after this returned `Ok`.
    pub fn add(&self, resource: Resource) -> Result<(), RecordError> {
        self.add_all(vec![resource])
    }

    /// Writes several resources down at once.
    pub fn add_all(&self, resources: Vec<Resource>) -> Result<(), RecordError> {
        self.update(|record| {
            for resource in resources {
                if !record.resources.contains(&resource) {
                    record.resources.push(resource);
                }
            }
        })
    }

    /// Strikes a resource out, after it is gone.
    pub fn forget(&self, resource: &Resource) -> Result<(), RecordError> {
        self.update(|record| record.resources.retain(|kept| kept != resource))
    }

    /// Changes the record and writes it; on an error neither the file nor this value has changed.
    pub fn update(&self, change: impl FnOnce(&mut Record)) -> Result<(), RecordError> {
        let mut current = self.lock();
        let mut next = current.clone();
        change(&mut next);
        if next != *current {
            write_atomically(&self.run_dir.join(RECORD_FILE), &next)?;
            *current = next;
        }
        Ok(())
    }

    /// A copy of the record as it is now.
    pub fn snapshot(&self) -> Record {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        // `update` replaces the value whole, so a panic elsewhere cannot leave half a record behind.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

fn check_name(what: &'static str, value: &str) -> Result<(), RecordError> {
    let fits = value.len() <= 128
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && value.bytes().next().is_some_and(|b| !matches!(b, b'.' | b'-'));
    if fits { Ok(()) } else { Err(RecordError::Name { what, value: value.chars().take(160).collect() }) }
}

fn make_dir(path: &Path) -> Result<(), RecordError> {
    // 0711: the pod's unprivileged processes pass through to their sockets but cannot list.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .map_err(|source| io_error("make directory", path, source))
}

/// The run directory is on a tmpfs, which a crash of the host empties, so nothing is synced.
fn write_atomically(path: &Path, record: &Record) -> Result<(), RecordError> {
    let tmp = path.with_extension("json.new");
    let bytes = serde_json::to_vec_pretty(record)
        .map_err(|err| io_error("encode", path, io::Error::new(io::ErrorKind::InvalidData, err)))?;
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&tmp)
        .and_then(|mut file| file.write_all(&bytes))
        .map_err(|source| io_error("write", &tmp, source))?;
    fs::rename(&tmp, path).map_err(|source| io_error("rename to", path, source))
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, RecordError> {
    let found = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => RecordError::Missing { path: path.to_owned() },
        _ => io_error("read", path, source),
    };
    let size = fs::metadata(path).map_err(found)?.len();
    if size > MAX_RECORD_BYTES {
        let reason = format!("{size} bytes, a record has at most {MAX_RECORD_BYTES}");
        return Err(RecordError::Corrupt { path: path.to_owned(), reason });
    }
    fs::read(path).map_err(found)
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> RecordError {
    RecordError::Io { action, path: path.to_owned(), source }
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_pod(pod: &str) -> NewPod {
        NewPod {
            key: PodKey::new("k8s.io", pod).expect("a valid key"),
            bundle: PathBuf::from("/bundle"),
            shim_address: Some("unix:///run/s".to_owned()),
            trace_id: "0".repeat(32),
        }
    }

    fn some_file() -> Resource {
        Resource::File { path: PathBuf::from("/x") }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let root = tempfile::tempdir().expect("a directory");
        let record = PodRecord::create(root.path(), new_pod("p1")).expect("created");
        record.add(some_file()).expect("added");
        assert_eq!(Record::load(record.run_dir()).expect("loads"), record.snapshot());
        assert!(record.snapshot().shim_is_alive());
    }

    #[test]
    fn a_forgotten_resource_is_no_longer_in_the_file() {
        let root = tempfile::tempdir().expect("a directory");
        let record = PodRecord::create(root.path(), new_pod("p1")).expect("created");
        record.add(some_file()).expect("added");
        record.forget(&some_file()).expect("forgotten");
        assert_eq!(Record::load(record.run_dir()).expect("loads").resources, Vec::new());
    }

    #[test]
    fn a_second_record_for_the_same_pod_is_refused() {
        let root = tempfile::tempdir().expect("a directory");
        PodRecord::create(root.path(), new_pod("p1")).expect("created");
        assert!(matches!(PodRecord::create(root.path(), new_pod("p1")), Err(RecordError::Exists { .. })));
    }

    #[test]
    fn a_cut_record_is_reported_as_corrupt() {
        let root = tempfile::tempdir().expect("a directory");
        let record = PodRecord::create(root.path(), new_pod("p1")).expect("created");
        let path = record.run_dir().join(RECORD_FILE);
        let bytes = fs::read(&path).expect("readable");
        fs::write(&path, bytes.get(..bytes.len() / 2).expect("half")).expect("written");
        assert!(matches!(Record::load(record.run_dir()), Err(RecordError::Corrupt { .. })));
    }

    #[test]
    fn a_missing_record_is_reported_as_missing() {
        let root = tempfile::tempdir().expect("a directory");
        assert!(matches!(Record::load(root.path()), Err(RecordError::Missing { .. })));
    }

    #[test]
    fn a_record_of_a_later_release_is_reported_by_its_version() {
        let root = tempfile::tempdir().expect("a directory");
        fs::write(root.path().join(RECORD_FILE), r#"{"version": 99, "other": true}"#).expect("written");
        assert!(matches!(Record::load(root.path()), Err(RecordError::Version { found: 99, .. })));
    }

    #[test]
    fn a_pod_id_that_climbs_out_of_the_run_directory_is_refused() {
        assert!(matches!(PodKey::new("k8s.io", ".."), Err(RecordError::Name { .. })));
        assert!(matches!(PodKey::new("a/b", "p"), Err(RecordError::Name { .. })));
        assert!(matches!(PodKey::new("", "p"), Err(RecordError::Name { .. })));
    }

    #[test]
    fn a_run_directory_too_long_for_sockets_is_refused() {
        let root = tempfile::tempdir().expect("a directory");
        let deep = root.path().join("d".repeat(90));
        assert!(matches!(PodRecord::create(&deep, new_pod("p1")), Err(RecordError::PathTooLong { .. })));
    }

    #[test]
    fn a_record_of_another_boot_has_no_living_shim() {
        let root = tempfile::tempdir().expect("a directory");
        let record = PodRecord::create(root.path(), new_pod("p1")).expect("created");
        record.update(|r| r.boot_id = "another".to_owned()).expect("updated");
        assert!(!record.snapshot().shim_is_alive());
    }
}
