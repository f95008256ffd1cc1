//! What the option strings of an OCI mount mean to the kernel.

use std::path::PathBuf;

use rustix::mount::{MountFlags, MountPropagationFlags};
use serde::{Deserialize, Serialize};

use super::error::SpecError;

/// The options of one mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MountOptions {
    /// `MS_*` bits to set, without propagation and binding.
    pub(super) set: u32,
    /// `MS_*` bits that were asked to be clear.
    pub(super) clear: u32,
    /// `MS_BIND`, with `MS_REC` for `rbind`; 0 for a new file system.
    pub(super) bind: u32,
    /// `MS_SHARED` and the like, each with or without `MS_REC`, in order.
    pub(super) propagation: Vec<u32>,
    /// `MOUNT_ATTR_*` to set and to clear on the mount and everything below it.
    pub(super) recursive_set: u64,
    pub(super) recursive_clear: u64,
    /// Options of the file system itself, joined by commas.
    pub(super) data: String,
}

/// `MOUNT_ATTR_*` of the kernel's `linux/mount.h`.
pub(super) mod attr {
    pub(in crate::container) const RDONLY: u64 = 0x1;
    pub(in crate::container) const NOSUID: u64 = 0x2;
    pub(in crate::container) const NODEV: u64 = 0x4;
    pub(in crate::container) const NOEXEC: u64 = 0x8;
    pub(in crate::container) const ATIME: u64 = 0x70;
    pub(in crate::container) const NOATIME: u64 = 0x10;
    pub(in crate::container) const STRICTATIME: u64 = 0x20;
    pub(in crate::container) const NODIRATIME: u64 = 0x80;
    pub(in crate::container) const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// `MS_NOSYMFOLLOW`, which rustix does not name.
const MS_NOSYMFOLLOW: u32 = 0x100;

impl MountOptions {
    /// Parses the options of `mounts[position]`, a file system of `kind` (or a bind mount, if an option says so).
    pub(super) fn parse(options: &[String], kind: &str, position: usize) -> Result<Self, SpecError> {
        let mut parsed = MountOptions::default();
        if kind == "bind" {
            parsed.bind = bind(false);
        }
        if let Some(recursive) = options.iter().find_map(|option| match option.as_str() {
            "bind" => Some(false),
            "rbind" => Some(true),
            _ => None,
        }) {
            parsed.bind = bind(recursive);
        }
        let mut data = Vec::new();
        for (index, option) in options.iter().enumerate() {
            let known = parsed.take_flag(option) || parsed.take_recursive(option);
            if known || parsed.take_propagation(option) {
                continue;
            }
            if parsed.bind != 0 || !is_data(kind, option) {
                return Err(refused(position, index, option));
            }
            // A devpts is always a new instance; the kernel knows the word no more.
            if option != "newinstance" {
                data.push(option.as_str());
            }
        }
        parsed.data = data.join(",");
        Ok(parsed)
    }

    /// A bind mount that is read-only, without set-user-id, devices and programs.
    pub(super) fn bound_read_only() -> Self {
        let set = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        Self { set: set.bits(), bind: bind(false), ..Self::default() }
    }

    /// Whether the mount is to be read-only.
    pub(super) fn read_only(&self) -> bool {
        self.set & MountFlags::RDONLY.bits() != 0
    }

    fn take_flag(&mut self, option: &str) -> bool {
        let Some((bits, set)) = flag(option) else { return matches!(option, "bind" | "rbind" | "defaults") };
        if set {
            self.set |= bits;
            self.clear &= !bits;
        } else {
            self.set &= !bits;
            self.clear |= bits;
        }
        true
    }

    fn take_propagation(&mut self, option: &str) -> bool {
        let (name, recursive) = match option.strip_prefix('r') {
            Some(name) => (name, MountPropagationFlags::REC.bits()),
            None => (option, 0),
        };
        propagation(name).map(|flag| self.propagation.push(flag | recursive)).is_some()
    }

