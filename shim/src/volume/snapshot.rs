//! Copies a directory or file of the host into memory, within limits and without following a link, and cuts the copy
//! into messages.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use coffer_protocol::agent::{FileEntry, SyncVolumeRequest};
use coffer_protocol::{MAX_SNAPSHOT_BYTES, MAX_SNAPSHOT_DEPTH, MAX_SNAPSHOT_ENTRIES, MAX_SYNC_PART};
use rustix::fs::{FileType, Mode, OFlags};
use sha2::{Digest, Sha256};

use super::content::SINGLE_FILE;

/// The link by which kubelet publishes a volume's contents.
const PUBLISHED: &str = "..data";

/// How often a directory that changes while it is copied is tried again.
const TRIES: usize = 10;

/// What an entry costs in a message besides its contents and its path.
const ENTRY_OVERHEAD: usize = 64;

/// Why a directory or file was not copied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// Too large.
    #[error(
        "it holds more than {MAX_SNAPSHOT_BYTES} bytes or {MAX_SNAPSHOT_ENTRIES} entries, or is deeper than {MAX_SNAPSHOT_DEPTH}; mount it from a PersistentVolume or a hostPath instead"
    )]
    TooLarge,
    /// Something that cannot be copied.
    #[error("{path:?} in it is not a file, directory or symbolic link")]
    Kind {
        /// Its path.
        path: String,
    },
    /// A name that the protocol cannot carry.
    #[error("a name in it below {path:?} is not UTF-8")]
    Name {
        /// The directory.
        path: String,
    },
    /// It changed too fast.
    #[error("it changed each of the {TRIES} times it was copied")]
    Restless,
    /// The system's answer.
    #[error("{path:?} in it cannot be read")]
    Read {
        /// Its path.
        path: String,
        /// The answer.
        source: io::Error,
    },
}

/// A copy of a directory, or of one file under the name [`SINGLE_FILE`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Snapshot {
    entries: Vec<FileEntry>,
}

impl Snapshot {
    /// Copies the directory that `root` is open on.
    ///
    /// Of a directory with a `..data` link only that publication is copied, not the one kubelet is about to publish
    /// or has just replaced; if the link moves meanwhile, the copy is made again.
    pub(crate) fn of_directory(root: &OwnedFd) -> Result<Snapshot, SnapshotError> {
        for _ in 0..TRIES {
            let published = published(root);
            let copy = Copy { root, published: published.clone(), entries: Vec::new(), bytes: 0 }.run();
            match copy {
                _ if self::published(root) != published => {}
                Err(SnapshotError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
        }
        Err(SnapshotError::Restless)
    }

    /// Copies the regular file that `file` is open on.
    pub(crate) fn of_file(file: &OwnedFd) -> Result<Snapshot, SnapshotError> {
        let mut copy = Copy { root: file, published: None, entries: Vec::new(), bytes: 0 };
        let stat = rustix::fs::fstat(file).map_err(failed(SINGLE_FILE))?;
        let data = copy.contents(file.as_fd(), SINGLE_FILE)?;
        copy.entries.push(entry(SINGLE_FILE, &stat, data));
        Ok(Snapshot { entries: copy.entries })
    }

    /// A value that differs when the snapshots do.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for entry in &self.entries {
            let lengths = [entry.path.len() as u64, entry.data.len() as u64];
            lengths.iter().for_each(|length| hash.update(length.to_le_bytes()));
            [entry.mode, entry.uid, entry.gid].iter().for_each(|number| hash.update(number.to_le_bytes()));
            hash.update(entry.path.as_bytes());
            hash.update(&entry.data);
        }
        hash.finalize().into()
    }

    /// The messages that carry this snapshot to the volume `id`; none is over the protocol's limit.
    pub(crate) fn into_parts(self, id: &str, generation: u64) -> Vec<SyncVolumeRequest> {
        let new = || SyncVolumeRequest { id: id.to_owned(), generation, ..Default::default() };
        let (mut parts, mut part, mut room) = (Vec::new(), new(), MAX_SYNC_PART);
        for piece in self.entries.into_iter().flat_map(pieces) {
            let size = piece.data.len() + piece.path.len() + ENTRY_OVERHEAD;
            if size > room && !part.entries.is_empty() {
                parts.push(std::mem::replace(&mut part, new()));
                room = MAX_SYNC_PART;
            }
            room = room.saturating_sub(size);
            part.entries.push(piece);
        }
        part.last = true;
        parts.push(part);
        parts
    }
}

