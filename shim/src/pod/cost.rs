//! What a process costs the host, as far as the kernel's `/proc` tells.

use std::fs;
use std::path::PathBuf;

use coffer_protocol::agent::{CpuStat, MemoryStat, PidsStat, Stats};

/// `/proc/PID/stat` counts time in ticks of this many microseconds (USER_HZ is 100 on every architecture we run on).
const MICROS_PER_TICK: u64 = 10_000;

/// `statm` counts memory in pages.
const PAGE: u64 = 4096;

/// CPU time and resident memory of a process; zero when it is gone.
pub(super) fn of_process(pid: u32) -> Stats {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let (user, system, threads) = times(&read("stat")).unwrap_or_default();
    let resident = resident_pages(&read("statm")).unwrap_or_default();
    let (user_usec, system_usec) =
        (user.saturating_mul(MICROS_PER_TICK), system.saturating_mul(MICROS_PER_TICK));
    let usage_usec = user_usec.saturating_add(system_usec);
    Stats {
        cpu: Some(CpuStat { usage_usec, user_usec, system_usec, ..Default::default() }).into(),
        memory: Some(MemoryStat { usage: resident.saturating_mul(PAGE), ..Default::default() }).into(),
        pids: Some(PidsStat { current: threads, ..Default::default() }).into(),
        ..Default::default()
    }
}

/// Whether the kernel has killed a process in one of these cgroups, given by their `cgroup.procs`, for lack of memory.
pub(super) fn oom_killed(cgroup_procs: &[PathBuf]) -> bool {
    // memory.events is cgroup v2's, memory.oom_control v1's; both have a line `oom_kill N`.
    let files = cgroup_procs
        .iter()
        .filter_map(|procs| procs.parent())
        .flat_map(|dir| ["memory.events", "memory.oom_control"].map(|name| dir.join(name)));
    files.filter_map(|file| fs::read_to_string(file).ok()).any(|text| kills(&text) > 0)
}

fn kills(events: &str) -> u64 {
    let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or_default()
}

/// utime, stime and num_threads: fields 14, 15 and 20. The name in field 2 may hold anything, so counting begins
/// after its closing parenthesis.
fn times(stat: &str) -> Option<(u64, u64, u64)> {
    let (_, after) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number.checked_sub(3)?)?.parse().ok();
    Some((field(14)?, field(15)?, field(20)?))
}

fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_parenthesis_does_not_shift_the_fields() {
        let stat = "1 (a) b) S 1 1 1 0 -1 4194560 1 1 1 1 70 30 0 0 20 0 5 0 9 1 1";
        assert_eq!(times(stat), Some((70, 30, 5)));
    }

    #[test]
    fn a_kill_for_lack_of_memory_is_seen_in_either_version_of_cgroups() {
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), 2);
        assert_eq!(kills("low 0\noom 3\noom_kill 1\noom_group_kill 0\n"), 1);
    }

    #[test]
    fn our_own_process_has_memory() {
        assert!(of_process(std::process::id()).memory.usage > 0);
    }

    #[test]
    fn a_process_that_is_gone_costs_nothing() {
        assert_eq!(of_process(u32::MAX).cpu.usage_usec, 0);
    }
}