    fn take_recursive(&mut self, option: &str) -> bool {
        let Some((set, clear)) = option.strip_prefix('r').and_then(recursive) else { return false };
        self.recursive_clear = (self.recursive_clear & !set) | clear;
        self.recursive_set = (self.recursive_set & !clear) | set;
        true
    }
}

/// The flag of `linux.rootfsPropagation`, always recursive.
pub(super) fn rootfs_propagation(value: &str) -> Result<u32, SpecError> {
    match value.strip_prefix('r').and_then(propagation).or_else(|| propagation(value)) {
        Some(flag) => Ok(flag | MountPropagationFlags::REC.bits()),
        None => Err(SpecError::Value {
            field: "linux.rootfsPropagation".to_owned(),
            value: value.to_owned(),
            rule: "it is one of shared, slave, private, unbindable and these with an r before them",
        }),
    }
}

fn bind(recursive: bool) -> u32 {
    let flags = if recursive {
        MountFlags::BIND | MountFlags::from_bits_retain(libc_rec())
    } else {
        MountFlags::BIND
    };
    flags.bits()
}

fn libc_rec() -> u32 {
    MountPropagationFlags::REC.bits()
}

fn propagation(name: &str) -> Option<u32> {
    let flag = match name {
        "private" => MountPropagationFlags::PRIVATE,
        "shared" => MountPropagationFlags::SHARED,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return None,
    };
    Some(flag.bits())
}

/// `MS_*` bits and whether the option sets or clears them.
fn flag(option: &str) -> Option<(u32, bool)> {
    let (flag, set) = match option {
        "ro" => (MountFlags::RDONLY, true),
        "rw" => (MountFlags::RDONLY, false),
        "nosuid" => (MountFlags::NOSUID, true),
        "suid" => (MountFlags::NOSUID, false),
        "nodev" => (MountFlags::NODEV, true),
        "dev" => (MountFlags::NODEV, false),
        "noexec" => (MountFlags::NOEXEC, true),
        "exec" => (MountFlags::NOEXEC, false),
        "sync" => (MountFlags::SYNCHRONOUS, true),
        "async" => (MountFlags::SYNCHRONOUS, false),
        "dirsync" => (MountFlags::DIRSYNC, true),
        "noatime" => (MountFlags::NOATIME, true),
        "atime" => (MountFlags::NOATIME, false),
        "nodiratime" => (MountFlags::NODIRATIME, true),
        "diratime" => (MountFlags::NODIRATIME, false),
        "relatime" => (MountFlags::RELATIME, true),
        "norelatime" => (MountFlags::RELATIME, false),
        "strictatime" => (MountFlags::STRICTATIME, true),
        "nostrictatime" => (MountFlags::STRICTATIME, false),
        "lazytime" => (MountFlags::LAZYTIME, true),
        "nolazytime" => (MountFlags::LAZYTIME, false),
        "silent" => (MountFlags::SILENT, true),
        "loud" => (MountFlags::SILENT, false),
        "nosymfollow" => (MountFlags::from_bits_retain(MS_NOSYMFOLLOW), true),
        "symfollow" => (MountFlags::from_bits_retain(MS_NOSYMFOLLOW), false),
        // Mandatory locking is gone from the kernel; asking for its absence is asking for nothing.
        "nomand" => (MountFlags::empty(), false),
        _ => return None,
    };
    Some((flag.bits(), set))
}

/// `MOUNT_ATTR_*` bits to set and to clear for the option without its leading `r`.
fn recursive(option: &str) -> Option<(u64, u64)> {
    Some(match option {
        "ro" => (attr::RDONLY, 0),
        "rw" => (0, attr::RDONLY),
        "nosuid" => (attr::NOSUID, 0),
        "suid" => (0, attr::NOSUID),
        "nodev" => (attr::NODEV, 0),
        "dev" => (0, attr::NODEV),
        "noexec" => (attr::NOEXEC, 0),
        "exec" => (0, attr::NOEXEC),
        "nodiratime" => (attr::NODIRATIME, 0),
        "diratime" => (0, attr::NODIRATIME),
        "relatime" => (0, attr::ATIME),
        "noatime" => (attr::NOATIME, attr::ATIME),
        "strictatime" => (attr::STRICTATIME, attr::ATIME),
        "nosymfollow" => (attr::NOSYMFOLLOW, 0),
        "symfollow" => (0, attr::NOSYMFOLLOW),
        _ => return None,
    })
}

/// File systems that a container may mount, and their own options.
fn own_options(kind: &str) -> Option<&'static [&'static str]> {
    Some(match kind {
        "proc" => &["hidepid", "gid", "subset"],
        "sysfs" | "mqueue" | "bind" | "none" | "" => &[],
        "cgroup" | "cgroup2" => &["nsdelegate", "memory_localevents", "memory_recursiveprot", "favordynmods"],
        "devpts" => &["newinstance", "ptmxmode", "mode", "uid", "gid", "max"],
        "tmpfs" | "ramfs" => &[
            "size",
            "nr_blocks",
            "nr_inodes",
            "mode",
            "uid",
            "gid",
            "huge",
            "mpol",
            "inode32",
            "inode64",
            "noswap",
        ],
        "hugetlbfs" => &["pagesize", "size", "min_size", "nr_inodes", "mode", "uid", "gid"],
        "debugfs" | "tracefs" | "securityfs" | "bpf" => &["mode", "uid", "gid"],
        _ => return None,
    })
}

