//! Looks into a volume: no link that a container made leads out of it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::path::RelPath;
use super::remove::open_dir;

/// Makes the directories of `path` that are missing, with the mode and owner of the volume's root.
pub(super) fn make_missing(root: &OwnedFd, path: &RelPath) -> io::Result<()> {
    let like = rustix::fs::fstat(root)?;
    for prefix in path.prefixes() {
        if !matches!(open_inside(root, &RelPath::prefix(prefix), OFlags::PATH), Err(e) if e.kind() == io::ErrorKind::NotFound)
        {
            continue;
        }
        let (parent, name) = prefix.rsplit_once('/').unwrap_or(("", prefix));
        let parent = open_inside(root, &RelPath::prefix(parent), OFlags::RDONLY | OFlags::DIRECTORY)?;
        match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => continue,
            Err(error) => return Err(error.into()),
        }
        let made = open_dir(&parent, name)?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(like.st_uid), rustix::fs::Gid::from_raw(like.st_gid));
        rustix::fs::fchown(&made, Some(uid), Some(gid))?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(like.st_mode & 0o7777))?;
    }
    Ok(())
}

/// Opens a path of a volume as if the volume were the root of the file system: no link leads out of it.
pub(super) fn open_inside(root: &OwnedFd, path: &RelPath, flags: OFlags) -> io::Result<OwnedFd> {
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(root, path.below_root(), flags | OFlags::CLOEXEC, Mode::empty(), within)?)
}

/// The last `max_bytes` of a regular file.
pub(super) fn read_end(root: &Path, path: &RelPath, max_bytes: u64) -> io::Result<Vec<u8>> {
    let root = open_dir(CWD, path_text(root)?)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut file = std::fs::File::from(open_inside(&root, path, flags)?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    io::Seek::seek(&mut file, io::SeekFrom::Start(metadata.len().saturating_sub(max_bytes)))?;
    let mut data = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, max_bytes), &mut data)?;
    Ok(data)
}

/// A path as text: those made of checked ids always are.
pub(super) fn path_text(path: &Path) -> io::Result<&str> {
    path.to_str().ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
