//! Puts a tmpfs over the initramfs, because the kernel refuses pivot_root(2) from the initramfs itself, and every
//! container needs it.
//!
//! The agent keeps running from the file that the initramfs holds; nothing can reach that file by a path any more,
//! and `/proc/self/exe` still names it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot};

use super::BootError;

/// Directories that the root needs before anything is mounted.
const DIRECTORIES: [&str; 7] = ["dev", "etc", "proc", "root", "run", "sys", "tmp"];
const STAGING: &str = "/root.new";

/// Makes a tmpfs the root directory of PID 1.
pub(super) fn enter() -> Result<(), BootError> {
    let at = |step| move |source: io::Error| BootError::Root { step, source };
    make_dir(Path::new(STAGING)).map_err(at("mkdir"))?;
    mount(Some("coffer"), STAGING, Some("tmpfs"), MsFlags::MS_NODEV, Some("mode=0755"))
        .map_err(io::Error::from)
        .map_err(at("mount"))?;
    for directory in DIRECTORIES {
        make_dir(&Path::new(STAGING).join(directory)).map_err(at("mkdir"))?;
    }
    fs::set_permissions(Path::new(STAGING).join("root"), fs::Permissions::from_mode(0o700))
        .map_err(at("chmod"))?;
    // Some programs look at /etc/mtab; in the guest's own root nothing else is ever looked up in /etc.
    symlink("/proc/self/mounts", Path::new(STAGING).join("etc/mtab")).map_err(at("symlink"))?;
    // The agent's own executable is in the initramfs, and a container's first process is briefly a copy of it: nobody
    // shall write to it by way of /proc/<pid>/exe.
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    if let Err(errno) = mount(None::<&str>, "/", None::<&str>, read_only, None::<&str>) {
        tracing::warn!(%errno, "the initramfs stays writable");
    }
    chdir(STAGING).map_err(io::Error::from).map_err(at("chdir"))?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .map_err(io::Error::from)
        .map_err(at("move"))?;
    chroot(".").map_err(io::Error::from).map_err(at("chroot"))?;
    chdir("/").map_err(io::Error::from).map_err(at("chdir"))
}

/// Makes a directory with mode 0755, unless it is there.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}
