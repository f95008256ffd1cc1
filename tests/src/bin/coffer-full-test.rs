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
use coffer_tests::lab::{self, Beside};
use coffer_tests::packages::{self, Unpacked, unpacked};
use coffer_tests::progress::{say, step};
use coffer_tests::totals::Totals;

/// Runs every test and every check of the workspace.
#[derive(Parser)]
struct Arguments {
    /// Only the tests whose name contains this, and no checks
    only: Option<String>,
    /// Leave out the nested machine: the built-in monitor's cases, and the sample of the pods' suites on it
    #[arg(long)]
    no_nested: bool,
    /// Leave out a suite of `tests/tests`, such as `pods_leftovers`; it counts as skipped
    #[arg(long, value_name = "SUITE")]
    without: Vec<String>,
    /// Leave out the pod tests whose name contains this; it counts as skipped
    #[arg(long, value_name = "TEST")]
    skip: Vec<String>,
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
    let pods = pods(arguments)?;
    let nested = nested(arguments, &coffer, &mut totals)?;
    let tested = test(arguments, &coffer, pods, &mut totals);
    if let Some(nested) = nested {
        nested.end(&mut totals)?;
    }
    tested?;
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

/// Starts the nested machine, unless it was not asked for or cannot run here.
fn nested(arguments: &Arguments, coffer: &Coffer, totals: &mut Totals) -> Result<Option<Beside>> {
    if arguments.only.is_some() {
        return Ok(None);
    }
    if arguments.no_nested {
        say("left out, as asked: the nested machine");
        totals.skipped += 1;
        return Ok(None);
    }
    if let Some(reason) = lab::lacking()? {
        say(&format!("skipped: the nested machine: {reason}"));
        totals.skipped += 1;
        return Ok(None);
    }
    Beside::begin(coffer).map(Some)
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
    unpacked(Unpacked::LabKernel)?;
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
