//! What is known of a mount's source on the host: found by looking, so that classifying needs no file system.

use std::io;
use std::path::{Path, PathBuf};

use super::content::BlockDevice;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxAttributes, StatxFlags};

/// What the source of a bind mount is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// Its kind, symbolic links followed.
    pub(crate) kind: SourceKind,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// The file system that it is on.
    pub(crate) file_system: FileSystem,
    /// Whether something is mounted exactly there.
    pub(crate) mount_root: bool,
    /// For kubelet's bind mount of a part of a volume: which part.
    pub(crate) part: Option<Part>,
}

/// Kinds of sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceKind {
    /// A directory.
    Directory,
    /// A regular file of so many bytes.
    File {
        /// Its length.
        bytes: u64,
    },
    /// A block device.
    BlockDevice(BlockDevice),
    /// A character device.
    CharacterDevice,
    /// A socket.
    Socket,
    /// A named pipe.
    Fifo,
}

/// File systems that matter for what a volume becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileSystem {
    /// A tmpfs of so many bytes.
    Tmpfs {
        /// Its limit.
        bytes: u64,
    },
    /// Huge pages.
    Hugetlbfs,
    /// A window into the host's kernel (`proc`, `sysfs`, …), named.
    Kernel(&'static str),
    /// Any other.
    Other,
}

/// A part of a pod's volume, which kubelet bind-mounted for a `subPath`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// The volume's directory on the host.
    pub(crate) volume: PathBuf,
    /// The part's path in it.
    pub(crate) path: String,
    /// What the volume's directory is.
    pub(crate) of: Box<Source>,
}

/// Why a source cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FactsError {
    /// The system's answer.
    #[error("mount source {path} cannot be looked at")]
    Look {
        /// The source.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
}

/// Looks at the source of a bind mount, without opening what it is.
pub(crate) fn look(path: &Path) -> Result<Source, FactsError> {
    look_at(path).map_err(|error| FactsError::Look { path: path.to_owned(), source: error.into() })
}

fn look_at(path: &Path) -> rustix::io::Result<Source> {
    let node = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::statx(&node, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    let kind = match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
        FileType::Directory => SourceKind::Directory,
        FileType::BlockDevice => {
            SourceKind::BlockDevice(BlockDevice { major: stat.stx_rdev_major, minor: stat.stx_rdev_minor })
        }
        FileType::CharacterDevice => SourceKind::CharacterDevice,
        FileType::Socket => SourceKind::Socket,
        FileType::Fifo => SourceKind::Fifo,
        _ => SourceKind::File { bytes: stat.stx_size },
    };
    Ok(Source {
        kind,
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        file_system: file_system(&rustix::fs::fstatfs(&node)?),
        mount_root: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        part: None,
    })
}

fn file_system(stat: &rustix::fs::StatFs) -> FileSystem {
    let number = |n: i64| u64::try_from(n).unwrap_or_default();
    match number(stat.f_type) & 0xffff_ffff {
        0x0102_1994 => FileSystem::Tmpfs { bytes: stat.f_blocks.saturating_mul(number(stat.f_bsize)) },
        0x9584_58f6 => FileSystem::Hugetlbfs,
        0x9fa0 => FileSystem::Kernel("proc"),
        0x6265_6572 => FileSystem::Kernel("sysfs"),
        0x0027_e0eb => FileSystem::Kernel("cgroup"),
        0x6367_7270 => FileSystem::Kernel("cgroup2"),
        0x1cd1 => FileSystem::Kernel("devpts"),
        0x1980_0202 => FileSystem::Kernel("mqueue"),
        0x6462_6720 => FileSystem::Kernel("debugfs"),
        0x7472_6163 => FileSystem::Kernel("tracefs"),
        0x7363_6673 => FileSystem::Kernel("securityfs"),
        0xcafe_4a11 => FileSystem::Kernel("bpf"),
        _ => FileSystem::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regular_file_is_seen_with_its_length() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "abc").unwrap();
        assert_eq!(look(&dir.path().join("f")).unwrap().kind, SourceKind::File { bytes: 3 });
    }

    #[test]
    fn a_window_into_the_kernel_is_seen_as_one() {
        assert_eq!(look(Path::new("/proc/sys")).unwrap().file_system, FileSystem::Kernel("proc"));
    }

    #[test]
    fn a_mount_point_is_seen_as_one() {
        let proc = look(Path::new("/proc")).unwrap();
        assert!(proc.mount_root && !look(Path::new("/proc/sys")).unwrap().mount_root);
    }

    #[test]
    fn a_missing_source_is_an_error_that_names_it() {
        let error = look(Path::new("/does/not/exist")).unwrap_err();
        assert!(error.to_string().contains("/does/not/exist"));
    }
}
