//! Collects the parts of one snapshot: contents go to files nobody sees yet, the rest is checked and kept.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;

use coffer_protocol::agent::{FileEntry, SyncVolumeRequest};
use coffer_protocol::{MAX_SNAPSHOT_BYTES, MAX_SNAPSHOT_ENTRIES};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::VolumeError;
use super::path::RelPath;

/// The longest target of a symbolic link in bytes.
const MAX_TARGET: usize = 4095;

/// Permission bits and owner of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) mode: Mode,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// What an entry of a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    Directory,
    /// Its bytes are in the file `staged` of the stage directory.
    File {
        staged: String,
        size: u64,
    },
    Link {
        target: CString,
    },
}

/// One entry of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) content: Content,
    pub(super) attributes: Attributes,
}

/// A whole snapshot: every entry's parent is the root or a directory of the snapshot.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) root: Option<Attributes>,
    pub(super) entries: BTreeMap<RelPath, Wanted>,
}

/// A snapshot of which parts are missing.
#[derive(Debug)]
pub(super) struct Stage {
    volume: String,
    generation: u64,
    root: Option<Attributes>,
    entries: BTreeMap<RelPath, Wanted>,
    bytes: u64,
    received: usize,
}

impl Stage {
    /// An empty stage for the snapshot `generation`.
    pub(super) fn new(volume: &str, generation: u64) -> Stage {
        let entries = BTreeMap::new();
        Stage { volume: volume.to_owned(), generation, root: None, entries, bytes: 0, received: 0 }
    }

    /// Which snapshot this is.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Takes a part, writing contents into the directory `stage`.
    pub(super) fn accept(&mut self, part: &SyncVolumeRequest, stage: &OwnedFd) -> Result<(), VolumeError> {
        for entry in &part.entries {
            self.received += 1;
            self.bytes = self.bytes.saturating_add(entry.data.len() as u64);
            if self.received > MAX_SNAPSHOT_ENTRIES || self.bytes > MAX_SNAPSHOT_BYTES {
                return Err(VolumeError::TooLarge { id: self.volume.clone() });
            }
            self.take(entry, stage)?;
        }
        Ok(())
    }

    /// The snapshot, once its last part is here.
    pub(super) fn finish(self) -> Result<Snapshot, VolumeError> {
        for path in self.entries.keys() {
            let parent = RelPath::entry(&self.volume, path.split().0)?;
            let known = parent.is_root()
                || self.entries.get(&parent).is_some_and(|wanted| wanted.content == Content::Directory);
            if !known {
                return Err(self.broken(path, "its parent is not a directory of the snapshot"));
            }
        }
        Ok(Snapshot { root: self.root, entries: self.entries })
    }

    fn take(&mut self, entry: &FileEntry, stage: &OwnedFd) -> Result<(), VolumeError> {
        let path = RelPath::entry(&self.volume, &entry.path)?;
        let attributes =
            Attributes { mode: Mode::from_raw_mode(entry.mode & 0o7777), uid: entry.uid, gid: entry.gid };
        if entry.uid == u32::MAX || entry.gid == u32::MAX {
            return Err(self.broken(&path, "its owner or group is the number that means none"));
        }
        let kind = FileType::from_raw_mode(entry.mode);
        if entry.offset != 0 && kind != FileType::RegularFile {
            return Err(self.broken(&path, "only a regular file comes in parts"));
        }
        if path.is_root() {
            if kind != FileType::Directory {
                return Err(self.broken(&path, "the root is not a directory"));
            }
            self.root = Some(attributes);
            return Ok(());
        }
        if entry.offset != 0 {
            return self.append(&path, entry, stage);
        }
        if self.entries.contains_key(&path) {
            return Err(self.broken(&path, "it comes twice"));
        }
        let content = self.content(&path, kind, entry, stage)?;
        self.entries.insert(path, Wanted { content, attributes });
        Ok(())
    }

    fn content(
        &self,
        path: &RelPath,
        kind: FileType,
        entry: &FileEntry,
        stage: &OwnedFd,
    ) -> Result<Content, VolumeError> {
        match kind {
            FileType::Directory => Ok(Content::Directory),
            FileType::Symlink => {
                let target = CString::new(entry.data.as_slice()).ok();
                let target = target.filter(|target| (1..=MAX_TARGET).contains(&target.as_bytes().len()));
                target.map(|target| Content::Link { target }).ok_or_else(|| {
                    self.broken(path, "its target is empty, has a zero byte or is over 4095 bytes")
                })
            }
            FileType::RegularFile => {
                let staged = format!("file-{}", self.entries.len());
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                rustix::fs::openat(stage, &staged, flags, Mode::RUSR | Mode::WUSR)
                    .map_err(io::Error::from)
                    .and_then(|file| write_at(&file, &entry.data, 0))
                    .map_err(VolumeError::io(&self.volume, "stage contents for"))?;
                Ok(Content::File { staged, size: entry.data.len() as u64 })
            }
            _ => Err(self.broken(path, "it is not a file, directory or symbolic link")),
        }
    }

