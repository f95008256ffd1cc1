//! Boots the nested machine, and reads what happens in it.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::bench::Figures;
use super::emulator::emulator;
use super::initrd;
use super::io::Exchanges;
use super::monitors::Monitor;
use crate::artefacts;
use crate::packages::{Unpacked, unpacked};
use crate::progress::step;

/// Seconds after which the machine is ended: it is emulated, and its guests are emulated twice.
const LIMIT: u32 = 1500;

/// MiB of memory of the machine.
const MEMORY: u32 = 3072;

/// What is to run.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Only cases whose name contains this.
    pub case: String,
    /// How its time passes.
    pub time: Time,
    /// Whether the guests' consoles are shown.
    pub console: bool,
    /// Instead of the cases, a benchmark: with QEMU, and these.
    pub bench: Option<(Benchmark, Vec<Monitor>)>,
}

/// What monitors are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Benchmark {
    /// How long guests take to start, and what of.
    Starts,
    /// What guests move.
    Io,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Cases that passed, each with what was measured.
    pub passed: Vec<String>,
    /// Cases that failed, each with the reason.
    pub failed: Vec<String>,
    /// What the benchmark of starts measured.
    pub figures: Figures,
    /// What the benchmark of I/O measured.
    pub exchanges: Exchanges,
    /// Whether the machine came to its end.
    pub done: bool,
}

/// Runs cases in the nested machine, and shows every line of it.
pub fn run(wanted: &Wanted) -> Result<Outcome> {
    let coffer = artefacts::coffer()?;
    let init = artefacts::lab()?;
    let kernel = unpacked(Unpacked::LabKernel)?;
    let monitors = wanted.bench.as_ref().map(|(_, given)| [&[Monitor::qemu()], given.as_slice()].concat());
    let archive = initrd::build(&kernel, &init, &coffer, &monitors.unwrap_or_default())
        .context("cannot put the nested machine together")?;
    let mut line = format!("lab.case={}", wanted.case);
    if wanted.console {
        line.push_str(" lab.console=1");
    }
    if let Some((benchmark, _)) = wanted.bench {
        line.push_str(if benchmark == Benchmark::Io { " lab.bench=io" } else { " lab.bench=starts" });
    }
    boot(
        &kernel,
        &archive,
        &Frame { line, time: wanted.time, memory: MEMORY, limit: LIMIT, devices: Vec::new() },
    )
}

/// How the time of a nested machine passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Time {
    /// As the host's, with two processors.
    Wall,
    /// By instructions, two nanoseconds each; while it waits its time jumps to the next timer. What is measured depends on
    /// nothing else, so long as it does not wait for the host.
    #[default]
    Counted,
    /// By instructions, and as the host's while it waits: for work that waits for the host's files, which must not run into
    /// timers that the host's load had nothing to do with.
    Slept,
}

/// What a nested machine is given.
pub(super) struct Frame {
    /// Words of its kernel's command line.
    pub(super) line: String,
    /// How its time passes.
    pub(super) time: Time,
    /// MiB of its memory.
    pub(super) memory: u32,
    /// Seconds after which it is ended.
    pub(super) limit: u32,
    /// Further arguments of QEMU's.
    pub(super) devices: Vec<String>,
}

/// Boots the kernel of an unpacked package with this archive as its initrd, and shows every line that comes of it.
pub(super) fn boot(kernel: &Path, archive: &[u8], frame: &Frame) -> Result<Outcome> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(archive)?;
    let image = std::fs::read_dir(kernel.join("boot"))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().contains("/vmlinuz-"))
        .context("the kernel package has no kernel")?;
    let time: &[&str] = match frame.time {
        Time::Wall => &["-accel", "tcg,thread=multi", "-smp", "2"],
        Time::Counted => {
            &["-accel", "tcg,thread=single", "-icount", "shift=1,sleep=off", "-smp", "1", "-rtc", "clock=vm"]
        }
        Time::Slept => {
            &["-accel", "tcg,thread=single", "-icount", "shift=1,sleep=on", "-smp", "1", "-rtc", "clock=vm"]
        }
    };
    let emulator = emulator()?;
    if let Some(reason) = &emulator.faulty {
        println!("guests may hang by a fault of the emulator: {reason}");
    }
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", &frame.limit.to_string()]).arg(emulator.program);
    command.args(["-M", "q35", "-cpu", "max"]);
    command.args(time).args([
        "-m",
        &frame.memory.to_string(),
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
    ]);
    command.args(["-display", "none", "-serial", "stdio"]).args(&frame.devices);
    command
        .arg("-append")
        .arg(format!("console=ttyS0 panic=-1 nokaslr quiet loglevel=2 mitigations=off {}", frame.line));
    command.arg("-kernel").arg(image).arg("-initrd").arg(file.path());
    step("running the nested machine", || watch(command))
}

fn watch(mut command: Command) -> Result<Outcome> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start QEMU")?;
    let output = child.stdout.take().context("QEMU's output")?;
    let mut outcome = Outcome::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{}", line.trim_end());
        outcome.note(line.trim_end());
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("the nested machine ended with {status}, after {} cases", outcome.passed.len());
    }
    Ok(outcome)
}

impl Outcome {
    /// Takes a line of the console.
    fn note(&mut self, line: &str) {
        // A suite that runs nothing succeeds, and would count as passed.
        if line == "running 0 tests" {
            self.failed.push("no test of a suite has such a name".to_owned());
        }
        // The kernel may write before ours on the same line.
        let Some((_, words)) = line.split_once("LAB ") else { return };
        match words.split_once(' ') {
            Some(("pass", rest)) => self.passed.push(rest.to_owned()),
            Some(("fail" | "broken:", rest)) => self.failed.push(rest.to_owned()),
            Some(("figure", rest)) if self.figures.note(rest).is_none() => {
                self.failed.push(format!("a figure that is none: {rest}"));
            }
            Some(("io", rest)) if self.exchanges.note(rest).is_none() => {
                self.failed.push(format!("an exchange that is none: {rest}"));
            }
            Some(("done", _)) => self.done = true,
            _ => {}
        }
    }

    /// Whether everything that was to run has run and passed.
    pub fn succeeded(&self) -> bool {
        self.done && self.failed.is_empty() && !self.passed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_machine_that_came_to_its_end_has_succeeded() {
        let mut outcome = Outcome::default();
        outcome.note("LAB pass boots 5 ms");
        assert!(!outcome.succeeded());
        outcome.note("[ 1.0] kvm: note LAB done 1 passed 0 failed");
        assert!(outcome.succeeded());
    }

    #[test]
    fn a_suite_of_which_no_test_runs_has_failed() {
        let mut outcome = Outcome::default();
        outcome.note("running 0 tests");
        outcome.note("LAB pass pods_ctr");
        outcome.note("LAB done 1 passed 0 failed");
        assert!(!outcome.succeeded());
    }

    #[test]
    fn a_failed_case_is_remembered_with_its_reason() {
        let mut outcome = Outcome::default();
        outcome.note("LAB fail boots no agent");
        outcome.note("LAB done 0 passed 1 failed");
        assert_eq!(outcome.failed, ["boots no agent"]);
        assert!(!outcome.succeeded());
    }
}
