//! The one rule for the size of a machine: memory is what the containers may use together plus the overhead, and
//! there are as many CPUs as the containers' quota needs.
//!
//! The `RuntimeClass`'s `overhead.podFixed` is made from the same overhead, so what the scheduler reserves is what the
//! machine takes.

use std::collections::HashMap;

use coffer_node::config::MachineSizes;

use super::annotations::Wishes;
use super::error::PodError;

/// The smallest guest in MiB that kernel and agent start in with room for a process.
const MIN_MEMORY_MIB: u64 = 128;

const MIB: u64 = 1 << 20;

/// Limits of a pod, however they were learnt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// Bytes of memory.
    pub(super) memory_bytes: Option<u64>,
    /// Microseconds of CPU time per period.
    pub(super) cpu_quota_us: Option<u64>,
    /// Period in microseconds.
    pub(super) cpu_period_us: Option<u64>,
    /// Relative weight.
    pub(super) cpu_shares: Option<u64>,
}

/// Size of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// Virtual CPUs.
    pub(super) vcpus: u8,
    /// Memory in MiB.
    pub(super) memory_mib: u32,
}

impl Limits {
    /// The pod's limits that kubelet told containerd's CRI, from the sandbox's annotations.
    pub(super) fn of_sandbox(annotations: &HashMap<String, String>) -> Self {
        let number = |name: &str| {
            let value = annotations.get(&format!("io.kubernetes.cri.sandbox-{name}"))?;
            // Zero and negative numbers mean that there is no limit.
            value.parse::<i64>().ok().and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0)
        };
        Self {
            memory_bytes: number("memory"),
            cpu_quota_us: number("cpu-quota"),
            cpu_period_us: number("cpu-period"),
            cpu_shares: number("cpu-shares"),
        }
    }
}

impl Size {
    /// Applies the rule.
    pub(super) fn of(limits: Limits, wishes: Wishes, sizes: &MachineSizes) -> Result<Self, PodError> {
        let memory = wishes
            .memory_mib
            .map(u64::from)
            .or_else(|| limits.memory_bytes.map(|bytes| bytes.div_ceil(MIB)))
            .unwrap_or(u64::from(sizes.default_memory_mib));
        let memory = memory.saturating_add(u64::from(sizes.overhead_mib)).max(MIN_MEMORY_MIB);
        let memory_mib =
            u32::try_from(memory).ok().filter(|mib| *mib <= sizes.max_memory_mib).ok_or_else(|| {
                let max = sizes.max_memory_mib;
                refused(format!(
                    "the pod needs a machine of {memory} MiB, the operator's machine.max_memory_mib is {max}"
                ))
            })?;
        let wanted = wishes
            .vcpus
            .map(u64::from)
            .or_else(|| quota_cpus(limits))
            .unwrap_or(u64::from(sizes.default_vcpus));
        match u8::try_from(wanted) {
            Ok(0) => Err(refused("a machine without a virtual CPU cannot run".to_owned())),
            Ok(vcpus) if vcpus <= sizes.max_vcpus => Ok(Self { vcpus, memory_mib }),
            // A quota above the largest machine is no mistake: the quota still holds.
            _ if wishes.vcpus.is_none() => Ok(Self { vcpus: sizes.max_vcpus, memory_mib }),
            _ => {
                let max = sizes.max_vcpus;
                Err(refused(format!(
                    "the pod asks for {wanted} virtual CPUs, the operator's machine.max_vcpus is {max}"
                )))
            }
        }
    }
}

fn quota_cpus(limits: Limits) -> Option<u64> {
    let period = limits.cpu_period_us.unwrap_or(100_000);
    limits.cpu_quota_us.map(|quota| quota.div_ceil(period.max(1)))
}

fn refused(what: String) -> PodError {
    PodError::Refused { what }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: MachineSizes = MachineSizes {
        default_vcpus: 1,
        max_vcpus: 8,
        default_memory_mib: 256,
        max_memory_mib: 4096,
        overhead_mib: 192,
    };

    fn size(limits: Limits, wishes: Wishes) -> Result<Size, PodError> {
        Size::of(limits, wishes, &SIZES)
    }

    #[test]
    fn a_pod_without_limits_gets_the_defaults_and_the_overhead() {
        assert_eq!(size(Limits::default(), Wishes::default()).unwrap(), Size { vcpus: 1, memory_mib: 448 });
    }

    #[test]
    fn memory_is_the_limit_and_the_overhead() {
        let limits = Limits { memory_bytes: Some(512 * MIB + 1), ..Limits::default() };
        assert_eq!(size(limits, Wishes::default()).unwrap().memory_mib, 513 + 192);
    }

    #[test]
    fn half_a_cpu_needs_a_whole_one() {
        let limits = Limits { cpu_quota_us: Some(50_000), cpu_period_us: Some(100_000), ..Limits::default() };
        assert_eq!(size(limits, Wishes::default()).unwrap().vcpus, 1);
    }

    #[test]
    fn two_and_a_half_cpus_need_three() {
        let limits =
            Limits { cpu_quota_us: Some(250_000), cpu_period_us: Some(100_000), ..Limits::default() };
        assert_eq!(size(limits, Wishes::default()).unwrap().vcpus, 3);
    }

    #[test]
    fn a_wish_beats_the_limits() {
        let limits = Limits { memory_bytes: Some(MIB), cpu_quota_us: Some(100_000), ..Limits::default() };
        let wishes = Wishes { vcpus: Some(2), memory_mib: Some(300) };
        assert_eq!(size(limits, wishes).unwrap(), Size { vcpus: 2, memory_mib: 492 });
    }

    #[test]
    fn a_wish_for_more_cpus_than_allowed_is_refused() {
        assert!(size(Limits::default(), Wishes { vcpus: Some(9), memory_mib: None }).is_err());
    }

    #[test]
    fn more_memory_than_allowed_is_refused() {
        let limits = Limits { memory_bytes: Some(u64::MAX), ..Limits::default() };
        assert!(size(limits, Wishes::default()).is_err());
    }

    #[test]
    fn a_machine_without_cpus_is_refused() {
        assert!(size(Limits::default(), Wishes { vcpus: Some(0), memory_mib: None }).is_err());
    }

    #[test]
    fn unlimited_in_kubelets_words_is_no_limit() {
        let annotations = HashMap::from([
            ("io.kubernetes.cri.sandbox-memory".to_owned(), "0".to_owned()),
            ("io.kubernetes.cri.sandbox-cpu-quota".to_owned(), "-1".to_owned()),
        ]);
        assert_eq!(Limits::of_sandbox(&annotations), Limits::default());
    }
}
