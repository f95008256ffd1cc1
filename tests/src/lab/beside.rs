//! The nested machine beside other suites: its cases, and the sample of the pods' suites on the built-in monitor.
//!
//! ```text
//! begin ── a thread ── nice cargo lab             ── target/nested-cases.log  ─┐
//!                   └─ nice cargo lab --sample    ── target/nested-sample.log ─┴─ end: both logs in one piece, failures last
//! ```
//! It takes one processor and its time passes by instructions, so the others may be served first and do not disturb it. It
//! takes no turn among the nodes of this machine: its own is another machine.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::emulator::emulator;
use super::node::MEMORY;
use crate::artefacts::{Coffer, target, workspace};
use crate::progress::{say, step};
use crate::totals::Totals;

/// Each run's name and its words for `cargo lab`. In seconds, half an hour is what the suites may take.
const RUNS: [(&str, &[&str]); 2] = [("cases", &[]), ("sample", &["--sample", "--limit", "1800"])];

/// MiB of memory that the machine around keeps for everything else.
const REST: u64 = 1024;

/// The nested machine, under way.
pub struct Beside {
    runs: JoinHandle<Result<Vec<Ran>>>,
}

/// A run of the nested machine that has ended.
struct Ran {
    name: &'static str,
    succeeded: bool,
    took: Duration,
    log: String,
}

/// A case, or a suite, with what was printed while it ran.
#[derive(Debug, PartialEq, Eq)]
struct Part<'a> {
    lines: Vec<&'a str>,
    end: End,
}

/// What became of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// Lines that belong to no case.
    Between,
    Passed,
    Failed,
}

/// What this machine lacks to have a nested one, if anything.
pub fn lacking() -> Result<Option<String>> {
    if !cfg!(target_arch = "x86_64") {
        return Ok(Some("it is emulated with AMD's virtualization, on x86-64 only".into()));
    }
    if !nix::unistd::geteuid().is_root() {
        return Ok(Some("needs root: its node has the root file system of this machine".into()));
    }
    let memory = std::fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let wanted = u64::from(MEMORY) + REST;
    let free = available(&memory).context("/proc/meminfo does not say what is available")?;
    if free < wanted {
        return Ok(Some(format!("needs {wanted} MiB of memory, {free} MiB are available")));
    }
    let faulty = emulator()?.faulty;
    Ok(faulty.map(|reason| format!("guests in it would hang by a fault of the emulator: {reason}")))
}

impl Beside {
    /// Starts it, with these programs and this guest image.
    pub fn begin(coffer: &Coffer) -> Result<Beside> {
        let coffer = coffer.clone();
        let all = move || RUNS.into_iter().map(|(name, words)| Ran::of(name, words, &coffer)).collect();
        Ok(Beside { runs: Builder::new().spawn(all).context("cannot start a thread")? })
    }

    /// Waits for its end, prints what it said in one piece with what failed last, and counts it.
    pub fn end(self, totals: &mut Totals) -> Result<()> {
        let runs = step("waiting for the nested machine", || self.runs.join());
        let mut runs = runs.ok().context("the thread of the nested machine failed")??;
        runs.sort_by_key(|run| !run.succeeded);
        for run in runs {
            let mut parts = parts(&run.log);
            parts.sort_by_key(|part| part.end);
            println!("nested machine, {}: {} s", run.name, run.took.as_secs());
            for line in parts.iter().flat_map(|part| &part.lines) {
                println!("{line}");
            }
            if !count(&parts, run.succeeded, totals) {
                say(&format!("nested machine, {}: failed", run.name));
            }
        }
        Ok(())
    }
}

impl Ran {
    fn of(name: &'static str, words: &[&str], coffer: &Coffer) -> Result<Ran> {
        let place = target().join(format!("nested-{name}.log"));
        let start = Instant::now();
        let succeeded = logged(words, coffer, &place).with_context(|| format!("nested machine, {name}"))?;
        let took = start.elapsed();
        let log = std::fs::read(&place).with_context(|| format!("cannot read {}", place.display()))?;
        Ok(Ran { name, succeeded, took, log: String::from_utf8_lossy(&log).into_owned() })
    }
}

