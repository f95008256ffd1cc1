//! Makes one EROFS file of one directory, by `mkfs.erofs`.
//!
//! The image is uncompressed (reads are cheap, and the host's page cache is shared by all pods), has a fixed UUID
//! and build time, and keeps owners, modes, times, devices and all extended attributes, so overlay's whiteouts (0:0
//! character devices) and `trusted.overlay.*` marks work in the guest as on the host. It is written to a file of its
//! own in `tmp/`, held by a lock: whoever finds one without a holder may remove it.

#![allow(unsafe_code)] // `pre_exec`, so that a converter does not outlive the shim that is killed beside it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Signal, set_parent_process_death_signal};

use super::{LayerError, locks};

/// The same for every image: an image is told from another by its digest.
const IMAGE_UUID: &str = "c0ffe2c0-ffe2-4000-8000-000000000001";

/// The build time of every image. Later file times would be cut to it, so it is the latest that fits 32 bits.
const LATEST_TIME: &str = "4294967295";

/// How much of the converter's complaints is kept.
const MAX_COMPLAINT: u64 = 4096;

/// A file in `tmp/` that vanishes with this value unless it is published.
#[derive(Debug)]
pub(super) struct Draft {
    path: PathBuf,
    file: File,
}

impl Draft {
    /// Makes an empty, locked file, after removing those that nobody holds.
    pub(super) fn new(root: &Path) -> io::Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let dir = root.join("tmp");
        // Between its making and its lock a draft would look abandoned, so makers and sweepers take turns.
        let _turn = locks::take(&root.join("locks/drafts"))?;
        sweep(&dir)?;
        let name = format!("{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let path = dir.join(name);
        let file = File::options().read(true).write(true).create_new(true).mode(0o400).open(&path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Draft { path, file })
    }

    /// Where the file is until it is published.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file, still of this name or already published.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its lasting name.
    pub(super) fn publish(&self, to: &Path) -> io::Result<()> {
        self.file.sync_data()?;
        fs::rename(&self.path, to)
    }

    /// Opens the file for reading only, as it goes to a guest.
    pub(super) fn open_read_only(&self) -> io::Result<File> {
        File::open(&self.path)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After `publish` there is nothing of this name. What cannot be removed now is swept by the next conversion.
        drop(fs::remove_file(&self.path));
    }
}

/// Writes an EROFS image of `dir` to the file `image`, by the program `mkfs`. The same files give the same bytes.
///
/// # Errors
/// [`LayerError`]
pub fn convert(mkfs: &Path, dir: &Path, image: &Path) -> Result<(), LayerError> {
    let mut child = spawn(mkfs, dir, image)?;
    let complaint = read_complaint(&mut child);
    let status = child.wait().map_err(|source| LayerError::NoMkfs { program: mkfs.to_owned(), source })?;
    if status.success() {
        return Ok(());
    }
    if complaint.contains("No space left on device") {
        return Err(no_space(image.parent().unwrap_or(Path::new("/")), dir));
    }
    Err(LayerError::Mkfs {
        program: mkfs.to_owned(),
        layer: dir.to_owned(),
        reason: format!("{status}: {}", complaint.trim().replace('\n', "; ")),
    })
}

/// The error for a full file system, with the numbers that help.
pub(super) fn no_space(cache: &Path, dir: &Path) -> LayerError {
    LayerError::NoSpace {
        layer: dir.to_owned(),
        needed: size_of_tree(dir),
        available: available(cache),
        cache: cache.to_owned(),
    }
}

fn spawn(mkfs: &Path, dir: &Path, image: &Path) -> Result<Child, LayerError> {
    let mut command = Command::new(mkfs);
    command
        .args(["--quiet", "--preserve-mtime", "-U", IMAGE_UUID])
        .arg(image)
        .arg(dir)
        .env_clear()
        .envs([("SOURCE_DATE_EPOCH", LATEST_TIME), ("LC_ALL", "C")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    // SAFETY: the closure runs between fork and exec, where only async-signal-safe calls are allowed; it makes one
    // system call and allocates nothing.
    unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
    command.spawn().map_err(|source| LayerError::NoMkfs { program: mkfs.to_owned(), source })
}

/// Reads to the end, so that the converter never blocks on a full pipe, and keeps the beginning.
fn read_complaint(child: &mut Child) -> String {
    let Some(mut stderr) = child.stderr.take() else { return String::new() };
    let mut kept = Vec::new();
    let read = stderr.by_ref().take(MAX_COMPLAINT).read_to_end(&mut kept);
    drop(read.and_then(|_| io::copy(&mut stderr, &mut io::sink())));
    String::from_utf8_lossy(&kept).into_owned()
}

/// Removes drafts whose holder is gone.
pub(super) fn sweep(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let abandoned = File::open(&path)
            .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok());
        if abandoned {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn available(dir: &Path) -> u64 {
    rustix::fs::statvfs(dir).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Bytes of the regular files; only for the message, so what cannot be read counts nothing.
fn size_of_tree(dir: &Path) -> u64 {
    let mut bytes = 0u64;
    let mut pending = vec![dir.to_owned()];
    while let Some(parent) = pending.pop() {
        for entry in fs::read_dir(&parent).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => pending.push(entry.path()),
                Ok(metadata) if metadata.is_file() => bytes = bytes.saturating_add(metadata.len()),
                _ => {}
            }
        }
    }
    bytes
}
