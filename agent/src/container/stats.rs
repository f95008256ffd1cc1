//! Reads a container's counters out of its cgroup. A counter that the kernel does not keep stays 0.

use std::collections::HashMap;

use coffer_protocol::agent::{CpuStat, IoEntry, MemoryEvents, MemoryStat, PidsStat, Stats};
use protobuf::MessageField;

use super::cgroup::Cgroup;

/// What the kernel writes for "no limit" becomes this.
const NO_LIMIT: u64 = u64::MAX;

/// All counters.
pub(super) fn read(cgroup: &Cgroup) -> Stats {
    let text = |file: &str| cgroup.read(file).unwrap_or_default();
    let number = |file: &str| parse_number(&text(file));
    let mut stats = Stats::new();
    stats.cpu = MessageField::some(cpu(&pairs(&text("cpu.stat"))));
    let mut memory = MemoryStat::new();
    // Before the sum: a working set is the sum less what these lines call inactive, and a process that has just
    // begun reads its program's pages meanwhile. The other way round it would use less than nothing.
    memory.stat = pairs(&text("memory.stat"));
    memory.usage = number("memory.current");
    memory.usage_limit = number("memory.max");
    memory.swap_usage = number("memory.swap.current");
    memory.swap_limit = number("memory.swap.max");
    memory.max_usage = number("memory.peak");
    stats.memory = MessageField::some(memory);
    stats.memory_events = MessageField::some(events(&pairs(&text("memory.events"))));
    let mut pids = PidsStat::new();
    pids.current = number("pids.current");
    pids.limit = number("pids.max");
    stats.pids = MessageField::some(pids);
    stats.io = text("io.stat").lines().filter_map(io_entry).collect();
    stats
}

/// How many processes the out-of-memory killer has ended here.
pub(super) fn oom_kills(cgroup: &Cgroup) -> u64 {
    pairs(&cgroup.read("memory.events").unwrap_or_default()).get("oom_kill").copied().unwrap_or(0)
}

fn cpu(pairs: &HashMap<String, u64>) -> CpuStat {
    let of = |key: &str| pairs.get(key).copied().unwrap_or(0);
    let mut cpu = CpuStat::new();
    cpu.usage_usec = of("usage_usec");
    cpu.user_usec = of("user_usec");
    cpu.system_usec = of("system_usec");
    cpu.nr_periods = of("nr_periods");
    cpu.nr_throttled = of("nr_throttled");
    cpu.throttled_usec = of("throttled_usec");
    cpu
}

fn events(pairs: &HashMap<String, u64>) -> MemoryEvents {
    let of = |key: &str| pairs.get(key).copied().unwrap_or(0);
    let mut events = MemoryEvents::new();
    events.low = of("low");
    events.high = of("high");
    events.max = of("max");
    events.oom = of("oom");
    events.oom_kill = of("oom_kill");
    events
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`
fn io_entry(line: &str) -> Option<IoEntry> {
    let (device, rest) = line.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    let counters: HashMap<&str, u64> = rest
        .split(' ')
        .filter_map(|pair| pair.split_once('='))
        .filter_map(|(k, v)| Some((k, v.parse().ok()?)))
        .collect();
    let of = |key: &str| counters.get(key).copied().unwrap_or(0);
    let mut entry = IoEntry::new();
    entry.major = major.parse().ok()?;
    entry.minor = minor.parse().ok()?;
    entry.rbytes = of("rbytes");
    entry.wbytes = of("wbytes");
    entry.rios = of("rios");
    entry.wios = of("wios");
    Some(entry)
}

/// Lines of a key and a number.
fn pairs(text: &str) -> HashMap<String, u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(key, value)| Some((key.to_owned(), value.trim().parse().ok()?)))
        .collect()
}

fn parse_number(text: &str) -> u64 {
    match text.trim() {
        "max" => NO_LIMIT,
        number => number.parse().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write as _;
    use std::thread;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn an_io_line_is_read_by_its_keys() {
        let entry = io_entry("254:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6").unwrap();
        assert_eq!((entry.major, entry.minor, entry.rbytes, entry.wios), (254, 16, 1, 4));
    }

    #[test]
    fn an_io_line_without_counters_is_left_out() {
        assert!(io_entry("254:16").is_none());
    }

    #[test]
    fn the_sum_of_memory_is_read_after_its_parts() {
        let directory = tempfile::tempdir().unwrap();
        let cgroup = Cgroup::at(directory.path());
        let [parts, sum] = ["memory.stat", "memory.current"].map(|file| cgroup.path().join(file));
        mkfifo(&parts, Mode::S_IRWXU).unwrap();
        // A pipe opens when somebody reads it: the sum is there from then on, and not before.
        let kernel = thread::spawn(move || {
            let mut lines = OpenOptions::new().write(true).open(parts).unwrap();
            fs::write(sum, "8192\n").unwrap();
            lines.write_all(b"inactive_file 4096\n").unwrap();
        });
        let memory = read(&cgroup).memory.unwrap();
        kernel.join().unwrap();
        assert_eq!((memory.usage, memory.stat.get("inactive_file")), (8192, Some(&4096)));
    }

    #[test]
    fn no_limit_is_the_largest_number() {
        assert_eq!(parse_number("max\n"), NO_LIMIT);
    }
}
