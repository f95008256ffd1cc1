//! The cgroup of a machine's processors, below its pod's: they have a quota, its devices have not.
//!
//! On v2 it is threaded, so that threads of one process are in different ones; on v1 they may be as it is.

use std::fs;
use std::io;
use std::iter::Sum;
use std::path::{Path, PathBuf};

use super::hierarchy::Version;

/// The period that all quotas are told by, in microseconds: the kernel's default.
const PERIOD_US: u64 = 100_000;

/// The least that the kernel takes as a quota, in microseconds.
const LEAST_US: u64 = 1_000;

/// Its name below the pod's.
const NAME: &str = "processors";

/// CPU time: microseconds in each 100 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quota(u64);

impl Quota {
    /// `time_us` microseconds in each `period_us`; no period is 100 ms.
    pub fn new(time_us: u64, period_us: Option<u64>) -> Quota {
        let period = period_us.filter(|period| *period > 0).unwrap_or(PERIOD_US);
        let in_each = u128::from(time_us) * u128::from(PERIOD_US) / u128::from(period);
        Quota(u64::try_from(in_each).unwrap_or(u64::MAX).max(LEAST_US))
    }
}

impl Sum for Quota {
    fn sum<I: Iterator<Item = Quota>>(quotas: I) -> Quota {
        Quota(quotas.fold(0, |sum, Quota(each)| sum.saturating_add(each)))
    }
}

/// The processors' cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processors {
    pod: PathBuf,
    version: Version,
}

impl Processors {
    /// Makes it below the pod's cgroup at `pod`, which has the controller of CPU time.
    pub(super) fn make(pod: &Path, version: Version, quota: Quota) -> io::Result<Processors> {
        let processors = Processors { pod: pod.to_owned(), version };
        let own = processors.own();
        match fs::create_dir(&own) {
            Err(err) if err.kind() != io::ErrorKind::AlreadyExists => return Err(err),
            _ => {}
        }
        if version == Version::Two {
            fs::write(own.join("cgroup.type"), "threaded")?;
            fs::write(pod.join("cgroup.subtree_control"), "+cpu")?;
        }
        processors.limit(Some(quota))?;
        Ok(processors)
    }

    fn own(&self) -> PathBuf {
        self.pod.join(NAME)
    }

    fn threads(&self) -> &'static str {
        match self.version {
            Version::One => "tasks",
            Version::Two => "cgroup.threads",
        }
    }

    /// Changes the quota; `None`: there is none any more.
    pub fn limit(&self, quota: Option<Quota>) -> io::Result<()> {
        let (file, value) = match (self.version, quota) {
            (Version::One, Some(Quota(time))) => ("cpu.cfs_quota_us", time.to_string()),
            (Version::One, None) => ("cpu.cfs_quota_us", "-1".to_owned()),
            (Version::Two, Some(Quota(time))) => ("cpu.max", format!("{time} {PERIOD_US}")),
            (Version::Two, None) => ("cpu.max", "max".to_owned()),
        };
        fs::write(self.own().join(file), value)
    }

    /// Moves the pod's threads into it whose names are `prefix` and a number: how many. One that ends meanwhile is none.
    pub fn take(&self, prefix: &str) -> io::Result<usize> {
        let mut taken = 0;
        for thread in fs::read_to_string(self.pod.join(self.threads()))?.lines() {
            let name = fs::read_to_string(format!("/proc/{thread}/comm")).unwrap_or_default();
            if !is_processor(&name, prefix) {
                continue;
            }
            match fs::write(self.own().join(self.threads()), thread) {
                Err(err) if err.raw_os_error() == Some(libc::ESRCH) => {}
                Err(err) => return Err(err),
                Ok(()) => taken += 1,
            }
        }
        Ok(taken)
    }
}

fn is_processor(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_told_by_a_period_of_100_ms() {
        assert_eq!(Quota::new(5_000, Some(10_000)), Quota(50_000));
        assert_eq!(Quota::new(50_000, None), Quota(50_000));
        assert_eq!(Quota::new(50_000, Some(0)), Quota(50_000));
    }

    #[test]
    fn a_quota_below_what_the_kernel_takes_is_that() {
        assert_eq!(Quota::new(10, Some(100_000)), Quota(1_000));
    }

    #[test]
    fn a_quota_beyond_all_numbers_is_the_largest() {
        assert_eq!([Quota::new(u64::MAX, Some(1)), Quota(1)].into_iter().sum::<Quota>(), Quota(u64::MAX));
    }

    #[test]
    fn a_processor_s_thread_is_told_by_its_number() {
        assert!(is_processor("CPU 0/TCG\n", "CPU "));
        assert!(is_processor("cpu12\n", "cpu"));
        assert!(!is_processor("cpuhp\n", "cpu"));
        assert!(!is_processor("coffer-vmm\n", "cpu"));
    }
}
