//! `cargo lab`: the built-in monitor on a real `/dev/kvm`, in a nested machine made of Debian packages only.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use coffer_tests::lab::{Node, Suite, Time, Wanted, run, run_suites, sample};
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
    /// Run what `cargo full-test` runs of the pod tests there
    #[arg(long, conflicts_with_all = ["pods", "case"])]
    sample: bool,
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
    let suites: Vec<Suite> = if arguments.sample { sample() } else { arguments.suites() };
    let time = match (arguments.wall, suites.is_empty()) {
        (true, _) => Time::Wall,
        (false, true) => Time::Counted,
        (false, false) => Time::Slept,
    };
    let Arguments { case, console, limit, .. } = arguments;
    let outcome = if suites.is_empty() {
        run(&Wanted { case: case.unwrap_or_default(), time, console })?
    } else {
        run_suites(&Node { suites, time, limit, busy: console })?
    };
    println!("{} passed, {} failed", outcome.passed.len(), outcome.failed.len());
    Ok(outcome.succeeded())
}

impl Arguments {
    /// The suites asked for by name.
    fn suites(&self) -> Vec<Suite> {
        let suite = |name: &String| Suite {
            name: name.clone(),
            tests: self.case.iter().cloned().collect(),
            skip: self.skip.clone(),
            variables: Vec::new(),
        };
        self.pods.iter().map(suite).collect()
    }
}
