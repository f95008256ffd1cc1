//! What a process uses, as the kernel says.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Resident memory in KiB.
pub(crate) struct Memory {
    pub(crate) resident: u64,
    pub(crate) peak: u64,
}

/// Resident memory of a process.
pub(crate) fn memory(id: u32) -> Memory {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("a process");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    };
    Memory { resident: field("VmRSS:"), peak: field("VmHWM:") }
}

/// Processor time that the whole machine has used, or was not given by what it runs on.
pub(crate) fn busy_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").expect("what the machine did");
    let ticks = stat.lines().next().expect("a sum").split_whitespace().skip(1).enumerate();
    // user, nice, system, idle, iowait, irq, softirq, steal; what follows is part of the first two.
    let busy = ticks.filter(|(place, _)| matches!(place, 0..=2 | 5..=7));
    let ticks: u64 = busy.map(|(_, field)| field.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

/// Processor time of all of a process's threads; the kernel counts it in hundredths of a second.
pub(crate) fn processor_time(id: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("a process");
    let fields = stat.rsplit(") ").next().expect("fields");
    let ticks: u64 =
        fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

/// How long the disk takes to keep a line, half of the time and in the slowest of a hundred cases. Each exchange waits for two.
pub(crate) fn durable_writes(file: &Path) -> [Duration; 2] {
    let mut file = std::fs::File::create(file).expect("a file");
    let mut all: Vec<Duration> = (0..100)
        .map(|_| {
            file.write_all(&[b'x'; 1500]).expect("written");
            let start = Instant::now();
            file.sync_data().expect("on disk");
            start.elapsed()
        })
        .collect();
    all.sort();
    [all[50], all[99]]
}
