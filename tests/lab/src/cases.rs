//! What is seen in the nested machine, each by name.

use std::fs;
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::guest::{Guest, Wanted};
use crate::obedient::{PATIENCE, image, obedient};
use crate::stage;

/// Something to be seen: gives what was measured.
type Case = fn() -> Result<String>;

/// Every case, by name.
pub(crate) const ALL: &[(&str, Case)] = &[
    ("the_agent_comes_up", the_agent_comes_up),
    ("the_agent_comes_up_from_a_bzimage", the_agent_comes_up_from_a_bzimage),
    ("disks_are_found_read_and_written", crate::disks::disks_are_found_read_and_written),
    ("disks_come_and_go", crate::disks::disks_come_and_go),
    ("bytes_go_through_a_tap_and_back", crate::net::bytes_go_through_a_tap_and_back),
    ("memory_that_the_guest_frees_comes_back", memory_that_the_guest_frees_comes_back),
    ("the_monitor_needs_little_memory", the_monitor_needs_little_memory),
    ("four_processors_and_more_than_three_gib", four_processors_and_more_than_three_gib),
    ("a_paused_guest_does_not_answer", a_paused_guest_does_not_answer),
    ("a_reset_and_a_panic_are_told_apart", a_reset_and_a_panic_are_told_apart),
    ("machines_leave_nothing_behind", machines_leave_nothing_behind),
];

fn the_agent_comes_up() -> Result<String> {
    comes_up(image("vmlinux"))
}

fn the_agent_comes_up_from_a_bzimage() -> Result<String> {
    comes_up(image("bzImage"))
}

fn comes_up(wanted: Wanted<'_>) -> Result<String> {
    let guest = Guest::boot(wanted)?;
    let (_agent, took) = guest.agent(PATIENCE)?;
    let counters = guest.ask("counters")?;
    guest.tell("stop")?;
    let pid = guest.pid();
    let (status, said, console) = guest.end()?;
    if stage::argument("lab.console").is_some() {
        println!("{console}");
    }
    ensure!(status.success(), "the monitor {pid} ended with {status}: {said}");
    Ok(format!("agent after {} ms, {counters}", took.as_millis()))
}

/// Memory of the monitor beside the guest's, in KiB: at most 0.4 MiB that is its own, and 3.5 MiB in all.
fn the_monitor_needs_little_memory() -> Result<String> {
    let guest = obedient(1, 256, Vec::new())?;
    let smaps = fs::read_to_string(format!("/proc/{}/smaps", guest.machine.pid()))?;
    let (mut anonymous, mut file, mut of_guest, mut kernel) = (0, 0, false, false);
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            // A mapping's first line: addresses, rights, offset, device, inode, name.
            [range, _, _, _, _, ref name @ ..] if range.contains('-') => {
                let name = name.first().copied().unwrap_or_default();
                kernel = name.starts_with("/coffer/vmlinux") || name.starts_with("/coffer/lab.img");
                of_guest = name.starts_with("/memfd:guest-memory");
            }
            ["Rss:", kib, ..] if !of_guest && !kernel => file += kib.parse::<u64>()?,
            ["Anonymous:", kib, ..] if !of_guest && !kernel => anonymous += kib.parse::<u64>()?,
            _ => {}
        }
    }
    file -= anonymous;
    guest.stop()?;
    ensure!(anonymous <= 410, "{anonymous} KiB of its own");
    ensure!(anonymous + file <= 3584, "{anonymous} KiB of its own and {file} KiB of files");
    Ok(format!("{anonymous} KiB of its own, {file} KiB of files"))
}

