//! Puts volumes in place and takes them away.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use coffer_protocol::agent::{DiskVolume, ShareVolume, Volume, volume};
use rustix::fs::{CWD, Mode};

use crate::image::find_disk;

use super::files::Files;
use super::inside::path_text;
use super::remove::{open_dir, remove_tree};
use super::share::{PATIENCE, Streams};
use super::{VolumeError, mounts};

/// A volume that is in place.
pub(super) struct Live {
    /// What containers see as the volume's root.
    pub(super) root: PathBuf,
    pub(super) content: Content,
}

/// What a volume is made of, as far as later calls care.
pub(super) enum Content {
    Files(Files),
    /// A tmpfs or a scratch directory: starts empty, so a path in it that is missing is made.
    Space {
        mounted: bool,
    },
    Share {
        stream: OwnedFd,
    },
    Disk,
    Device(Device),
    Shm,
}

/// A block device by its numbers in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) read_only: bool,
}

/// Where volumes are put.
pub(super) struct Places {
    /// Directory of the mounts, one subdirectory per volume.
    base: PathBuf,
    /// Directory of the scratch volumes, on the pod's scratch, out of containers' sight.
    scratch: PathBuf,
    pub(super) streams: Streams,
}

impl Places {
    pub(super) fn new(base: PathBuf, scratch: PathBuf) -> Places {
        Places { base, scratch, streams: Streams::default() }
    }

    /// Puts a volume in place, or leaves nothing of it.
    pub(super) async fn make(&self, volume: &Volume) -> Result<Live, VolumeError> {
        let made = self.make_kind(volume).await;
        if made.is_err() {
            let target = self.base.join(&volume.id);
            // Whatever of it is there; none of this is an error, and the first failure is the one to report.
            let _ = mounts::unmount(&target);
            let _ = std::fs::remove_dir(&target);
            let _ = std::fs::remove_dir(self.scratch.join(&volume.id));
        }
        made
    }

    async fn make_kind(&self, volume: &Volume) -> Result<Live, VolumeError> {
        let (id, target) = (volume.id.as_str(), self.base.join(&volume.id));
        let live = |root: PathBuf, content| Ok(Live { root, content });
        match &volume.kind {
            Some(volume::Kind::Files(_)) => make_files(id, &target),
            Some(volume::Kind::Tmpfs(space)) => {
                make_mount_point(id, &target)?;
                mounts::tmpfs(&target, space).map_err(mount_error(id, "a tmpfs", &target))?;
                live(target, Content::Space { mounted: true })
            }
            Some(volume::Kind::Scratch(space)) => {
                let target = self.scratch.join(id);
                std::fs::create_dir_all(&self.scratch).map_err(VolumeError::io(id, "make a place for"))?;
                mounts::scratch(&target, space).map_err(mount_error(id, "a scratch directory", &target))?;
                live(target, Content::Space { mounted: false })
            }
            Some(volume::Kind::Share(share)) => self.make_share(id, target, share).await,
            Some(volume::Kind::Disk(disk)) => make_disk(id, target, disk).await,
            _ => Err(VolumeError::Unfit { id: id.to_owned(), reason: "this agent does not know its kind" }),
        }
    }

    async fn make_share(&self, id: &str, target: PathBuf, share: &ShareVolume) -> Result<Live, VolumeError> {
        make_mount_point(id, &target)?;
        let stream = self.streams.take(id).await?;
        let handle = stream.try_clone().map_err(VolumeError::io(id, "keep the stream of"))?;
        let (place, read_only) = (target.clone(), share.read_only);
        let mut mounting = tokio::task::spawn_blocking(move || mounts::share(&stream, &place, read_only));
        let mounted = match tokio::time::timeout(PATIENCE, &mut mounting).await {
            Ok(done) => done,
            Err(_) => {
                // The kernel waits for an answer; an end of the stream is one.
                let _ = rustix::net::shutdown(&handle, rustix::net::Shutdown::Both);
                let _ = mounting.await;
                return Err(VolumeError::Late {
                    id: id.to_owned(),
                    what: "answer of the file server",
                    waited: PATIENCE,
                });
            }
        };
        mounted.unwrap_or_else(|gone| Err(gone.into())).map_err(mount_error(id, "a share", &target))?;
        Ok(Live { root: target, content: Content::Share { stream: handle } })
    }

