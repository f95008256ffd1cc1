//! How much CPU time a pod's machine may use on the host: what kubelet said when the pod was made, or what its containers
//! may use now, whichever is more.
//!
//! Each container's own limit holds inside the guest, and the pod's in kubelet's cgroup. This one keeps the processors from
//! using up what the machine's devices need, so it must never be tighter than those: a container whose limit was raised,
//! or that came later with a larger one, raises it, and one without a limit takes it away.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use coffer_node::cgroup::{Processors, Quota};
use oci_spec::runtime::LinuxResources;

use super::sizing::Limits;

/// The processors' quota of one pod, where there is one.
#[derive(Debug, Default)]
pub(super) struct CpuTime {
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    processors: Processors,
    /// What kubelet said.
    pod: Quota,
    /// What each container may use; `None`: as much as it likes.
    containers: Mutex<BTreeMap<String, Option<Quota>>>,
}

impl CpuTime {
    /// Of a machine whose processors have a cgroup with this quota of their own.
    pub(super) fn of(processors: Option<Processors>, pod: Option<Quota>) -> Self {
        let held = processors.zip(pod).map(|(processors, pod)| Held {
            processors,
            pod,
            containers: Mutex::default(),
        });
        Self { held }
    }

    /// A container has this limit now, or is gone.
    pub(super) fn set(&self, id: &str, change: Change) {
        let Some(held) = &self.held else { return };
        // Written under the lock: of two changes at once the last one's sum stays.
        let mut containers = held.containers.lock().unwrap_or_else(PoisonError::into_inner);
        let before = effective(held.pod, &containers);
        match change {
            Change::Limit(quota) => containers.insert(id.to_owned(), quota),
            Change::Gone => containers.remove(id),
        };
        let now = effective(held.pod, &containers);
        if now != before
            && let Err(err) = held.processors.limit(now)
        {
            tracing::warn!(container = id, error = %err, "the processors' quota stays as it was");
        }
    }
}

/// What happens to a container's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It is this; `None`: there is none.
    Limit(Option<Quota>),
    /// There is no such container any more.
    Gone,
}

/// The quota that these limits ask for.
pub(super) fn quota(limits: Limits) -> Option<Quota> {
    limits.cpu_quota_us.map(|time| Quota::new(time, limits.cpu_period_us))
}

/// The quota that an update sets, if it says something of it; one that is not positive is no limit.
pub(super) fn changed(resources: &LinuxResources) -> Option<Option<Quota>> {
    let cpu = resources.cpu().as_ref()?;
    let time = u64::try_from(cpu.quota()?).ok().filter(|time| *time > 0);
    Some(time.map(|time| Quota::new(time, cpu.period())))
}

fn effective(pod: Quota, containers: &BTreeMap<String, Option<Quota>>) -> Option<Quota> {
    Some(containers.values().copied().sum::<Option<Quota>>()?.max(pod))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percent(of_one: u64) -> Quota {
        Quota::new(of_one * 1000, None)
    }

    fn containers<const N: usize>(limits: [Option<u64>; N]) -> BTreeMap<String, Option<Quota>> {
        (0..).map(|id: u32| id.to_string()).zip(limits.map(|limit| limit.map(percent))).collect()
    }

    #[test]
    fn a_pod_without_containers_has_what_kubelet_said() {
        assert_eq!(effective(percent(50), &containers([])), Some(percent(50)));
    }

    #[test]
    fn containers_that_may_use_less_leave_the_pod_s_as_it_is() {
        assert_eq!(effective(percent(50), &containers([Some(20), Some(20)])), Some(percent(50)));
    }

    #[test]
    fn containers_that_may_use_more_raise_it() {
        assert_eq!(effective(percent(50), &containers([Some(40), Some(20)])), Some(percent(60)));
    }

    #[test]
    fn an_update_that_says_nothing_of_it_changes_no_quota() {
        let update = |text| changed(&serde_json::from_str(text).unwrap());
        assert_eq!(update(r#"{ "cpu": { "shares": 2 } }"#), None);
        assert_eq!(update(r#"{ "cpu": { "quota": 50000, "period": 100000 } }"#), Some(Some(percent(50))));
        assert_eq!(update(r#"{ "cpu": { "quota": -1 } }"#), Some(None));
    }

    #[test]
    fn one_container_without_a_limit_takes_it_away() {
        assert_eq!(effective(percent(50), &containers([Some(40), None])), None);
    }
}