/// Of 512 MiB that a guest used and freed, at least nine tenths are the node's again within ten seconds, unasked.
fn memory_that_the_guest_frees_comes_back() -> Result<String> {
    let mut guest = obedient(1, 768, Vec::new())?;
    let before = guest_memory(guest.machine.pid())?;
    guest.says("fill 512", &(512 * 256).to_string())?;
    let start = Instant::now();
    let mut highest = before;
    loop {
        let now = guest_memory(guest.machine.pid())?;
        highest = highest.max(now);
        if now.saturating_sub(before) < (512 << 10) / 10 && highest > before {
            let counters = guest.stop()?;
            let took = start.elapsed().as_millis();
            return Ok(format!("from {highest} to {now} KiB ({before} before) in {took} ms, {counters}"));
        }
        ensure!(
            start.elapsed() < Duration::from_secs(10),
            "{now} KiB of {highest} are still there, {before} before"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The guest's memory that the monitor of this process id has, in KiB.
fn guest_memory(pid: u32) -> Result<u64> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let (mut sum, mut of_guest) = (0, false);
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [range, _, _, _, _, ref name @ ..] if range.contains('-') => {
                of_guest = name.first().is_some_and(|name| name.starts_with("/memfd:guest-memory"));
            }
            ["Rss:", kib, ..] if of_guest => sum += kib.parse::<u64>()?,
            _ => {}
        }
    }
    Ok(sum)
}

fn four_processors_and_more_than_three_gib() -> Result<String> {
    // The memory is promised, not used: the nested machine has less.
    let mut guest = obedient(4, 4096, Vec::new())?;
    guest.says("cpus", "0-3")?;
    guest.says("clock", "kvm-clock")?;
    let memory = guest.obeys("memory")?;
    let kib: u64 = memory.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0);
    ensure!(kib > 3_800_000, "of 4 GiB the guest has {memory}");
    guest.stop()
}

fn a_paused_guest_does_not_answer() -> Result<String> {
    let mut guest = obedient(2, 256, Vec::new())?;
    ensure!(guest.machine.ask("pause")? == "ok", "not paused");
    writeln!(guest.lines.get_mut(), "cpus")?;
    guest.lines.get_ref().set_read_timeout(Some(Duration::from_millis(300)))?;
    let mut line = String::new();
    let silent = guest.lines.read_line(&mut line).is_err();
    ensure!(silent && line.is_empty(), "a paused guest answered {line:?}");
    guest.lines.get_ref().set_read_timeout(Some(PATIENCE))?;
    ensure!(guest.machine.ask("resume")? == "ok", "not resumed");
    guest.lines.read_line(&mut line)?;
    ensure!(line == "0-1\n", "after the pause the guest answered {line:?}");
    guest.stop()
}

fn a_reset_and_a_panic_are_told_apart() -> Result<String> {
    let mut words = Vec::new();
    for command in ["reset", "panic"] {
        let mut guest = obedient(1, 256, Vec::new())?;
        writeln!(guest.lines.get_mut(), "{command}")?;
        let end = guest.machine.answer(PATIENCE)?;
        ensure!(end.starts_with(&format!("ended {command}: ")), "after {command}: {end}");
        words.push(end);
        guest.machine.end()?;
    }
    Ok(words.join("; "))
}

fn machines_leave_nothing_behind() -> Result<String> {
    let before = inventory()?;
    for _ in 0..5 {
        obedient(1, 128, Vec::new())?.stop()?;
    }
    let after = inventory()?;
    ensure!(before == after, "before {before:?}, after {after:?}");
    Ok(format!("{after:?}"))
}

/// Processes, our own descriptors, entries below /run.
fn inventory() -> Result<[usize; 3]> {
    let numbered = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().parse::<u32>().is_ok();
    // Threads of the kernel come and go by themselves: they have no command line.
    let ours =
        |entry: &fs::DirEntry| fs::read(entry.path().join("cmdline")).is_ok_and(|line| !line.is_empty());
    let processes = fs::read_dir("/proc")?.flatten().filter(|entry| numbered(entry) && ours(entry)).count();
    Ok([processes, fs::read_dir("/proc/self/fd")?.count(), fs::read_dir("/run")?.count()])
}
