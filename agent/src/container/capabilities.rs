#![allow(unsafe_code)] // capget, capset and prctl have no safe form in the libraries at hand.
//! Capability names, sets as bit masks, and how a process takes them on.
//!
//! Names that this kernel lacks cannot be granted and are left out, as runc does; unknown names are refused.

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::error::SpecError;
use super::wire;

/// In the order of their numbers in the kernel's `linux/capability.h`.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The five sets of a process; bit n is the capability with number n.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CapabilitySets {
    pub(super) bounding: u64,
    pub(super) effective: u64,
    pub(super) inheritable: u64,
    pub(super) permitted: u64,
    pub(super) ambient: u64,
}

impl CapabilitySets {
    pub(super) fn parse(sets: &wire::Capabilities, field: &str) -> Result<Self, SpecError> {
        let set = |names: &[String], set: &str| parse_set(names, &format!("{field}.{set}"));
        Ok(CapabilitySets {
            bounding: set(&sets.bounding, "bounding")?,
            effective: set(&sets.effective, "effective")?,
            inheritable: set(&sets.inheritable, "inheritable")?,
            permitted: set(&sets.permitted, "permitted")?,
            ambient: set(&sets.ambient, "ambient")?,
        })
    }

    /// Drops what is not in `bounding` from the bounding set; needs CAP_SETPCAP.
    pub(super) fn drop_bounding(&self) -> Result<(), Errno> {
        for number in 0..=last_capability() {
            if self.bounding & (1 << number) == 0 {
                prctl(libc::PR_CAPBSET_DROP, number.into(), 0)?;
            }
        }
        Ok(())
    }

    /// Takes on the other four sets. What the kernel cannot grant is left out of them.
    pub(super) fn apply(&self) -> Result<(), Errno> {
        let known = (1u64 << (last_capability() + 1)) - 1;
        let bounding = current_bounding(known);
        let permitted = self.permitted & known & bounding;
        let inheritable = self.inheritable & known & bounding;
        capset(self.effective & permitted, permitted, inheritable)?;
        prctl(libc::PR_CAP_AMBIENT, ambient(libc::PR_CAP_AMBIENT_CLEAR_ALL), 0)?;
        for number in 0..=last_capability() {
            if self.ambient & permitted & inheritable & (1 << number) != 0 {
                prctl(libc::PR_CAP_AMBIENT, ambient(libc::PR_CAP_AMBIENT_RAISE), number.into())?;
            }
        }
        Ok(())
    }
}

fn ambient(operation: libc::c_int) -> u64 {
    u64::from(operation.unsigned_abs())
}

/// A name with or without its prefix, in any case: both occur in specifications.
fn parse_set(names: &[String], field: &str) -> Result<u64, SpecError> {
    let mut set = 0;
    for (position, name) in names.iter().enumerate() {
        let upper = name.to_ascii_uppercase();
        let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        let number = NAMES.iter().position(|known| *known == full).ok_or_else(|| SpecError::Value {
            field: format!("{field}[{position}]"),
            value: name.clone(),
            rule: "no capability has this name",
        })?;
        set |= 1 << number;
    }
    Ok(set)
}

/// The number of the kernel's last capability: asked of the kernel itself, since a file below `/proc` of a running
/// container may be its own invention.
fn last_capability() -> u32 {
    (0..63u32)
        .take_while(|number| prctl(libc::PR_CAPBSET_READ, (*number).into(), 0).is_ok())
        .last()
        .unwrap_or(0)
}

/// The bounding set: a capability outside it cannot be granted, which is not an error.
fn current_bounding(known: u64) -> u64 {
    (0..64u32)
        .filter(|number| known & (1 << number) != 0)
        .filter(|number| prctl(libc::PR_CAPBSET_READ, (*number).into(), 0) == Ok(1))
        .fold(0, |set, number| set | (1 << number))
}

/// Keeps the permitted set over the coming change of user.
pub(super) fn keep_over_setuid(keep: bool) -> Result<(), Errno> {
    prctl(libc::PR_SET_KEEPCAPS, keep.into(), 0).map(drop)
}

fn prctl(operation: libc::c_int, second: u64, third: u64) -> Result<libc::c_int, Errno> {
    // SAFETY: the operations used here take integers only, so the kernel follows no pointer.
    Errno::result(unsafe { libc::prctl(operation, second, third, 0u64, 0u64) })
}

/// `struct __user_cap_header_struct` and two `__user_cap_data_struct` of version 3.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`.
const VERSION_3: u32 = 0x2008_0522;

fn capset(effective: u64, permitted: u64, inheritable: u64) -> Result<(), Errno> {
    let half = |set: u64, shift: u32| u32::try_from((set >> shift) & u64::from(u32::MAX)).unwrap_or(0);
    let data = [0, 32].map(|shift| Data {
        effective: half(effective, shift),
        permitted: half(permitted, shift),
        inheritable: half(inheritable, shift),
    });
    let header = Header { version: VERSION_3, pid: 0 };
    // SAFETY: `header` and `data` have the kernel's layout of version 3 (one header, two data elements) and live
    // until the call returns.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_known_with_and_without_its_prefix() {
        let names = ["CAP_CHOWN".to_owned(), "kill".to_owned(), "CAP_CHECKPOINT_RESTORE".to_owned()];
        assert_eq!(parse_set(&names, "x"), Ok(1 | 1 << 5 | 1 << 40));
    }

    #[test]
    fn an_unknown_name_is_refused_with_its_place() {
        let names = ["CAP_CHOWN".to_owned(), "CAP_FLY".to_owned()];
        let error = parse_set(&names, "process.capabilities.bounding").unwrap_err().to_string();
        assert_eq!(
            error,
            "process.capabilities.bounding[1] has the value \"CAP_FLY\", but no capability has this name"
        );
    }
}
