//! What is seen in the nested machine, each by name.

use std::fs;
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::guest::{Guest, Wanted};
use crate::memory::{self, Beside};
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
    ("each_processor_sends_in_its_own_queue", crate::net::each_processor_sends_in_its_own_queue),
    ("each_processor_asks_in_its_own_queue", crate::disks::each_processor_asks_in_its_own_queue),
    ("disks_keep_to_their_limit", crate::disks::disks_keep_to_their_limit),
    ("a_disk_that_waits_holds_up_nothing_else", crate::slow::a_disk_that_waits_holds_up_nothing_else),
    ("bytes_go_through_a_tap_and_back", crate::net::bytes_go_through_a_tap_and_back),
    ("an_interface_is_plugged_in_and_out", crate::net::an_interface_is_plugged_in_and_out),
    ("memory_that_the_guest_frees_comes_back", memory_that_the_guest_frees_comes_back),
    ("memory_is_taken_from_the_guest_and_given_again", memory_is_taken_from_the_guest_and_given_again),
    ("the_monitor_needs_little_memory", the_monitor_needs_little_memory),
    ("an_initrd_stays_the_files", an_initrd_stays_the_files),
    ("four_processors_and_more_than_three_gib", four_processors_and_more_than_three_gib),
    ("a_paused_guest_does_not_answer", a_paused_guest_does_not_answer),
    ("a_reset_and_a_panic_are_told_apart", a_reset_and_a_panic_are_told_apart),
    ("a_hundred_machines_leave_nothing_behind", a_hundred_machines_leave_nothing_behind),
    ("sixteen_machines_at_once_leave_nothing_behind", sixteen_machines_at_once_leave_nothing_behind),
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
    let files = ["/coffer/vmlinux", "/coffer/lab.img"];
    let Beside { anonymous, file, .. } = Beside::of(guest.machine.pid(), &files, None)?;
    guest.stop()?;
    ensure!(anonymous <= 410, "{anonymous} KiB of its own");
    ensure!(anonymous + file <= 3584, "{anonymous} KiB of its own and {file} KiB of files");
    Ok(format!("{anonymous} KiB of its own, {file} KiB of files"))
}

/// A guest of 512 MiB that is to be content with 256 gives the rest to the node, has it again when it may, and takes it when it
/// would run out of memory.
fn memory_is_taken_from_the_guest_and_given_again() -> Result<String> {
    let mut guest = obedient(1, 512, Vec::new())?;
    for request in ["memory 513", "memory 63"] {
        let answer = guest.machine.ask(request)?;
        ensure!(answer.contains("64 to 512 MiB"), "{request}: {answer}");
    }
    guest.says("fill 384", &(384 * 256).to_string())?;
    let start = Instant::now();
    ensure!(guest.machine.ask("memory 256")? == "ok");
    await_given(&guest.machine, 256)?;
    let took = start.elapsed().as_millis();
    let left = memory::of_guest(guest.machine.pid())?;
    ensure!(left <= 256 << 10, "{left} KiB are the guest's after it gave all but 256 MiB");
    guest.says("fill 128", &(128 * 256).to_string())?;
    await_given(&guest.machine, 256)?;
    ensure!(guest.machine.ask("memory 512")? == "ok");
    await_given(&guest.machine, 0)?;
    guest.says("fill 384", &(384 * 256).to_string())?;
    ensure!(guest.machine.ask("memory 128")? == "ok");
    guest.says("fill 384", &(384 * 256).to_string())?;
    Ok(format!("256 MiB given in {took} ms, {}", guest.stop()?))
}