/// Runs `cargo lab` with what it prints in a file. Says whether it exited with 0.
fn logged(words: &[&str], coffer: &Coffer, place: &Path) -> Result<bool> {
    let log = File::create(place).with_context(|| format!("cannot write {}", place.display()))?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new("nice");
    command.arg(cargo).args(["run", "--quiet", "-p", "coffer-tests", "--bin", "coffer-nested", "--"]);
    command.args(words).current_dir(workspace());
    command.env("COFFER_BIN_DIR", &coffer.binaries).env("COFFER_GUEST_DIR", &coffer.guest);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(command.status().context("cannot start cargo with nice")?.success())
}

/// MiB of memory that are available, as `/proc/meminfo` says.
fn available(memory: &str) -> Option<u64> {
    let line = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? >> 10)
}

/// Cuts a log at `LAB begin …` and behind `LAB pass …` and `LAB fail …`, and leaves out what only tells that it goes on.
fn parts(log: &str) -> Vec<Part<'_>> {
    let mut parts = vec![];
    let mut lines = vec![];
    for line in log.lines().filter(|line| !line.starts_with("... ")) {
        // The kernel may write before it on the same line.
        let word = line.split_once("LAB ").and_then(|(_, words)| words.split(' ').next());
        if word == Some("begin") {
            parts.push(Part { lines: std::mem::take(&mut lines), end: End::Between });
        }
        lines.push(line);
        let end = match word {
            Some("pass") => End::Passed,
            Some("fail" | "broken:") => End::Failed,
            _ => continue,
        };
        parts.push(Part { lines: std::mem::take(&mut lines), end });
    }
    parts.push(Part { lines, end: End::Between });
    parts.retain(|part| !part.lines.is_empty());
    parts
}

/// Adds a run to the totals: of a suite each test, and a case as one. Says whether it succeeded.
fn count(parts: &[Part<'_>], succeeded: bool, totals: &mut Totals) -> bool {
    let before = *totals;
    for part in parts {
        let begun = *totals;
        part.lines.iter().for_each(|line| totals.add(line));
        let counted = *totals != begun;
        match part.end {
            End::Passed if !counted => totals.passed += 1,
            End::Failed if totals.failed == begun.failed => totals.failed += 1,
            _ => {}
        }
    }
    if !succeeded && totals.failed == before.failed {
        totals.failed += 1;
    }
    totals.failed == before.failed
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASES: &str = "\
... building the nested machine's program
LAB begin boots
LAB fail boots no agent after 5 s
LAB begin stops
[    1.2] kvm: note LAB pass stops 5 ms
LAB done 1 passed 1 failed
1 passed, 1 failed
";

    fn counted(log: &str, succeeded: bool) -> Totals {
        let mut totals = Totals { passed: 10, ..Totals::default() };
        count(&parts(log), succeeded, &mut totals);
        totals
    }

    #[test]
    fn a_case_that_failed_counts_and_is_printed_last() {
        let mut parts = parts(CASES);
        parts.sort_by_key(|part| part.end);
        let last = parts.last().map(|part| part.lines.clone());
        assert_eq!(last, Some(vec!["LAB begin boots", "LAB fail boots no agent after 5 s"]));
        assert_eq!(counted(CASES, false), Totals { passed: 11, failed: 1, skipped: 0 });
    }

    #[test]
    fn a_suite_counts_as_its_tests_and_not_once_more() {
        let log = "LAB begin pods_ctr-1\n\
                   skipped: a_test: needs something\n\
                   test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 25 filtered out; finished in 9.1s\n\
                   LAB pass pods_ctr-1\n\
                   LAB begin pods_cri-1\n\
                   test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 9 filtered out; finished in 9.1s\n\
                   LAB fail pods_cri-1 ended with 101\n";
        assert_eq!(counted(log, false), Totals { passed: 13, failed: 2, skipped: 1 });
    }

    #[test]
    fn a_suite_that_ends_without_a_word_has_failed() {
        assert_eq!(counted("LAB begin pods_ctr-1\nLAB fail pods_ctr-1 signal 9\n", false).failed, 1);
    }

    #[test]
    fn a_machine_that_does_not_come_to_its_end_has_failed() {
        assert_eq!(counted("LAB pass boots 5 ms\nLAB begin stops\n", false).failed, 1);
        assert_eq!(counted("", false).failed, 1);
    }

    #[test]
    fn available_memory_is_read_in_mib() {
        assert_eq!(available("MemTotal:  8000000 kB\nMemAvailable:    2097152 kB\n"), Some(2048));
        assert_eq!(available("MemTotal:  8000000 kB\n"), None);
    }
}
