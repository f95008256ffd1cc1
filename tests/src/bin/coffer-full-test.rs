//! `cargo full-test`: installs what is missing, builds everything, and runs every test and every check of the workspace.
//!
//! The last line counts what was run: `N passed, M failed, K skipped`. A check (formatting, lints) counts as one.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use anyhow::{Context, Result};
use clap::Parser;
use coffer_tests::artefacts::{self, Coffer, workspace};
use coffer_tests::containerd::Version;
use coffer_tests::packages;
use coffer_tests::progress::{say, step};

/// Runs every test and every check of the workspace.
#[derive(Parser)]
struct Arguments {
    /// Only the tests whose name contains this, and no checks
    only: Option<String>,
    /// Also run the nested machine's cases and its sample of the pods' suites on the built-in monitor
    #[arg(long)]
    nested: bool,
    /// Leave out a suite of `tests/tests`, such as `pods_leftovers`; it counts as skipped
    #[arg(long, value_name = "SUITE")]
    without: Vec<String>,
    /// Leave out the pod tests whose name contains this; it counts as skipped
    #[arg(long, value_name = "TEST")]
    skip: Vec<String>,
}

/// What was run so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    passed: u64,
    failed: u64,
    skipped: u64,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(totals) => {
            println!("{} passed, {} failed, {} skipped", totals.passed, totals.failed, totals.skipped);
            if totals.failed == 0 && totals.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("coffer-full-test: {error:#}");
            println!("0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<Totals> {
    let mut totals = Totals::default();
    prepare()?;
    let coffer = artefacts::coffer()?;
    if arguments.only.is_none() {
        check(&mut totals, "formatting", &["fmt", "--all", "--check"])?;
        check(
            &mut totals,
            "lints",
            &["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"],
        )?;
    }
    test(arguments, &coffer, crates(), &mut totals)?;
    // It takes one processor and its own time, so it can go on beside the suites of this machine.
    let nested = arguments.nested.then(|| Nested::begin(&coffer)).transpose()?;
    test(arguments, &coffer, pods(arguments)?, &mut totals)?;
    if let Some(nested) = nested {
        nested.end(&mut totals)?;
    }
    if arguments.only.is_none() {
        measure(&mut totals, &coffer)?;
    }
    for name in arguments.without.iter().chain(&arguments.skip) {
        say(&format!("left out, as asked: {name}"));
        totals.skipped += 1;
    }
    Ok(totals)
}

/// Runs the tests of one part of the workspace.
fn test(arguments: &Arguments, coffer: &Coffer, part: Vec<String>, totals: &mut Totals) -> Result<()> {
    let mut command = cargo(&["test", "--no-fail-fast"]);
    command.args(part).args(arguments.only.iter());
    command.env("COFFER_BIN_DIR", &coffer.binaries).env("COFFER_GUEST_DIR", &coffer.guest);
    command.env("COFFER_GUEST_KERNEL", coffer.guest.join("vmlinux"));
    // A failing test names what it found; the runner's own stack says nothing more.
    command.env("RUST_BACKTRACE", "0");
    command.arg("--").args(arguments.skip.iter().flat_map(|name| ["--skip", name]));
    let before = *totals;
    let succeeded = watch(command, totals)?;
    if !succeeded && totals.failed == before.failed {
        say("cargo test failed before it ran a test");
        totals.failed += 1;
    }
    Ok(())
}

/// The nested machine's cases and the sample of pod tests in it, under way; what they print is kept until their end.
struct Nested {
    runs: thread::JoinHandle<Result<Vec<(bool, String)>>>,
}

impl Nested {
    fn begin(coffer: &Coffer) -> Result<Nested> {
        let binaries = coffer.binaries.clone();
        let guest = coffer.guest.clone();
        let runs = thread::Builder::new().spawn(move || {
            let arguments: [&[&str]; 2] = [&[], &["--sample"]];
            let outputs = arguments.map(|arguments| {
                let mut command =
                    cargo(&["run", "--quiet", "-p", "coffer-tests", "--bin", "coffer-nested", "--"]);
                command.args(arguments).env("COFFER_BIN_DIR", &binaries).env("COFFER_GUEST_DIR", &guest);
                let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
                Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
            });
            outputs.into_iter().collect()
        });
        Ok(Nested { runs: runs.context("cannot start a thread")? })
    }

    fn end(self, totals: &mut Totals) -> Result<()> {
        let runs = step("waiting for the nested machine", || self.runs.join());
        for (succeeded, output) in runs.ok().context("the thread of the nested machine failed")?? {
            let before = *totals;
            for line in output.lines() {
                println!("{line}");
                totals.add(line);
            }
            if !succeeded && totals.failed == before.failed {
                say("the nested machine failed");
                totals.failed += 1;
            }
        }
        Ok(())
    }
}

/// Prints the cost table. It fails for what a pod takes in memory and for pods that do not start, not for times: those are as
/// good as the machine is idle.
fn measure(totals: &mut Totals, coffer: &Coffer) -> Result<()> {
    let mut command =
        cargo(&["run", "--quiet", "-p", "coffer-tests", "--bin", "coffer-cost", "--", "--starts", "3"]);
    command.env("COFFER_BIN_DIR", &coffer.binaries).env("COFFER_GUEST_DIR", &coffer.guest);
    if watch(command, totals)? {
        totals.passed += 1;
    } else {
        say("a pod costs more than it may");
        totals.failed += 1;
    }
    Ok(())
}

/// What selects each crate's own tests.
fn crates() -> Vec<String> {
    ["--workspace", "--exclude", "coffer-tests"].map(str::to_owned).to_vec()
}

/// What selects the suites of this crate, but for those that are to be left out.
fn pods(arguments: &Arguments) -> Result<Vec<String>> {
    let mut suites = Vec::new();
    for entry in std::fs::read_dir(workspace().join("tests/tests")).context("cannot list the suites")? {
        let name = entry?.path().file_stem().context("a suite has a name")?.to_string_lossy().into_owned();
        suites.push(name);
    }
    suites.sort();
    if let Some(unknown) = arguments.without.iter().find(|name| !suites.contains(name)) {
        anyhow::bail!("there is no suite {unknown}; there are {}", suites.join(", "));
    }
    suites.retain(|suite| !arguments.without.contains(suite));
    let selected = suites.into_iter().flat_map(|suite| ["--test".to_owned(), suite]);
    Ok(["-p", "coffer-tests", "--lib", "--bins"].map(str::to_owned).into_iter().chain(selected).collect())
}

/// Everything that is fetched is fetched first, so that no test waits for a mirror.
fn prepare() -> Result<()> {
    packages::install()?;
    for version in [Version::V1_6, Version::V1_7, Version::V2] {
        version.programs()?;
    }
    artefacts::testbox().map(drop)
}

fn check(totals: &mut Totals, what: &str, arguments: &[&str]) -> Result<()> {
    let status = step(&format!("checking {what}"), || cargo(arguments).stdin(Stdio::null()).status())?;
    if status.success() {
        totals.passed += 1;
    } else {
        say(&format!("the check of {what} failed"));
        totals.failed += 1;
    }
    Ok(())
}

/// Runs `command`, shows everything that it prints, and adds up what it reports. Says whether it exited with 0.
fn watch(mut command: Command, totals: &mut Totals) -> Result<bool> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (send, lines) = channel();
    let readers = [reader(child.stdout.take(), send.clone()), reader(child.stderr.take(), send)];
    for line in lines {
        println!("{line}");
        totals.add(&line);
    }
    for reader in readers {
        reader.join().ok().context("a thread that reads cargo's output failed")?;
    }
    ended(child)
}