    fn append(&mut self, path: &RelPath, entry: &FileEntry, stage: &OwnedFd) -> Result<(), VolumeError> {
        let out_of_order = self.broken(path, "a part of a file does not begin where the last one ended");
        let Some(Wanted { content: Content::File { staged, size }, .. }) = self.entries.get_mut(path) else {
            return Err(out_of_order);
        };
        if *size != entry.offset {
            return Err(out_of_order);
        }
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(stage, staged.as_str(), flags, Mode::empty())
            .map_err(io::Error::from)
            .and_then(|file| write_at(&file, &entry.data, entry.offset))
            .map_err(VolumeError::io(&self.volume, "stage contents for"))?;
        *size = size.saturating_add(entry.data.len() as u64);
        Ok(())
    }

    fn broken(&self, path: &RelPath, reason: &'static str) -> VolumeError {
        VolumeError::Snapshot { id: self.volume.clone(), path: path.as_str().to_owned(), reason }
    }
}

/// Empties the stage directory: what a snapshot left that was never finished.
pub(super) fn clear(stage: &OwnedFd) -> io::Result<()> {
    for entry in rustix::fs::Dir::read_from(stage)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") && entry.file_type() != FileType::Directory {
            rustix::fs::unlinkat(stage, entry.file_name(), AtFlags::empty())?;
        }
    }
    Ok(())
}

/// Writes all of `data` at `offset`.
pub(super) fn write_at(file: &OwnedFd, mut data: &[u8], mut offset: u64) -> io::Result<()> {
    while !data.is_empty() {
        let written = rustix::io::pwrite(file, data, offset)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        data = data.get(written..).unwrap_or_default();
        offset += written as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::remove::open_dir;
    use super::*;

    fn entry(path: &str, mode: u32, offset: u64, data: &[u8]) -> FileEntry {
        FileEntry { path: path.to_owned(), mode, offset, data: data.to_vec(), ..Default::default() }
    }

    fn staged(entries: Vec<FileEntry>) -> Result<Snapshot, VolumeError> {
        let base = tempfile::tempdir().unwrap();
        let dir = open_dir(rustix::fs::CWD, base.path().to_str().unwrap()).unwrap();
        let mut stage = Stage::new("v", 1);
        stage.accept(&SyncVolumeRequest { entries, ..Default::default() }, &dir)?;
        stage.finish()
    }

    #[test]
    fn a_file_in_two_parts_becomes_one() {
        let snapshot = staged(vec![entry("f", 0o100644, 0, b"ab"), entry("f", 0o100644, 2, b"c")]).unwrap();
        let wanted = snapshot.entries.values().next().unwrap();
        assert_eq!(wanted.content, Content::File { staged: "file-0".to_owned(), size: 3 });
    }

    #[test]
    fn a_part_with_a_gap_is_refused() {
        let result = staged(vec![entry("f", 0o100644, 0, b"ab"), entry("f", 0o100644, 3, b"c")]);
        assert!(matches!(result, Err(VolumeError::Snapshot { .. })));
    }

    #[test]
    fn an_entry_that_comes_twice_is_refused() {
        let result = staged(vec![entry("d", 0o40755, 0, b""), entry("d", 0o40755, 0, b"")]);
        assert!(matches!(result, Err(VolumeError::Snapshot { reason: "it comes twice", .. })));
    }

    #[test]
    fn an_entry_below_a_link_is_refused() {
        let result = staged(vec![entry("l", 0o120777, 0, b"/etc"), entry("l/passwd", 0o100644, 0, b"")]);
        assert!(matches!(result, Err(VolumeError::Snapshot { .. })));
    }

    #[test]
    fn a_device_node_is_refused() {
        assert!(matches!(staged(vec![entry("null", 0o20666, 0, b"")]), Err(VolumeError::Snapshot { .. })));
    }

    #[test]
    fn a_snapshot_with_too_many_entries_is_refused() {
        let entries = (0..=MAX_SNAPSHOT_ENTRIES).map(|n| entry(&format!("d{n}"), 0o40755, 0, b"")).collect();
        assert!(matches!(staged(entries), Err(VolumeError::TooLarge { .. })));
    }

    #[test]
    fn a_snapshot_with_too_many_bytes_is_refused() {
        let half = vec![0; (MAX_SNAPSHOT_BYTES / 2 + 1) as usize];
        let result = staged(vec![entry("a", 0o100644, 0, &half), entry("b", 0o100644, 0, &half)]);
        assert!(matches!(result, Err(VolumeError::TooLarge { .. })));
    }
}
