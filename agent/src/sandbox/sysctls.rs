//! Kernel settings that a pod asks for.
//!
//! Only those that belong to namespaces, as runtimes on any node allow them. Others are for the whole kernel, and
//! some of them name programs that it runs as root beside the agent (`kernel.core_pattern`, `kernel.modprobe`): the host would
//! choose what runs in the guest.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const ROOT: &str = "/proc/sys";
/// Directories below `/proc/sys` with nothing in them but settings of a namespace.
const WHOLE: [&str; 2] = ["net", "fs/mqueue"];
/// Settings of the namespace for System V IPC, and of the one for names: Docker gives a container its domain so.
const SINGLE: [&str; 9] = [
    "kernel/domainname",
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];
/// Those above, for whoever asked for another one.
const ALLOWED: &str = "net.*, fs.mqueue.*, kernel.domainname, kernel.sem, kernel.shmall, .shmmax, .shmmni, .shm_rmid_forced, .msgmax, .msgmnb and .msgmni";

/// Why a setting was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SysctlError {
    /// The key is no path below `/proc/sys`.
    #[error("sysctl {key:?} is not a dotted name of letters, digits, '_', '-' and '/'")]
    Key {
        /// As it was given.
        key: String,
    },
    /// It is the whole kernel's.
    #[error("sysctl {key} is not for pods to change, which {ALLOWED} are")]
    NotOfPods {
        /// As it was given.
        key: String,
    },
    /// The kernel refused it.
    #[error("sysctl {key} = {value:?} refused; does the guest kernel have it?")]
    Write {
        /// Its name.
        key: String,
        /// What it should become.
        value: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Sets `key` to `value`.
pub(super) fn set(key: &str, value: &str) -> Result<(), SysctlError> {
    let path = path(key).ok_or_else(|| SysctlError::Key { key: key.to_owned() })?;
    if !is_of_pods(&path) {
        return Err(SysctlError::NotOfPods { key: key.to_owned() });
    }
    fs::write(Path::new(ROOT).join(path), value).map_err(|source| SysctlError::Write {
        key: key.to_owned(),
        value: value.to_owned(),
        source,
    })
}

fn is_of_pods(path: &Path) -> bool {
    let in_whole = |directory: &&str| path.starts_with(directory) && path != Path::new(directory);
    WHOLE.iter().any(in_whole) || SINGLE.iter().any(|name| path == Path::new(name))
}

/// Below `/proc/sys`. As sysctl(8): whichever of '.' and '/' comes first separates, the other one is part of a name (`eth0.100`).
fn path(key: &str) -> Option<PathBuf> {
    let separator = key.find(['.', '/']).and_then(|at| key.get(at..)?.chars().next())?;
    let other = if separator == '.' { '/' } else { '.' };
    let mut path = PathBuf::new();
    for name in key.split(separator) {
        let name: String =
            name.chars().map(|c| if c == other && separator == '.' { '.' } else { c }).collect();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
            return None;
        }
        path.push(name);
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_separate_when_they_come_first() {
        let path = path("net.ipv4.conf.eth0/100.rp_filter").unwrap();
        assert_eq!(path, Path::new("net/ipv4/conf/eth0.100/rp_filter"));
    }

    #[test]
    fn slashes_separate_when_they_come_first() {
        let path = path("net/ipv4/conf/eth0.100/rp_filter").unwrap();
        assert_eq!(path, Path::new("net/ipv4/conf/eth0.100/rp_filter"));
    }

    #[test]
    fn a_key_that_leaves_its_directory_is_refused() {
        assert_eq!(path("net.//.//.x"), None);
        assert_eq!(path("net/../kernel/hostname"), None);
        assert_eq!(path("kernel"), None);
    }

    #[test]
    fn settings_of_namespaces_are_for_pods() {
        let keys = [
            "net.ipv4.ip_local_port_range",
            "net/ipv4/conf/eth0.100/rp_filter",
            "net.core.somaxconn",
            "kernel.shm_rmid_forced",
            "kernel.shmmax",
            "kernel.sem",
            "kernel.domainname",
            "kernel/msgmax",
            "fs.mqueue.msg_max",
        ];
        for key in keys {
            assert!(is_of_pods(&path(key).unwrap()), "{key}");
        }
    }

    #[test]
    fn settings_of_the_kernel_are_not_and_the_refusal_says_which_are() {
        let keys = [
            "kernel.core_pattern",
            "kernel/modprobe",
            "kernel.hotplug",
            "kernel.shm",
            "kernel.shmmax.x",
            "kernel.semaphore",
            "kernel.sem_next_id",
            "kernel.hostname",
            "kernel/usermodehelper/inheritable",
            "fs.mqueue",
            "fs.mqueues.x",
            "fs.suid_dumpable",
            "fs.binfmt_misc.register",
            "vm.overcommit_memory",
            "user.max_user_namespaces",
            "networks.x",
        ];
        for key in keys {
            let refused = set(key, "1");
            assert!(matches!(refused, Err(SysctlError::NotOfPods { .. })), "{key}: {refused:?}");
            assert!(refused.unwrap_err().to_string().contains("fs.mqueue.*"));
        }
    }

    #[test]
    fn a_key_that_leads_elsewhere_by_its_dots_and_slashes_is_none() {
        let keys = [
            "net.ipv4.//.//.kernel.modprobe",
            "net/../kernel/modprobe",
            "net/./../kernel/modprobe",
            "/net/x",
            "net//x",
            "net.ipv4.",
            ".net",
            "net/ipv4/..",
            "net.a\0b",
        ];
        for key in keys {
            assert!(matches!(set(key, "1"), Err(SysctlError::Key { .. })), "{key}");
        }
    }
}