fn reader<R: Read + Send + 'static>(source: Option<R>, lines: Sender<String>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let Some(source) = source else { return };
        let mut source = BufReader::new(source);
        let mut line = Vec::new();
        while let Ok(1..) = source.read_until(b'\n', &mut line) {
            let sent = lines.send(String::from_utf8_lossy(&line).trim_end().to_owned());
            line.clear();
            if sent.is_err() {
                return;
            }
        }
    })
}

fn ended(mut child: Child) -> Result<bool> {
    Ok(child.wait()?.success())
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(workspace());
    command
}

impl Totals {
    /// Counts `test result: ok. 5 passed; 0 failed; 1 ignored; …`, the nested machine's `LAB pass …` and
    /// `skipped: NAME: reason`. A skipped test has also passed as its runner sees it.
    fn add(&mut self, line: &str) {
        if line.starts_with("LAB pass ") {
            self.passed += 1;
        }
        if line.starts_with("LAB fail ") {
            self.failed += 1;
        }
        if line.starts_with("skipped: ") {
            self.skipped += 1;
            self.passed = self.passed.saturating_sub(1);
        }
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        let number = |what: &str| {
            let part = counts.split(['.', ';']).map(str::trim).find_map(|part| part.strip_suffix(what));
            part.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        self.passed += number("passed");
        self.failed += number("failed");
        self.skipped += number("ignored");
    }
}

#[cfg(test)]
mod tests {
    use super::Totals;

    #[test]
    fn a_result_line_is_counted() {
        let mut totals = Totals::default();
        totals.add("test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 2 filtered out; finished in 1.2s");
        assert_eq!(totals, Totals { passed: 12, failed: 3, skipped: 1 });
    }

    #[test]
    fn a_skipped_test_has_not_passed() {
        let mut totals = Totals { passed: 0, failed: 0, skipped: 0 };
        totals.add("test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        totals.add("skipped: a_test: needs root");
        assert_eq!(totals, Totals { passed: 1, failed: 0, skipped: 1 });
    }
}
