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
use rustix::fs::FsWord;

use super::BootError;

/// Directories that the root needs before anything is mounted.
const DIRECTORIES: [&str; 7] = ["dev", "etc", "proc", "root", "run", "sys", "tmp"];
const STAGING: &str = "/root.new";
/// `RAMFS_MAGIC` and `TMPFS_MAGIC` of linux/magic.h.
const INITRAMFS: [FsWord; 2] = [0x8584_58f6, 0x0102_1994];

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

/// Started as PID 1 of something else, a container on a workstation say, the agent must not touch what it finds there.
pub(super) fn refuse_other_than_initramfs() -> Result<(), BootError> {
    let found =
        rustix::fs::statfs("/").map_err(|errno| BootError::Root { step: "statfs", source: errno.into() })?;
    check(found.f_type)
}

fn check(magic: FsWord) -> Result<(), BootError> {
    if INITRAMFS.contains(&magic) { Ok(()) } else { Err(BootError::NotInitramfs { magic }) }
}

/// Makes a directory with mode 0755, unless it is there.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_a_disk_is_not_taken_for_an_initramfs() {
        const EXT4: FsWord = 0xef53;
        assert!(matches!(check(EXT4), Err(BootError::NotInitramfs { magic: EXT4 })));
        assert!(INITRAMFS.into_iter().all(|magic| check(magic).is_ok()));
    }
}