/// Cuts an entry whose contents do not fit one message.
fn pieces(entry: FileEntry) -> Vec<FileEntry> {
    /// Leaves room for the longest path and some small entries.
    const PIECE: usize = MAX_SYNC_PART - (8 << 10);
    if entry.data.len() <= PIECE {
        return vec![entry];
    }
    let cut = |(number, data): (usize, &[u8])| FileEntry {
        offset: (number * PIECE) as u64,
        data: data.to_vec(),
        path: entry.path.clone(),
        special_fields: Default::default(),
        ..entry
    };
    entry.data.chunks(PIECE).enumerate().map(cut).collect()
}

struct Copy<'a> {
    root: &'a OwnedFd,
    /// Target of the `..data` link.
    published: Option<Vec<u8>>,
    entries: Vec<FileEntry>,
    bytes: u64,
}

impl Copy<'_> {
    fn run(mut self) -> Result<Snapshot, SnapshotError> {
        let stat = rustix::fs::fstat(self.root).map_err(failed(""))?;
        self.entries.push(entry("", &stat, Vec::new()));
        let mut waiting = VecDeque::from([String::new()]);
        while let Some(dir) = waiting.pop_front() {
            if dir.split('/').count() >= MAX_SNAPSHOT_DEPTH {
                return Err(SnapshotError::TooLarge);
            }
            self.directory(&dir, &mut waiting)?;
        }
        Ok(Snapshot { entries: self.entries })
    }

    fn directory(&mut self, dir: &str, waiting: &mut VecDeque<String>) -> Result<(), SnapshotError> {
        let open = self.open(dir)?;
        let mut names = Vec::new();
        for item in rustix::fs::Dir::read_from(&open).map_err(failed(dir))? {
            let item = item.map_err(failed(dir))?;
            let name = item.file_name().to_str().map_err(|_| SnapshotError::Name { path: dir.to_owned() })?;
            if !matches!(name, "." | "..") && (!dir.is_empty() || self.is_current(name)) {
                names.push(name.to_owned());
            }
            if names.len() > MAX_SNAPSHOT_ENTRIES {
                return Err(SnapshotError::TooLarge);
            }
        }
        names.sort();
        for name in names {
            let path = if dir.is_empty() { name.clone() } else { format!("{dir}/{name}") };
            self.item(&open, &name, path, waiting)?;
        }
        Ok(())
    }

    fn item(
        &mut self,
        dir: &OwnedFd,
        name: &str,
        path: String,
        waiting: &mut VecDeque<String>,
    ) -> Result<(), SnapshotError> {
        if self.entries.len() >= MAX_SNAPSHOT_ENTRIES {
            return Err(SnapshotError::TooLarge);
        }
        let node =
            rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                .map_err(failed(&path))?;
        let stat = rustix::fs::fstat(&node).map_err(failed(&path))?;
        let data = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                waiting.push_back(path.clone());
                Vec::new()
            }
            FileType::Symlink => {
                rustix::fs::readlinkat(&node, "", Vec::new()).map_err(failed(&path))?.into_bytes()
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(failed(&path))?;
                self.contents(file.as_fd(), &path)?
            }
            _ => return Err(SnapshotError::Kind { path }),
        };
        self.entries.push(entry(&path, &stat, data));
        Ok(())
    }

    fn contents(&mut self, file: BorrowedFd<'_>, path: &str) -> Result<Vec<u8>, SnapshotError> {
        let stat = rustix::fs::fstat(file).map_err(failed(path))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(SnapshotError::Kind { path: path.to_owned() });
        }
        let mut data = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            // At an offset, because a descriptor that is kept for later copies has one position.
            let count =
                rustix::io::pread(file, buffer.as_mut_slice(), data.len() as u64).map_err(failed(path))?;
            self.bytes += count as u64;
            if self.bytes > MAX_SNAPSHOT_BYTES {
                return Err(SnapshotError::TooLarge);
            }
            match buffer.get(..count) {
                Some(bytes) if count > 0 => data.extend_from_slice(bytes),
                _ => return Ok(data),
            }
        }
    }

    fn open(&self, path: &str) -> Result<OwnedFd, SnapshotError> {
        let path_or_dot = if path.is_empty() { "." } else { path };
        let within = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat2(self.root, path_or_dot, flags, Mode::empty(), within).map_err(failed(path))
    }

    /// Whether a name at the top belongs to what is published now.
    fn is_current(&self, name: &str) -> bool {
        match &self.published {
            None => true,
            Some(target) => {
                !name.starts_with("..") || name == PUBLISHED || name.as_bytes() == target.as_slice()
            }
        }
    }
}

fn published(root: &OwnedFd) -> Option<Vec<u8>> {
    rustix::fs::readlinkat(root, PUBLISHED, Vec::new()).ok().map(|target| target.into_bytes())
}

