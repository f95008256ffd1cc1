//! A pod's scratch disk: an empty, sparse ext4 file system in a file that has no name, so nothing of it can be left.
//!
//! `mkfs.ext4` runs once per size and node and leaves a template of a few hundred KiB of real blocks; a disk is a copy
//! of those blocks into an unnamed file, or a reflink where the file system can. No journal: a scratch does not
//! survive its pod. Its inode tables are marked as zeroed, so that the guest does not fill the sparse file with zeros.
//! A disk that the guest encrypts is an unnamed file without anything in it.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{OFlags, SeekFrom as RawSeek, ioctl_ficlone, seek, statvfs};
use rustix::io::Errno;

use super::locks;
use crate::host::find_program;

/// Changes with the way in which templates are made.
const GENERATION: u32 = 1;

/// The same for every scratch, so that a template does not depend on chance.
const SCRATCH_UUID: &str = "c0ffe2c0-ffe2-4000-8000-000000000002";

/// Bytes copied between two reads.
const CHUNK: usize = 1 << 16;

/// Makes scratch disks from a template that is made once per size.
#[derive(Debug, Clone)]
pub struct Scratch {
    dir: PathBuf,
}

/// Why there is no scratch disk.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// `mkfs.ext4` could not be started or failed.
    #[error("mkfs.ext4 could not make a scratch template of {bytes} bytes: {reason}; install e2fsprogs")]
    Mkfs {
        /// Size asked for.
        bytes: u64,
        /// What happened.
        reason: String,
    },
    /// The file system is full.
    #[error(
        "no space for a scratch disk below {dir}: {available} bytes are free; free some, or run `coffer layers prune`"
    )]
    NoSpace {
        /// The directory.
        dir: PathBuf,
        /// Bytes free.
        available: u64,
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

impl Scratch {
    /// Scratch disks in the file system of the layer cache at `root`.
    pub fn open(root: &Path) -> Result<Self, ScratchError> {
        let scratch = Scratch { dir: root.join("scratch") };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&scratch.dir)
            .map_err(|source| scratch.failed("make directory", &scratch.dir, source))?;
        Ok(scratch)
    }

    /// A fresh disk of `bytes` bytes holding an empty ext4 file system, opened for reading and writing.
    pub fn disk(&self, bytes: u64) -> Result<OwnedFd, ScratchError> {
        let template = self.template(bytes)?;
        let disk = self.unnamed()?;
        copy(&template, &disk, bytes)
            .map_err(|source| self.failed("fill a scratch disk in", &self.dir, source))?;
        Ok(disk.into())
    }

    /// A fresh disk of `bytes` bytes holding nothing at all, opened for reading and writing.
    pub fn empty(&self, bytes: u64) -> Result<OwnedFd, ScratchError> {
        let disk = self.unnamed()?;
        disk.set_len(bytes).map_err(|source| self.failed("size a scratch disk in", &self.dir, source))?;
        Ok(disk.into())
    }

    fn template(&self, bytes: u64) -> Result<File, ScratchError> {
        let path = self.dir.join(format!("ext4-{bytes}-{GENERATION}.img"));
        if let Ok(template) = File::open(&path) {
            return Ok(template);
        }
        let lock = self.dir.join("lock");
        let _lock = locks::take(&lock).map_err(|source| self.failed("lock", &lock, source))?;
        if let Ok(template) = File::open(&path) {
            return Ok(template);
        }
        let draft = self.dir.join("draft");
        let made = self.make_template(&draft, bytes);
        if made.is_err() {
            // The error that matters is the one that is returned; a draft that stays is overwritten by the next try.
            drop(fs::remove_file(&draft));
        }
        made?;
        fs::rename(&draft, &path).map_err(|source| self.failed("rename to", &path, source))?;
        File::open(&path).map_err(|source| self.failed("open", &path, source))
    }

    fn make_template(&self, draft: &Path, bytes: u64) -> Result<(), ScratchError> {
        // `assume_storage_prezeroed` came with e2fsprogs 1.47; before, the guest zeroes the tables in the background.
        let marked = self.mkfs(draft, bytes, "nodiscard,assume_storage_prezeroed=1");
        let made = marked.or_else(|_| self.mkfs(draft, bytes, "nodiscard,lazy_itable_init=1"));
        match made {
            Err(ScratchError::Mkfs { reason, .. }) if reason.contains("No space left on device") => {
                Err(self.no_space())
            }
            Ok(()) => File::open(draft)
                .and_then(|file| file.sync_data())
                .map_err(|source| self.failed("write", draft, source)),
            other => other,
        }
    }

    fn mkfs(&self, draft: &Path, bytes: u64, extended: &str) -> Result<(), ScratchError> {
        let file = File::create(draft).map_err(|source| self.failed("make", draft, source))?;
        file.set_len(bytes).map_err(|source| self.failed("size", draft, source))?;
        let name = Path::new("mkfs.ext4");
        let output = Command::new(find_program(name).unwrap_or(name.to_owned()))
            .args([
                "-q",
                "-F",
                "-m",
                "0",
                "-O",
                "^has_journal,^resize_inode",
                "-U",
                SCRATCH_UUID,
                "-E",
                extended,
            ])
            .arg(draft)
            .env_clear()
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .map_err(|err| ScratchError::Mkfs { bytes, reason: err.to_string() })?;
        if output.status.success() {
            return Ok(());
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        Err(ScratchError::Mkfs { bytes, reason: format!("{}: {}", output.status, complaint.trim()) })
    }

    /// A file without a name; where the file system has none such, one whose name is removed at once.
    fn unnamed(&self) -> Result<File, ScratchError> {
        let mut options = File::options();
        options.read(true).write(true).mode(0o600);
        let flag = i32::try_from(OFlags::TMPFILE.bits()).unwrap_or_default();
        match options.clone().custom_flags(flag).open(&self.dir) {
            Ok(file) => Ok(file),
            Err(err) if is_unsupported(&err) => {
                let path = self.dir.join(format!("disk-{}", std::process::id()));
                let file = options.create_new(true).open(&path);
                let file = file.map_err(|source| self.failed("make", &path, source))?;
                fs::remove_file(&path).map_err(|source| self.failed("remove", &path, source))?;
                Ok(file)
            }
            Err(source) => Err(self.failed("make a file in", &self.dir, source)),
        }
    }

    fn failed(&self, action: &'static str, path: &Path, source: io::Error) -> ScratchError {
        match source.kind() {
            io::ErrorKind::StorageFull => self.no_space(),
            _ => ScratchError::Io { action, path: path.to_owned(), source },
        }
    }

    fn no_space(&self) -> ScratchError {
        let available = statvfs(&self.dir).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        ScratchError::NoSpace { dir: self.dir.clone(), available }
    }
}

fn is_unsupported(err: &io::Error) -> bool {
    let code = err.raw_os_error();
    [Errno::OPNOTSUPP, Errno::ISDIR, Errno::INVAL].iter().any(|errno| code == Some(errno.raw_os_error()))
}

/// Copies the template's blocks and leaves its holes.
fn copy(template: &File, disk: &File, bytes: u64) -> io::Result<()> {
    if ioctl_ficlone(disk, template).is_ok() {
        return Ok(());
    }
    disk.set_len(bytes)?;
    let mut from = 0;
    while let Some(start) = next(template, RawSeek::Data(from))? {
        let end = next(template, RawSeek::Hole(start))?.unwrap_or(bytes);
        copy_range(template, disk, start, end)?;
        from = end;
    }
    Ok(())
}

/// The offset of the next data or hole; `None` behind the last.
fn next(file: &File, what: RawSeek) -> io::Result<Option<u64>> {
    match seek(file, what) {
        Ok(offset) => Ok(Some(offset)),
        Err(Errno::NXIO) => Ok(None),
        Err(err) => Err(err.into()),
    }
}

fn copy_range(template: &File, disk: &File, start: u64, end: u64) -> io::Result<()> {
    let mut chunk = [0; CHUNK];
    let mut offset = start;
    while offset < end {
        let wanted = usize::try_from(end - offset).unwrap_or(CHUNK).min(CHUNK);
        let part = chunk.get_mut(..wanted).unwrap_or_default();
        template.read_exact_at(part, offset)?;
        disk.write_all_at(part, offset)?;
        offset += u64::try_from(wanted).unwrap_or(u64::MAX);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;

    const SIZE: u64 = 1 << 30;

    fn fsck(disk: &File) -> bool {
        let path = format!("/proc/{}/fd/{}", std::process::id(), disk.as_raw_fd());
        let checker = find_program(Path::new("e2fsck")).expect("e2fsprogs is installed");
        Command::new(checker).args(["-fn", &path]).stdout(Stdio::null()).status().expect("it runs").success()
    }

    #[test]
    fn a_disk_holds_a_sound_file_system_and_few_blocks() {
        let root = tempfile::tempdir().expect("a directory");
        let disk = File::from(Scratch::open(root.path()).expect("opened").disk(SIZE).expect("made"));
        let metadata = disk.metadata().expect("examined");
        assert_eq!(metadata.len(), SIZE);
        assert!(metadata.blocks() * 512 < 4 << 20, "{} bytes are allocated", metadata.blocks() * 512);
        assert!(fsck(&disk));
    }

    #[test]
    fn a_disk_has_no_name() {
        let root = tempfile::tempdir().expect("a directory");
        let disk = File::from(Scratch::open(root.path()).expect("opened").disk(SIZE).expect("made"));
        assert_eq!(disk.metadata().expect("examined").nlink(), 0);
        let left: Vec<_> = fs::read_dir(root.path().join("scratch"))
            .expect("listed")
            .map(|entry| entry.expect("listed").file_name())
            .collect();
        assert_eq!(left.len(), 2, "only the template and the lock: {left:?}");
    }

    #[test]
    fn a_disk_for_the_guest_to_encrypt_has_a_size_and_nothing_else() {
        let root = tempfile::tempdir().expect("a directory");
        let disk = File::from(Scratch::open(root.path()).expect("opened").empty(SIZE).expect("made"));
        let metadata = disk.metadata().expect("examined");
        assert_eq!((metadata.len(), metadata.blocks(), metadata.nlink()), (SIZE, 0, 0));
        let left = fs::read_dir(root.path().join("scratch")).expect("listed").count();
        assert_eq!(left, 0, "no template is made");
    }

    #[test]
    fn two_disks_do_not_share_what_is_written() {
        let root = tempfile::tempdir().expect("a directory");
        let scratch = Scratch::open(root.path()).expect("opened");
        let first = File::from(scratch.disk(SIZE).expect("made"));
        first.write_all_at(&[0xff; 4096], 0).expect("written");
        assert!(fsck(&File::from(scratch.disk(SIZE).expect("made"))));
    }

    #[test]
    fn a_size_that_holds_no_file_system_is_an_error_and_leaves_nothing() {
        let root = tempfile::tempdir().expect("a directory");
        let scratch = Scratch::open(root.path()).expect("opened");
        assert!(matches!(scratch.disk(4096), Err(ScratchError::Mkfs { .. })));
        assert!(!root.path().join("scratch/draft").exists());
    }
}
