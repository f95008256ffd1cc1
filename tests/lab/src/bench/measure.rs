//! One start: how long until the mark, and what the monitor takes.

use std::fmt;
use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::monitor::{Started, Task};
use crate::memory::Beside;

/// What every guest says as soon as it can.
const MARK: &str = "COFFER-MARK";

/// How long a guest may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the guest is left alone before its monitor's memory is looked at.
const SETTLE: Duration = Duration::from_millis(50);

/// Exits of all machines that KVM has counted since it was loaded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub(super) all: u64,
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
    memory: Beside,
    exits: Counts,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { mark, memory, exits } = self;
        write!(
            f,
            "mark_ns={} anonymous={} file={} threads={} exits={} ports={} memory={}",
            mark.as_nanos(),
            memory.anonymous,
            memory.file,
            memory.threads,
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
        let files = [task.kernel, task.initrd];
        let memory = Beside::of(started.child.id(), &files, Some(task.memory_mib))?;
        let exits = Counts {
            all: now.all - before.all,
            ports: now.ports - before.ports,
            memory: now.memory - before.memory,
        };
        Ok(Figures { mark, memory, exits })
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
