//! Keeps a synced volume equal to its source: the first copy, later changes, and the way back.
//!
//! ```text
//! host changes ── watch ── snapshot ── differs from the last one sent? ── SyncVolume, next generation
//! container ended ── ReadVolumeFile ── the host's file, by the descriptor opened at the volume's creation
//! ```

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coffer_protocol::MAX_READ_BACK;
use coffer_protocol::agent::ReadVolumeFileRequest;
use rustix::fs::{CWD, FileType, Mode, OFlags};

use super::content::SINGLE_FILE;
use super::guest::Guest;
use super::snapshot::{Snapshot, SnapshotError};
use super::watch::Watch;

/// How long after a failed update the next one is tried, if nothing changes before.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Why a synced volume is not up to date.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    /// Its source cannot be opened.
    #[error("the source cannot be opened")]
    Open {
        /// The system's answer.
        source: io::Error,
    },
    /// Its source cannot be copied.
    #[error("the source cannot be copied")]
    Copy {
        /// Why.
        source: SnapshotError,
    },
    /// The guest did not take or give the contents.
    #[error("the guest failed to {action} the volume's files")]
    Guest {
        /// Update or read.
        action: &'static str,
        /// Its answer.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What came back was not written.
    #[error("the file on the host was not written")]
    Write {
        /// The system's answer.
        source: io::Error,
    },
}

/// What a synced volume is copied from.
pub(crate) struct SyncSource {
    file: Arc<OwnedFd>,
    directory: bool,
}

impl SyncSource {
    /// Opens a directory.
    pub(crate) fn directory(path: &Path) -> Result<SyncSource, SyncError> {
        let file = open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(SyncSource { file: Arc::new(file), directory: true })
    }

    /// Opens a regular file; for writing too if what the guest writes is to come back.
    pub(crate) fn file(path: &Path, write: bool) -> Result<SyncSource, SyncError> {
        // A file that will be written must be the one that is named, not one that a link leads to.
        let flags = if write { OFlags::RDWR | OFlags::NOFOLLOW } else { OFlags::RDONLY };
        let file = open(path, flags | OFlags::NONBLOCK)?;
        let stat = rustix::fs::fstat(&file).map_err(|error| SyncError::Open { source: error.into() })?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(SyncError::Open { source: io::ErrorKind::InvalidInput.into() });
        }
        Ok(SyncSource { file: Arc::new(file), directory: false })
    }

    /// What a watch needs: the descriptor, and whether it is a directory.
    pub(crate) fn watched(&self) -> (&OwnedFd, bool) {
        (&self.file, self.directory)
    }

    /// Reads the guest's copy of a single file and writes it over the host's, the same inode.
    pub(crate) async fn read_back(&self, id: &str, guest: &dyn Guest) -> Result<(), SyncError> {
        let request = ReadVolumeFileRequest {
            id: id.to_owned(),
            path: SINGLE_FILE.to_owned(),
            max_bytes: MAX_READ_BACK,
            ..Default::default()
        };
        let data = guest.read_volume_file(request).await;
        let mut data = data.map_err(|source| SyncError::Guest { action: "read", source })?;
        data.truncate(usize::try_from(MAX_READ_BACK).unwrap_or(usize::MAX));
        write_over(&self.file, &data).map_err(|source| SyncError::Write { source })
    }

    async fn snapshot(&self) -> Result<Snapshot, SyncError> {
        let (file, directory) = (self.file.clone(), self.directory);
        let copy = move || if directory { Snapshot::of_directory(&file) } else { Snapshot::of_file(&file) };
        let copied = tokio::task::spawn_blocking(copy).await;
        let copied = copied.map_err(|gone| SyncError::Open { source: gone.into() })?;
        copied.map_err(|source| SyncError::Copy { source })
    }
}

/// The sending side of one volume.
pub(crate) struct Sender {
    id: String,
    source: Arc<SyncSource>,
    guest: Arc<dyn Guest>,
    generation: u64,
    /// Digest of the snapshot that the guest has.
    sent: Option<[u8; 32]>,
}

impl Sender {
    /// Nothing is sent yet.
    pub(crate) fn new(id: &str, source: Arc<SyncSource>, guest: Arc<dyn Guest>) -> Sender {
        Sender { id: id.to_owned(), source, guest, generation: 0, sent: None }
    }

    /// Sends what the source holds now, unless the guest has it already.
    pub(crate) async fn send(&mut self) -> Result<(), SyncError> {
        let snapshot = self.source.snapshot().await?;
        let digest = snapshot.digest();
        if self.sent == Some(digest) {
            return Ok(());
        }
        self.generation += 1;
        for part in snapshot.into_parts(&self.id, self.generation) {
            let taken = self.guest.sync_volume(part).await;
            taken.map_err(|source| SyncError::Guest { action: "update", source })?;
        }
        self.sent = Some(digest);
        Ok(())
    }

    /// Sends every change, for as long as it is polled.
    pub(crate) async fn follow(mut self, watch: Watch) {
        let mut behind = false;
        loop {
            if behind {
                let _ = tokio::time::timeout(TRY_AGAIN, watch.changed()).await;
            } else {
                watch.changed().await;
            }
            let sent = self.send().await;
            behind = sent.is_err();
            if let Err(error) = sent {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::warn!(volume = self.id, %error, cause, "a changed volume did not reach the guest");
            }
        }
    }
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, SyncError> {
    let opened = rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty());
    opened.map_err(|error| SyncError::Open { source: error.into() })
}

fn write_over(file: &OwnedFd, data: &[u8]) -> io::Result<()> {
    let mut written = 0;
    while let Some(rest) = data.get(written..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pwrite(file, rest, written as u64)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => written += count,
        }
    }
    Ok(rustix::fs::ftruncate(file, data.len() as u64)?)
}
