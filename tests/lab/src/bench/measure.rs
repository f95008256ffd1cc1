//! One start: how long until the mark, and what the monitor takes.

use std::fmt;
use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::monitor::{Started, Task};

/// What every guest says as soon as it can.
const MARK: &str = "COFFER-MARK";

/// How long a guest may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the guest is left alone before its monitor's memory is looked at.
const SETTLE: Duration = Duration::from_millis(50);

/// Exits of all machines that KVM has counted since it was loaded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    all: u64,
    ports: u64,
    memory: u64,
}

impl Counts {
    pub(super) fn read() -> Result<Counts> {
        let get = |name: &str| -> Result<u64> {
            let path = format!("/sys/kernel/debug/kvm/{name}");
            Ok(fs::read_to_string(&path).with_context(|| path)?.trim().parse()?)
        };
        Ok(Counts { all: get("exits")?, ports: get("io_exits")?, memory: get("mmio_exits")? })
    }
}

/// What was measured. Memory is in KiB, and leaves out the guest's.
#[derive(Debug)]
pub(super) struct Figures {
    mark: Duration,
    memory: Memory,
    threads: u64,
    exits: Counts,
}

/// Memory of a monitor's processes beside the guest's, in KiB.
#[derive(Debug, Default)]
struct Memory {
    /// Nobody else's.
    anonymous: u64,
    /// Pages of files, which every machine of the monitor's shares.
    file: u64,
    threads: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { mark, memory, threads, exits } = self;
        write!(
            f,
            "mark_ns={} anonymous={} file={} threads={threads} exits={} ports={} memory={}",
            mark.as_nanos(),
            memory.anonymous,
            memory.file,
            exits.all,
            exits.ports,
            exits.memory
        )
    }
}

/// Waits for the mark, measures, and ends the monitor.
pub(super) fn measure(mut started: Started, before: Counts, task: &Task) -> Result<Figures> {
    let outcome = wait_for_mark(&mut started).and_then(|mark| {
        let now = Counts::read()?;
        std::thread::sleep(SETTLE);
        let mut memory = Memory::default();
        for pid in tree(started.child.id())? {
            memory.add(pid, task)?;
        }
        let exits = Counts {
            all: now.all - before.all,
            ports: now.ports - before.ports,
            memory: now.memory - before.memory,
        };
        Ok(Figures { mark, threads: memory.threads, memory, exits })
    });
    started.child.kill()?;
    started.child.wait()?;
    fs::remove_dir_all(&started.dir)?;
    let mut said = String::new();
    if let (Some(mut errors), Err(_)) = (started.child.stderr.take(), &outcome) {
        errors.read_to_string(&mut said)?;
    }
    outcome.context(said)
}

fn wait_for_mark(started: &mut Started) -> Result<Duration> {
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    let limit = Timespec::try_from(PATIENCE)?;
    loop {
        let mut watched = [PollFd::from_borrowed_fd(started.console.as_fd(), PollFlags::IN)];
        let ready = poll(&mut watched, Some(&limit))?;
        let length = if ready == 0 { 0 } else { started.console.read(&mut buffer)? };
        let took = Instant::now() - started.at;
        said.extend_from_slice(&buffer[..length]);
        let text = String::from_utf8_lossy(&said);
        if text.split_once(MARK).is_some_and(|(_, rest)| rest.contains('\n')) {
            return Ok(took);
        }
        if length == 0 || took > PATIENCE {
            bail!("no mark after {} ms: {text}", took.as_millis());
        }
    }
}

/// A process and its descendants.
fn tree(root: u32) -> Result<Vec<u32>> {
    let mut found = vec![root];
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Some(parent) = field(pid, "PPid:") else { continue };
        parents.push((pid, parent));
    }
    parents.sort_unstable();
    for (pid, parent) in parents {
        if found.contains(&u32::try_from(parent)?) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// A number of `/proc/PID/status`.
fn field(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

impl Memory {
    /// Adds a process's. The guest's memory is whatever is mapped from the guest's files, or half as large as it.
    fn add(&mut self, pid: u32, task: &Task) -> Result<()> {
        self.threads += field(pid, "Threads:").context("a process without threads")?;
        let smaps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
        let (mut guests, mut resident, mut part, mut file) = (false, 0, 0, 0);
        for line in smaps.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                // A mapping's first line: addresses, rights, offset, device, inode, name.
                [range, _, _, _, _, ref name @ ..] if range.contains('-') => {
                    let name = name.first().copied().unwrap_or_default();
                    let files = [task.kernel, "/bench/mark.img", "/memfd:guest-memory"];
                    guests = files.iter().any(|file| name.starts_with(file))
                        || length(range)? >= u64::from(task.memory_mib) << 19;
                }
                ["Rss:", kib, ..] if !guests => resident = kib.parse::<u64>()?,
                ["Pss:", kib, ..] if !guests => part = kib.parse::<u64>()?,
                ["Anonymous:", kib, ..] if !guests => {
                    let anonymous = kib.parse::<u64>()?;
                    // What a process shares with the one that made it is counted once, where that can be told.
                    self.anonymous += if anonymous == resident { part } else { anonymous };
                    file += resident - anonymous;
                }
                _ => {}
            }
        }
        // The processes of one monitor run the same program, and share its pages.
        self.file = self.file.max(file);
        Ok(())
    }
}

/// Bytes of a range of addresses.
fn length(range: &str) -> Result<u64> {
    let (start, end) = range.split_once('-').context("a mapping without a range")?;
    Ok(u64::from_str_radix(end, 16)? - u64::from_str_radix(start, 16)?)
}
