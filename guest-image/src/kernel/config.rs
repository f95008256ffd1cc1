//! The kernel configuration: our fragment, and whether the kernel's own rules let its lines stand.

use std::collections::BTreeMap;

/// What is applied to `allnoconfig`.
pub(super) const FRAGMENT: &str = include_str!("../../kernel/coffer.config");

/// Without one of these a pod does not start, or is not isolated as promised. All of them are in the fragment.
const MUST_HAVE: &[&str] = &[
    "AMD_MEM_ENCRYPT",
    "BLK_DEV_INITRD",
    "BLK_DEV_SD",
    "BPF_UNPRIV_DEFAULT_OFF",
    "CFS_BANDWIDTH",
    "CGROUP_BPF",
    "CGROUP_FREEZER",
    "CGROUP_PIDS",
    "CPU_MITIGATIONS",
    "CPUSETS",
    "DEVTMPFS",
    "DM_CRYPT",
    "DM_INTEGRITY",
    "DM_VERITY",
    "EROFS_FS",
    "EXT4_FS",
    "FUSE_FS",
    "HW_RANDOM_VIRTIO",
    "INTEL_TDX_GUEST",
    "IPC_NS",
    "KVM_GUEST",
    "MEMCG",
    "NETFILTER_XTABLES",
    "NET_9P_FD",
    "NET_NS",
    "NF_TABLES",
    "NFT_COMPAT",
    "OVERLAY_FS",
    "PID_NS",
    "PROC_SYSCTL",
    "PVH",
    "SCSI_VIRTIO",
    "SECCOMP_FILTER",
    "SERIAL_8250_CONSOLE",
    "SEV_GUEST",
    "SMP",
    "STRICT_KERNEL_RWX",
    "TIME_NS",
    "TMPFS",
    "TMPFS_XATTR",
    "TSM_REPORTS",
    "TUN",
    "UNIX98_PTYS",
    "USER_NS",
    "UTS_NS",
    "VETH",
    "VIRTIO_BLK",
    "VIRTIO_MMIO",
    "VIRTIO_MMIO_CMDLINE_DEVICES",
    "VIRTIO_NET",
    "VIRTIO_PCI",
    "VIRTIO_VSOCKETS",
    "X86_X2APIC",
];

/// A line of the fragment that the kernel's configuration does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) option: String,
    pub(super) asked: String,
    pub(super) found: String,
}

impl Lost {
    pub(super) fn is_vital(&self) -> bool {
        MUST_HAVE.contains(&self.option.as_str())
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is {}, asked was {}", self.option, self.found, self.asked)
    }
}

/// The lines of `fragment` that did not come out as written in `config`, the kernel's full `.config`.
pub(super) fn lost(fragment: &str, config: &str) -> Vec<Lost> {
    let found = options(config);
    let value = |option| found.get(option).copied().unwrap_or("n");
    let lost = options(fragment).into_iter().filter(|(option, asked)| value(*option) != *asked);
    lost.map(|(option, asked)| Lost {
        option: option.into(),
        asked: asked.into(),
        found: value(option).into(),
    })
    .collect()
}

fn options(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.strip_prefix("CONFIG_")?.split_once('=')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_has_every_line_loses_none() {
        assert_eq!(
            lost(
                "CONFIG_A=y\nCONFIG_B=n\nCONFIG_C=\"c\"",
                "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"c\""
            ),
            []
        );
    }

    #[test]
    fn an_option_that_was_dropped_is_reported() {
        let lost = lost("CONFIG_A=y", "# CONFIG_A is not set");
        assert_eq!(lost[0].to_string(), "A is n, asked was y");
    }

    #[test]
    fn an_option_that_came_back_is_reported() {
        assert_eq!(lost("CONFIG_A=n", "CONFIG_A=y")[0].to_string(), "A is y, asked was n");
    }

    #[test]
    fn what_a_pod_cannot_do_without_is_asked_for_in_the_fragment() {
        let asked = options(FRAGMENT);
        let forgotten: Vec<_> = MUST_HAVE.iter().filter(|option| asked.get(**option) != Some(&"y")).collect();
        assert!(forgotten.is_empty(), "{forgotten:?}");
    }

    #[test]
    fn no_option_is_named_twice_in_the_fragment() {
        let lines = FRAGMENT.lines().filter(|line| line.starts_with("CONFIG_")).count();
        assert_eq!(options(FRAGMENT).len(), lines);
    }
}
