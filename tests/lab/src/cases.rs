//! What is seen in the nested machine, each by name.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::guest::{Guest, Wanted};
use crate::stage;

/// Something to be seen: gives what was measured.
type Case = fn() -> Result<String>;

/// Every case, by name.
pub(crate) const ALL: &[(&str, Case)] = &[
    ("the_agent_comes_up", the_agent_comes_up),
    ("the_agent_comes_up_from_a_bzimage", the_agent_comes_up_from_a_bzimage),
    ("disks_are_found_read_and_written", crate::disks::disks_are_found_read_and_written),
    ("disks_come_and_go", crate::disks::disks_come_and_go),
    ("four_processors_and_more_than_three_gib", four_processors_and_more_than_three_gib),
    ("a_paused_guest_does_not_answer", a_paused_guest_does_not_answer),
    ("a_reset_and_a_panic_are_told_apart", a_reset_and_a_panic_are_told_apart),
    ("machines_leave_nothing_behind", machines_leave_nothing_behind),
];

/// How long a guest may take: emulated twice over, nothing is fast.
const PATIENCE: Duration = Duration::from_secs(120);

const CMDLINE: &str = "console=ttyS0 loglevel=4 reboot=t panic=-1 acpi=off pci=off cgroup_no_v1=all tsc=reliable \
     no_timer_check rdinit=/init";

fn image(kernel: &str) -> Wanted<'static> {
    let kernel = if kernel == "bzImage" { "/coffer/bzImage" } else { "/coffer/vmlinux" };
    Wanted {
        kernel: Path::new(kernel),
        initrd: Some(Path::new("/coffer/initrd.img")),
        cmdline: CMDLINE,
        cpus: 1,
        memory_mib: 256,
        more: Vec::new(),
    }
}

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

/// A guest that does what it is asked over vsock.
pub(crate) struct Obedient {
    pub(crate) machine: Guest,
    lines: BufReader<UnixStream>,
}

/// Boots a guest that obeys, with further options of coffer-vmm's.
pub(crate) fn obedient(cpus: u8, memory_mib: u32, more: Vec<(String, OwnedFd)>) -> Result<Obedient> {
    let cmdline = format!("{CMDLINE} lab.role=obey");
    let initrd = Path::new("/coffer/lab.img");
    let wanted =
        Wanted { initrd: Some(initrd), cmdline: &cmdline, cpus, memory_mib, more, ..image("vmlinux") };
    let machine = Guest::boot(wanted)?;
    let (stream, _) = machine.agent(PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(Obedient { machine, lines: BufReader::new(stream) })
}

impl Obedient {
    /// Asks the guest to do something, and gives its answer.
    pub(crate) fn obeys(&mut self, command: &str) -> Result<String> {
        writeln!(self.lines.get_mut(), "{command}")?;
        let mut line = String::new();
        if self.lines.read_line(&mut line).with_context(|| format!("no answer to {command}"))? == 0 {
            bail!("the guest is gone after {command}; console:\n{}", self.machine.console());
        }
        Ok(line.trim_end().to_owned())
    }

    /// Fails unless the guest answers so.
    pub(crate) fn says(&mut self, command: &str, expected: &str) -> Result<()> {
        let answer = self.obeys(command)?;
        ensure!(answer == expected, "{command}: expected {expected:?}, found {answer:?}");
        Ok(())
    }

    /// Stops the machine; gives what it counted. A guest that behaved is not counted as misusing anything.
    pub(crate) fn stop(self) -> Result<String> {
        let counters = self.machine.ask("counters")?;
        ensure!(
            counters.contains(" malformed=0 faults=0 "),
            "the guest behaved, and the monitor says {counters}"
        );
        self.machine.tell("stop")?;
        let (status, said, _) = self.machine.end()?;
        ensure!(status.success(), "the monitor ended with {status}: {said}");
        Ok(counters)
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