/// Waits until the guest has given so much of its memory.
fn await_given(guest: &Guest, mib: u32) -> Result<()> {
    let start = Instant::now();
    let wanted = format!(" given_mib={mib}");
    loop {
        let counters = guest.ask("counters")?;
        if counters.ends_with(&wanted) {
            return Ok(());
        }
        ensure!(start.elapsed() < Duration::from_secs(60), "{wanted} expected: {counters}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A guest that has unpacked its initrd has no copy of it.
fn an_initrd_stays_the_files() -> Result<String> {
    let guest = obedient(1, 256, Vec::new())?;
    let (resident, copied) = memory::of_file(guest.machine.pid(), "/coffer/lab.img")?;
    guest.stop()?;
    ensure!(resident > 0 && copied == 0, "of {resident} KiB {copied} are the guest's own");
    Ok(format!("{resident} KiB are the file's"))
}

/// Of 512 MiB that a guest used and freed, at least nine tenths are the node's again within ten seconds, unasked.
fn memory_that_the_guest_frees_comes_back() -> Result<String> {
    let mut guest = obedient(1, 768, Vec::new())?;
    let before = memory::of_guest(guest.machine.pid())?;
    guest.says("fill 512", &(512 * 256).to_string())?;
    let start = Instant::now();
    let mut highest = before;
    loop {
        let now = memory::of_guest(guest.machine.pid())?;
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

fn a_hundred_machines_leave_nothing_behind() -> Result<String> {
    // The first one fills caches that stay.
    short(0)?.stop()?;
    let before = Inventory::take()?;
    for number in 0..100 {
        short(number)?.stop()?;
    }
    before.compare("a hundred one after another")
}

fn sixteen_machines_at_once_leave_nothing_behind() -> Result<String> {
    // As above: sixteen at once leave some 20 MiB in the kernel's caches, and sixteen more do not add to them.
    sixteen_at_once()?;
    let before = Inventory::take()?;
    let during = sixteen_at_once()?;
    ensure!(during.processes >= before.processes + 16, "before {before:?}, with sixteen {during:?}");
    before.compare("sixteen at once")
}

/// Starts and stops them, and tells what was there while all of them ran.
fn sixteen_at_once() -> Result<Inventory> {
    let machines = (0..16).map(short).collect::<Result<Vec<_>>>()?;
    let during = Inventory::take()?;
    for machine in machines {
        machine.stop()?;
    }
    Ok(during)
}

/// A machine of a pod's devices, whose guest waits to be asked something: it does not end by itself.
fn short(number: u32) -> Result<Short> {
    let tap = crate::wire::tap(&format!("many{number}"))?;
    let disk = crate::disks::scratch("many", 64)?;
    let more =
        vec![("--disk many,ro,".to_owned(), disk), (format!("--nic 02:00:00:00:01:{number:02x},1500,"), tap)];
    let machine = Guest::boot(Wanted { memory_mib: 64, more, ..image("vmlinux") })?;
    Ok(Short(machine))
}

/// A machine that is stopped as soon as it runs.
struct Short(Guest);

impl Short {
    fn stop(self) -> Result<()> {
        self.0.tell("stop")?;
        let (status, said, _) = self.0.end()?;
        ensure!(status.success(), "the monitor ended with {status}: {said}");
        Ok(())
    }
}

/// What machines may leave behind, counted.
#[derive(Debug, Clone, Copy)]
struct Inventory {
    processes: usize,
    threads: usize,
    descriptors: usize,
    entries: usize,
    links: usize,
    machines: usize,
    /// KiB of shared memory, of which the guests' is.
    shared: u64,
    available: u64,
}

impl Inventory {
    fn take() -> Result<Inventory> {
        // Threads of the kernel come and go by themselves: they have no command line.
        let ours = |entry: &fs::DirEntry| {
            let numbered = entry.file_name().to_string_lossy().parse::<u32>().is_ok();
            numbered && fs::read(entry.path().join("cmdline")).is_ok_and(|line| !line.is_empty())
        };
        let processes: Vec<_> = fs::read_dir("/proc")?.flatten().filter(ours).collect();
        let threads = processes.iter().filter_map(|entry| fs::read_dir(entry.path().join("task")).ok());
        let count = |at: &str| -> Result<usize> { Ok(fs::read_dir(at)?.count()) };
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let kib = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        let machines = fs::read_dir("/sys/kernel/debug/kvm")?.flatten();
        Ok(Inventory {
            processes: processes.len(),
            threads: threads.map(Iterator::count).sum(),
            descriptors: count("/proc/self/fd")?,
            entries: count("/run")?,
            links: count("/sys/class/net")?,
            machines: machines.filter(|entry| entry.path().is_dir()).count(),
            shared: kib("Shmem:"),
            available: kib("MemAvailable:"),
        })
    }

    /// Looks again until nothing more is there than before: the kernel takes its time with what it destroys.
    fn compare(self, what: &str) -> Result<String> {
        let start = Instant::now();
        loop {
            let now = Inventory::take()?;
            let counts = |of: &Inventory| {
                [of.processes, of.threads, of.descriptors, of.entries, of.links, of.machines]
            };
            let more = counts(&now).into_iter().zip(counts(&self)).any(|(now, before)| now > before);
            // One machine of those that were started has 64 MiB, of which it used about half.
            let lost = self.available.saturating_sub(now.available);
            if !more && now.shared <= self.shared + 64 && lost < 16 << 10 {
                return Ok(format!("{what}: {now:?}, {lost} KiB of memory less than before"));
            }
            ensure!(start.elapsed() < Duration::from_secs(30), "{what}: before {self:?}, after {now:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
