//! Kernel settings that a pod asks for. The kernel is the pod's own, so every setting is the pod's to change.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why a setting was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SysctlError {
    /// The key is no path below `/proc/sys`.
    #[error("sysctl {key:?} is not a dotted name of letters, digits, '_', '-' and '/'")]
    Key {
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
    fs::write(path, value).map_err(|source| SysctlError::Write {
        key: key.to_owned(),
        value: value.to_owned(),
        source,
    })
}

/// As sysctl(8): whichever of '.' and '/' comes first separates, the other one is part of a name (`eth0.100`).
fn path(key: &str) -> Option<PathBuf> {
    let separator = key.find(['.', '/']).and_then(|at| key.get(at..)?.chars().next())?;
    let other = if separator == '.' { '/' } else { '.' };
    let mut path = Path::new("/proc/sys").to_owned();
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
        assert_eq!(path, Path::new("/proc/sys/net/ipv4/conf/eth0.100/rp_filter"));
    }

    #[test]
    fn slashes_separate_when_they_come_first() {
        let path = path("net/ipv4/conf/eth0.100/rp_filter").unwrap();
        assert_eq!(path, Path::new("/proc/sys/net/ipv4/conf/eth0.100/rp_filter"));
    }

    #[test]
    fn a_key_that_leaves_its_directory_is_refused() {
        assert_eq!(path("net.//.//.x"), None);
        assert_eq!(path("net/../kernel/hostname"), None);
        assert_eq!(path("kernel"), None);
    }
}
