//! Which threads use the processor and where guests leave it, for whoever looks into a nested machine that hangs: there is
//! no shell in it.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use crate::stage;

/// What is counted less often in that time is not said.
const OFTEN: u64 = 2000;

/// How often it is said, and about how many threads.
const EVERY: Duration = Duration::from_secs(10);
const SHOWN: usize = 4;

/// Where the kernel tells of what happens.
const TRACING: &str = "/sys/kernel/debug/tracing";

/// How many of the instructions at which guests were left are said.
const PLACES: usize = 12;

/// Says it until the machine ends.
pub(crate) fn watch() {
    let (mut before, mut counted) = (BTreeMap::new(), BTreeMap::new());
    // Without it nothing is said of what KVM counts.
    let _ = stage::mount_debug();
    let mut traced = false;
    loop {
        std::thread::sleep(EVERY);
        // The events are there as soon as KVM is.
        traced = traced || trace_exits().is_ok();
        let counts = counters();
        let often = |(name, count): (&String, &u64)| {
            let more = count.saturating_sub(counted.get(name).copied().unwrap_or(0));
            (more > OFTEN).then(|| format!("{name} {more}"))
        };
        let often: Vec<String> = counts.iter().filter_map(often).collect();
        if !often.is_empty() {
            println!("LAB kvm {}", often.join(", "));
        }
        counted = counts;
        let now = threads();
        let used = |(id, (name, ticks)): (&String, &(String, u64))| {
            let earlier = before.get(id).map_or(0, |(_, ticks): &(String, u64)| *ticks);
            (ticks.saturating_sub(earlier), format!("{name}[{id}]"))
        };
        let mut busy: Vec<(u64, String)> = now.iter().map(used).filter(|(ticks, _)| *ticks > 0).collect();
        busy.sort();
        let shown: Vec<String> =
            busy.iter().rev().take(SHOWN).map(|(ticks, name)| format!("{name} {ticks}")).collect();
        println!("LAB busy {}", shown.join(", "));
        before = now;
        println!("LAB left {}", places().unwrap_or_default());
    }
}

/// Has the kernel note each exit of a guest, the latest few thousand.
fn trace_exits() -> std::io::Result<()> {
    fs::write(format!("{TRACING}/buffer_size_kb"), "512")?;
    fs::write(format!("{TRACING}/events/kvm/kvm_exit/enable"), "1")
}

/// Why and at which instructions guests were left since the last call, the most frequent first.
fn places() -> std::io::Result<String> {
    let trace = fs::read_to_string(format!("{TRACING}/trace"))?;
    fs::write(format!("{TRACING}/trace"), "")?;
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    for line in trace.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |name| words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1));
        let thread = words.first().copied().unwrap_or_default();
        if let (Some(reason), Some(place)) = (after("reason"), after("rip")) {
            *counted.entry(format!("{thread} {reason} {place}")).or_default() += 1;
        }
    }
    let mut counted: Vec<(u64, String)> = counted.into_iter().map(|(place, count)| (count, place)).collect();
    counted.sort_by(|one, other| other.cmp(one));
    let shown: Vec<String> =
        counted.into_iter().take(PLACES).map(|(count, place)| format!("{count}x {place}")).collect();
    Ok(shown.join(", "))
}

/// Every thread by process and own id, with its name and the hundredths of a second that it has used.
fn threads() -> BTreeMap<String, (String, u64)> {
    let mut found = BTreeMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let id = process.file_name().to_string_lossy().into_owned();
        if !id.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        for thread in fs::read_dir(process.path().join("task")).into_iter().flatten().flatten() {
            let Ok(stat) = fs::read_to_string(thread.path().join("stat")) else { continue };
            // The name may have anything in it, spaces and parentheses too.
            let Some((head, tail)) = stat.rsplit_once(") ") else { continue };
            let name = head.split_once('(').map_or("?", |(_, name)| name).to_owned();
            let ticks = tail.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
            found.insert(format!("{id}/{}", thread.file_name().to_string_lossy()), (name, ticks));
        }
    }
    found
}

/// What KVM counts of each machine and processor.
fn counters() -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for machine in fs::read_dir("/sys/kernel/debug/kvm").into_iter().flatten().flatten() {
        for counter in fs::read_dir(machine.path()).into_iter().flatten().flatten() {
            let Ok(text) = fs::read_to_string(counter.path()) else { continue };
            if let Ok(count) = text.trim().parse() {
                let (machine, counter) = (machine.file_name(), counter.file_name());
                found.insert(format!("{}/{}", machine.to_string_lossy(), counter.to_string_lossy()), count);
            }
        }
    }
    found
}