    /// Takes a volume away.
    pub(super) async fn unmake(&self, id: &str, live: Live) -> Result<(), VolumeError> {
        let (base, scratch) = (self.base.join(id), self.scratch.clone());
        let name = id.to_owned();
        if let Content::Space { mounted: false } = live.content {
            return blocking(id, "remove", move || {
                remove_scratch(&scratch, &name).map_err(VolumeError::io(&name, "remove"))
            })
            .await;
        }
        // Descriptors into the file system go first: they would keep it busy.
        let stream = match live.content {
            Content::Share { stream } => Some(stream),
            other => {
                drop(other);
                None
            }
        };
        let mut unmounting = tokio::task::spawn_blocking(move || {
            mounts::unmount(&base)?;
            std::fs::remove_dir(&base)
        });
        let done = match (tokio::time::timeout(PATIENCE, &mut unmounting).await, stream) {
            (Ok(done), _) => done,
            (Err(_), Some(stream)) => {
                let _ = rustix::net::shutdown(&stream, rustix::net::Shutdown::Both);
                unmounting.await
            }
            (Err(_), None) => unmounting.await,
        };
        done.unwrap_or_else(|gone| Err(gone.into())).map_err(VolumeError::io(id, "unmount"))
    }
}

fn make_files(id: &str, target: &Path) -> Result<Live, VolumeError> {
    make_mount_point(id, target)?;
    mounts::files(target).map_err(mount_error(id, "a tmpfs", target))?;
    let make = |name: &str, mode| -> io::Result<OwnedFd> {
        let path = target.join(name);
        rustix::fs::mkdir(&path, mode)?;
        Ok(open_dir(CWD, path_text(&path)?)?)
    };
    let root = make("root", Mode::from_raw_mode(0o755)).map_err(VolumeError::io(id, "make"))?;
    let stage_dir = make("stage", Mode::RWXU).map_err(VolumeError::io(id, "make"))?;
    let files = Files::new(id, root, stage_dir);
    Ok(Live { root: target.join("root"), content: Content::Files(files) })
}

async fn make_disk(id: &str, target: PathBuf, disk: &DiskVolume) -> Result<Live, VolumeError> {
    if !disk.fs_type.is_empty() && !mounts::is_of_disks(&disk.fs_type) {
        let reason = "file systems of disks are ext4 and erofs";
        return Err(VolumeError::Unfit { id: id.to_owned(), reason });
    }
    let device = find_disk(&disk.serial).await;
    let device = device.map_err(|source| VolumeError::Disk { id: id.to_owned(), source })?;
    make_mount_point(id, &target)?;
    let (disk, place, name) = (disk.clone(), target.clone(), id.to_owned());
    blocking(id, "mount", move || {
        if disk.fs_type.is_empty() {
            let number =
                mounts::node(&device, &place, &disk).map_err(mount_error(&name, "a device node", &place))?;
            let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
            let device = Device { major, minor, read_only: disk.read_only };
            Ok(Live { root: place, content: Content::Device(device) })
        } else {
            mounts::disk(&device, &place, &disk).map_err(mount_error(&name, &disk.fs_type, &place))?;
            Ok(Live { root: place, content: Content::Disk })
        }
    })
    .await
}

fn make_mount_point(id: &str, target: &Path) -> Result<(), VolumeError> {
    std::fs::create_dir_all(target).map_err(VolumeError::io(id, "make a mount point for"))
}

fn mount_error(id: &str, what: &str, target: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let (id, what, target) = (id.to_owned(), what.to_owned(), target.to_owned());
    move |source| VolumeError::Mount { id, what, target, source }
}

/// Removes a scratch volume with all that containers left in it, by way of a directory that none of them sees.
fn remove_scratch(scratch: &Path, id: &str) -> io::Result<()> {
    // A volume's id cannot begin with a dot.
    let trash_path = scratch.join(".trash");
    std::fs::create_dir_all(&trash_path)?;
    let (scratch, trash) = (open_dir(CWD, path_text(scratch)?)?, open_dir(CWD, path_text(&trash_path)?)?);
    remove_tree(&scratch, id, &trash)
}

/// Runs what may take long on a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    id: &str,
    action: &'static str,
    work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
) -> Result<T, VolumeError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|gone| Err(VolumeError::Io { id: id.to_owned(), action, source: gone.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_no_file_system_of_disks_is_refused_before_a_disk_is_sought() {
        for fs_type in ["proc", "sysfs", "tmpfs", "overlay", "9p", "virtiofs", "fuseblk", "ext4 ", "EXT4"] {
            let disk = DiskVolume { fs_type: fs_type.to_owned(), ..Default::default() };
            let refused = make_disk("v", PathBuf::from("/nowhere"), &disk).await.err();
            assert!(matches!(refused, Some(VolumeError::Unfit { .. })), "{fs_type}: {refused:?}");
        }
        assert!(mounts::is_of_disks("ext4") && mounts::is_of_disks("erofs"));
    }
}