/// Whether a container may mount this kind of file system at all.
pub(super) fn is_known_kind(kind: &str) -> bool {
    own_options(kind).is_some()
}

fn is_data(kind: &str, option: &str) -> bool {
    let key = option.split('=').next().unwrap_or_default();
    own_options(kind).is_some_and(|known| known.contains(&key)) && !option.contains(',')
}

fn refused(mount: usize, index: usize, option: &str) -> SpecError {
    let field = format!("mounts[{mount}].options[{index}]");
    match option {
        "idmap" | "ridmap" => SpecError::Unsupported {
            field,
            why: "an identity-mapped mount is made where its file system is mounted, not in the container",
        },
        "tmpcopyup" => SpecError::Unsupported {
            field,
            why: "a tmpfs starts empty here; copy the files when the container starts",
        },
        _ => SpecError::Value {
            field,
            value: option.to_owned(),
            rule: "no such option is known for this mount",
        },
    }
}

/// One mount of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mount {
    /// Where it appears in the container: an absolute path.
    pub(crate) destination: PathBuf,
    /// File system type; `bind` for a bind mount.
    pub(crate) kind: String,
    /// What is mounted; only a bind mount looks at it.
    pub(crate) source: MountSource,
    pub(super) options: MountOptions,
}

impl Mount {
    /// Whether the mount shows an existing file or directory of the guest, so that `source` must be resolved.
    pub(crate) fn is_bind(&self) -> bool {
        self.options.bind != 0
    }
}

/// The source of a bind mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MountSource {
    /// A path that nothing in a container can change.
    Path(PathBuf),
    /// A path inside a directory that containers write to: it is resolved with the directory as its root, so that no
    /// symbolic link leads out of it.
    Inside {
        /// The directory.
        root: PathBuf,
        /// Path in it.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: &str, options: &[&str]) -> Result<MountOptions, SpecError> {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        MountOptions::parse(&options, kind, 3)
    }

    #[test]
    fn flags_and_data_of_a_tmpfs_are_told_apart() {
        let options = parse("tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]).unwrap();
        assert_eq!(options.set, (MountFlags::NOSUID | MountFlags::STRICTATIME).bits());
        assert_eq!(options.data, "mode=755,size=65536k");
    }

    #[test]
    fn a_bind_mount_keeps_its_recursion_and_propagation() {
        let options = parse("bind", &["rbind", "rprivate", "ro"]).unwrap();
        assert_eq!(options.bind, bind(true));
        assert_eq!(options.propagation, [MountPropagationFlags::PRIVATE.bits() | libc_rec()]);
        assert!(options.read_only());
    }

    #[test]
    fn a_recursive_read_only_bind_is_not_mistaken_for_propagation() {
        let options = parse("bind", &["rbind", "rro", "rnosuid"]).unwrap();
        assert_eq!(options.recursive_set, attr::RDONLY | attr::NOSUID);
        assert!(options.propagation.is_empty());
    }

    #[test]
    fn the_last_of_two_contrary_options_wins() {
        assert!(!parse("bind", &["bind", "ro", "rw"]).unwrap().read_only());
    }

    #[test]
    fn an_unknown_option_is_refused_with_its_place() {
        let error = parse("bind", &["rbind", "sometimes"]).unwrap_err().to_string();
        assert_eq!(
            error,
            "mounts[3].options[1] has the value \"sometimes\", but no such option is known for this mount"
        );
    }

    #[test]
    fn an_option_of_another_file_system_is_refused() {
        assert!(parse("mqueue", &["size=1"]).is_err());
    }

    #[test]
    fn a_comma_does_not_smuggle_a_second_option() {
        assert!(parse("tmpfs", &["size=1,mpol=bind:0"]).is_err());
    }

    #[test]
    fn new_instance_is_what_every_devpts_is() {
        let options = parse("devpts", &["newinstance", "ptmxmode=0666", "gid=5"]).unwrap();
        assert_eq!(options.data, "ptmxmode=0666,gid=5");
    }
}
