//! The few mounts that volumes are made of.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use coffer_protocol::agent::{DiskVolume, ScratchVolume, TmpfsVolume};
use coffer_protocol::{MAX_SNAPSHOT_BYTES, MAX_SNAPSHOT_ENTRIES};
use rustix::fs::{FileType, Gid, Mode, Uid};
use rustix::mount::{MountFlags, UnmountFlags};

/// Message size of a share: large enough for throughput, small enough that the kernel always finds the memory.
const SHARE_MSIZE: u32 = 128 << 10;

/// File systems of disks. Any other that the kernel may have reads something else than a disk, or was never meant for one that
/// a stranger made.
const OF_DISKS: [&str; 2] = ["ext4", "erofs"];

/// A tmpfs for a `files` volume. It holds the old and the new snapshot at once.
pub(super) fn files(target: &Path) -> io::Result<()> {
    let bytes = 2 * MAX_SNAPSHOT_BYTES + (4 << 20);
    let inodes = 2 * MAX_SNAPSHOT_ENTRIES + 1024;
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    mount("tmpfs", target, "tmpfs", flags, &format!("mode=0755,size={bytes},nr_inodes={inodes}"))
}

/// A tmpfs that is a volume itself.
pub(super) fn tmpfs(target: &Path, volume: &TmpfsVolume) -> io::Result<()> {
    let mode = if volume.mode == 0 { 0o1777 } else { volume.mode & 0o7777 };
    let size = if volume.bytes == 0 { String::new() } else { format!(",size={}", volume.bytes) };
    let data = format!("mode={mode:04o},uid={},gid={}{size}", volume.uid, volume.gid);
    mount("tmpfs", target, "tmpfs", MountFlags::NODEV | MountFlags::NOSUID, &data)
}

/// Gives a new directory on the scratch its mode and owner.
pub(super) fn scratch(target: &Path, volume: &ScratchVolume) -> io::Result<()> {
    let mode = if volume.mode == 0 { 0o777 } else { volume.mode & 0o7777 };
    rustix::fs::mkdir(target, Mode::RWXU)?;
    rustix::fs::chown(target, owner(volume.uid)?, group(volume.gid)?)?;
    Ok(rustix::fs::chmod(target, Mode::from_raw_mode(mode))?)
}

/// Whether a disk may hold this file system.
pub(super) fn is_of_disks(fs_type: &str) -> bool {
    OF_DISKS.contains(&fs_type)
}

/// Mounts the file system of a disk.
pub(super) fn disk(device: &Path, target: &Path, volume: &DiskVolume) -> io::Result<()> {
    let read_only = if volume.read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    let device = device.to_str().ok_or(io::ErrorKind::InvalidInput)?;
    mount(device, target, &volume.fs_type, MountFlags::NODEV | read_only, "")
}

/// Makes `<target>/device`, a node for the disk of its own mode and owner, on a tmpfs that honours nodes. Answers the
/// device's number.
pub(super) fn node(device: &Path, target: &Path, volume: &DiskVolume) -> io::Result<u64> {
    let number = rustix::fs::stat(device)?.st_rdev;
    mount(
        "tmpfs",
        target,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        "mode=0755,size=64k,nr_inodes=16",
    )?;
    let mode = if volume.mode == 0 { 0o660 } else { volume.mode & 0o777 };
    let path = target.join(NODE);
    rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::BlockDevice, Mode::RUSR | Mode::WUSR, number)?;
    rustix::fs::chown(&path, owner(volume.uid)?, group(volume.gid)?)?;
    rustix::fs::chmod(&path, Mode::from_raw_mode(mode))?;
    Ok(number)
}

/// Name of the node of a raw disk in its volume.
pub(super) const NODE: &str = "device";

/// Mounts 9P over a connected socket; returns when the other side has answered, so it may take long.
///
/// The server answers with qid version 0, which keeps reads and writes out of the page cache: what the host writes is
/// seen, and `cache=mmap` only adds shared mappings to that.
pub(super) fn share(stream: &OwnedFd, target: &Path, read_only: bool) -> io::Result<()> {
    let fd = stream.as_raw_fd();
    let data = format!(
        "trans=fd,rfdno={fd},wfdno={fd},version=9p2000.L,msize={SHARE_MSIZE},cache=mmap,access=client"
    );
    let read_only = if read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    mount("coffer-share", target, "9p", MountFlags::NODEV | read_only, &data)
}

/// Unmounts; what still has files open there keeps the file system until it closes them.
pub(super) fn unmount(target: &Path) -> io::Result<()> {
    match rustix::mount::unmount(target, UnmountFlags::NOFOLLOW) {
        Err(rustix::io::Errno::BUSY) => {
            Ok(rustix::mount::unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?)
        }
        other => Ok(other?),
    }
}

fn mount(source: &str, target: &Path, fs_type: &str, flags: MountFlags, data: &str) -> io::Result<()> {
    let data = CString::new(data)?;
    Ok(rustix::mount::mount(source, target, fs_type, flags, data.as_c_str())?)
}

/// The kernel's "leave it" number is no owner.
fn owner(uid: u32) -> io::Result<Option<Uid>> {
    if uid == u32::MAX { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(Some(Uid::from_raw(uid))) }
}

fn group(gid: u32) -> io::Result<Option<Gid>> {
    if gid == u32::MAX { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(Some(Gid::from_raw(gid))) }
}