fn entry(path: &str, stat: &rustix::fs::Stat, data: Vec<u8>) -> FileEntry {
    FileEntry {
        path: path.to_owned(),
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        data,
        ..Default::default()
    }
}

fn failed(path: &str) -> impl FnOnce(rustix::io::Errno) -> SnapshotError {
    let path = path.to_owned();
    move |error| SnapshotError::Read { path, source: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn open(path: &Path) -> OwnedFd {
        fs::File::open(path).unwrap().into()
    }

    fn copied(dir: &Path) -> Result<Vec<(String, Vec<u8>)>, SnapshotError> {
        let snapshot = Snapshot::of_directory(&open(dir))?;
        Ok(snapshot.entries.into_iter().map(|entry| (entry.path, entry.data)).collect())
    }

    fn paths(dir: &Path) -> Vec<String> {
        copied(dir).unwrap().into_iter().map(|(path, _)| path).collect()
    }

    fn publish(dir: &Path, version: &str, value: &str) {
        fs::create_dir(dir.join(version)).unwrap();
        fs::write(dir.join(version).join("key"), value).unwrap();
        symlink(version, dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    }

    #[test]
    fn only_the_current_publication_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        publish(dir.path(), "..v1", "old");
        publish(dir.path(), "..v2", "new");
        symlink("..data/key", dir.path().join("key")).unwrap();
        assert_eq!(paths(dir.path()), ["", "..data", "..v2", "key", "..v2/key"]);
    }

    #[test]
    fn a_link_is_copied_as_a_link() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/etc/passwd", dir.path().join("link")).unwrap();
        assert_eq!(copied(dir.path()).unwrap()[1], ("link".to_owned(), b"/etc/passwd".to_vec()));
    }

    #[test]
    fn a_socket_in_a_directory_is_refused_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
        assert!(matches!(copied(dir.path()), Err(SnapshotError::Kind { path }) if path == "s"));
    }

    #[test]
    fn a_directory_with_too_many_entries_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        (0..=MAX_SNAPSHOT_ENTRIES).for_each(|n| fs::write(dir.path().join(n.to_string()), "").unwrap());
        assert!(matches!(copied(dir.path()), Err(SnapshotError::TooLarge)));
    }

    #[test]
    fn a_directory_with_too_many_bytes_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::File::create(dir.path().join("f")).unwrap().set_len(MAX_SNAPSHOT_BYTES + 1).unwrap();
        assert!(matches!(copied(dir.path()), Err(SnapshotError::TooLarge)));
    }

    #[test]
    fn a_directory_that_is_too_deep_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(vec!["d"; MAX_SNAPSHOT_DEPTH + 1].join("/"))).unwrap();
        assert!(matches!(copied(dir.path()), Err(SnapshotError::TooLarge)));
    }

    #[test]
    fn equal_directories_have_equal_digests_and_a_changed_mode_differs() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "x").unwrap();
        let digest = || Snapshot::of_directory(&open(dir.path())).unwrap().digest();
        let before = digest();
        assert_eq!(digest(), before);
        fs::set_permissions(dir.path().join("f"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        assert_ne!(digest(), before);
    }

    #[test]
    fn a_large_file_is_cut_into_messages_that_fit() {
        let dir = tempfile::tempdir().unwrap();
        let contents: Vec<u8> = (0..7_000_001_u32).map(|n| (n % 251) as u8).collect();
        fs::write(dir.path().join("f"), &contents).unwrap();
        let parts = Snapshot::of_directory(&open(dir.path())).unwrap().into_parts("v", 7);
        let sizes = parts.iter().map(|part| part.entries.iter().map(|entry| entry.data.len()).sum::<usize>());
        assert!(sizes.max().unwrap() <= MAX_SYNC_PART);
        assert_eq!(parts.iter().map(|part| part.last).collect::<Vec<_>>(), [false, false, true]);
        let joined: Vec<u8> =
            parts.iter().flat_map(|part| &part.entries).flat_map(|entry| entry.data.clone()).collect();
        assert!(joined == contents);
    }

    #[test]
    fn an_empty_directory_is_one_message() {
        let dir = tempfile::tempdir().unwrap();
        let parts = Snapshot::of_directory(&open(dir.path())).unwrap().into_parts("v", 1);
        assert_eq!((parts.len(), parts[0].entries.len(), parts[0].last), (1, 1, true));
    }

    #[test]
    fn a_file_is_copied_again_from_its_start() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "first").unwrap();
        let file = open(&dir.path().join("f"));
        Snapshot::of_file(&file).unwrap();
        fs::write(dir.path().join("f"), "second").unwrap();
        assert_eq!(Snapshot::of_file(&file).unwrap().entries[0].data, b"second");
    }
}
