//! Opens a block device of the host by its numbers.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};

use super::content::BlockDevice;

/// Opens the node that `/dev` has for the device, and checks that it is the device.
pub(crate) fn open_device(device: BlockDevice, read_only: bool) -> io::Result<OwnedFd> {
    let BlockDevice { major, minor } = device;
    let uevent = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent"))?;
    let name =
        uevent.lines().find_map(|line| line.strip_prefix("DEVNAME=")).ok_or(io::ErrorKind::NotFound)?;
    let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
    let path = Path::new("/dev").join(name);
    let node = rustix::fs::openat(CWD, &path, access | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
    let stat = rustix::fs::fstat(&node)?;
    let found = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    if FileType::from_raw_mode(stat.st_mode) != FileType::BlockDevice || found != (major, minor) {
        return Err(io::Error::other(format!("{} is not block device {major}:{minor}", path.display())));
    }
    Ok(node)
}
