//! `cargo lab`: the built-in monitor on a real `/dev/kvm`, in a nested machine made of Debian packages only.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use coffer_tests::lab::{Suites, Time, Wanted, run, run_suites};
use coffer_tests::packages;

/// Boots guests with coffer-vmm in a nested machine, and says what became of each.
#[derive(Parser)]
struct Arguments {
    /// Only cases whose name contains this
    case: Option<String>,
    /// The host's time instead of counted instructions: faster with two idle processors, and not repeatable
    #[arg(long)]
    wall: bool,
    /// Show the guests' consoles; with --pods, which threads are busy
    #[arg(long)]
    console: bool,
    /// Run suites of pod tests there instead, such as `pods_ctr`; CASE then selects tests by a part of their name
    #[arg(long, value_name = "SUITE")]
    pods: Vec<String>,
    /// Leave out the pod tests whose name contains this
    #[arg(long, value_name = "TEST")]
    skip: Vec<String>,
    /// Seconds that suites of pod tests may take in all
    #[arg(long, default_value_t = 3600)]
    limit: u32,
}

fn main() -> ExitCode {
    match lab(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("coffer-nested: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn lab(arguments: Arguments) -> Result<bool> {
    packages::install()?;
    let Arguments { case, wall, console, pods: names, skip, limit } = arguments;
    let time = match (wall, names.is_empty()) {
        (true, _) => Time::Wall,
        (false, true) => Time::Counted,
        (false, false) => Time::Slept,
    };
    let outcome = if names.is_empty() {
        run(&Wanted { case: case.unwrap_or_default(), time, console })?
    } else {
        run_suites(&Suites { names, tests: case.into_iter().collect(), skip, time, limit, busy: console })?
    };
    println!("{} passed, {} failed", outcome.passed.len(), outcome.failed.len());
    Ok(outcome.succeeded())
}
