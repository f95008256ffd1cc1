//! The file systems of the guest's own root.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use super::BootError;
use super::root::make_dir;

/// Where the cgroup v2 hierarchy is mounted.
pub(crate) const CGROUP_ROOT: &str = "/sys/fs/cgroup";

struct Entry {
    fs_type: &'static str,
    target: &'static str,
    options: &'static str,
    /// Besides nosuid.
    flags: MsFlags,
    needed: bool,
}

const fn entry(fs_type: &'static str, target: &'static str, options: &'static str, flags: MsFlags) -> Entry {
    Entry { fs_type, target, options, flags, needed: true }
}

const TABLE: [Entry; 9] = [
    entry("proc", "/proc", "", MsFlags::MS_NOEXEC.union(MsFlags::MS_NODEV)),
    entry("sysfs", "/sys", "", MsFlags::MS_NOEXEC.union(MsFlags::MS_NODEV)),
    entry("devtmpfs", "/dev", "mode=0755", MsFlags::MS_NOEXEC),
    entry("devpts", "/dev/pts", "newinstance,gid=5,mode=0620,ptmxmode=0666", MsFlags::MS_NOEXEC),
    entry("tmpfs", "/dev/shm", "mode=1777", MsFlags::MS_NOEXEC.union(MsFlags::MS_NODEV)),
    entry("tmpfs", "/run", "mode=0755", MsFlags::MS_NODEV),
    entry("tmpfs", "/tmp", "mode=1777", MsFlags::MS_NODEV),
    entry(
        "cgroup2",
        CGROUP_ROOT,
        "nsdelegate,memory_recursiveprot",
        MsFlags::MS_NOEXEC.union(MsFlags::MS_NODEV),
    ),
    Entry {
        fs_type: "mqueue",
        target: "/dev/mqueue",
        options: "",
        flags: MsFlags::MS_NOEXEC.union(MsFlags::MS_NODEV),
        needed: false,
    },
];

/// Mounts them all. The container runtime hands the cgroup controllers down that it uses.
pub(super) fn mount_all() -> Result<(), BootError> {
    for entry in &TABLE {
        match mount_one(entry) {
            Ok(()) => {}
            Err(source) if entry.needed => {
                return Err(BootError::Mount {
                    fs_type: entry.fs_type,
                    target: PathBuf::from(entry.target),
                    source,
                });
            }
            Err(error) => tracing::warn!(fs_type = entry.fs_type, %error, "not mounted"),
        }
    }
    Ok(())
}

fn mount_one(entry: &Entry) -> io::Result<()> {
    if entry.target != CGROUP_ROOT {
        make_dir(Path::new(entry.target))?;
    }
    let flags = MsFlags::MS_NOSUID | entry.flags;
    Ok(mount(Some(entry.fs_type), entry.target, Some(entry.fs_type), flags, Some(entry.options))?)
}
