//! `cargo lab`: the built-in monitor on a real `/dev/kvm`, in a nested machine made of Debian packages only.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use coffer_tests::lab::{Benchmark, COST, Monitor, Node, Suite, Time, Wanted, run, run_suites, sample};
use coffer_tests::packages;

/// Boots guests with coffer-vmm in a nested machine, and says what became of each.
#[derive(Parser)]
struct Arguments {
    /// Only cases whose name contains this; `bench` and `io` are benchmarks beside other monitors, `cost` is `cargo cost` there
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
    /// Firecracker's program, for the benchmark
    #[arg(long, value_name = "PATH", env = "COFFER_FIRECRACKER")]
    firecracker: Option<PathBuf>,
    /// cloud-hypervisor's program, for the benchmark
    #[arg(long, value_name = "PATH", env = "COFFER_CLOUD_HYPERVISOR")]
    cloud_hypervisor: Option<PathBuf>,
    /// Another monitor for the benchmark, as `NAME PROGRAM ARGUMENTS`: tests/src/lab/monitors.rs says with which places
    #[arg(long, value_name = "LINE")]
    monitor: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.case.as_deref() {
        Some("bench") => bench(&arguments, Benchmark::Starts),
        Some("io") => bench(&arguments, Benchmark::Io),
        Some("cost") if arguments.pods.is_empty() => {
            lab(Arguments { case: None, pods: vec![COST.to_owned()], ..arguments })
        }
        _ => lab(arguments),
    };
    match outcome {
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
        run(&Wanted { case: case.unwrap_or_default(), time, console, bench: None })?
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

fn bench(arguments: &Arguments, benchmark: Benchmark) -> Result<bool> {
    if arguments.wall {
        bail!("the benchmark counts instructions: --wall would measure the host's load");
    }
    packages::install()?;
    let mut monitors: Vec<Monitor> =
        arguments.monitor.iter().map(|line| Monitor::described(line)).collect::<Result<_>>()?;
    monitors.extend(arguments.firecracker.as_deref().map(Monitor::firecracker));
    monitors.extend(arguments.cloud_hypervisor.as_deref().map(Monitor::cloud_hypervisor));
    let wanted =
        Wanted { console: arguments.console, bench: Some((benchmark, monitors)), ..Wanted::default() };
    let outcome = run(&wanted)?;
    let (table, missed) = match benchmark {
        Benchmark::Starts => (outcome.figures.table(), outcome.figures.complaints()?),
        Benchmark::Io => (outcome.exchanges.table(), outcome.exchanges.complaints()?),
    };
    println!("{table}");
    let mut complaints = outcome.failed;
    if !outcome.done {
        complaints.push("the nested machine did not come to its end".to_owned());
    }
    complaints.extend(missed);
    for complaint in &complaints {
        println!("MISSED {complaint}");
    }
    Ok(complaints.is_empty())
}
