//! `cargo lab`: the built-in monitor on a real `/dev/kvm`, in a nested machine made of Debian packages only.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use coffer_tests::lab::{Wanted, run};
use coffer_tests::packages;

/// Boots guests with coffer-vmm in a nested machine, and says what became of each.
#[derive(Parser)]
struct Arguments {
    /// Only cases whose name contains this
    case: Option<String>,
    /// The host's time instead of counted instructions: faster with two idle processors, and not repeatable
    #[arg(long)]
    wall: bool,
    /// Show the guests' consoles
    #[arg(long)]
    console: bool,
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
    let Arguments { case, wall, console } = arguments;
    let outcome = run(&Wanted { case: case.unwrap_or_default(), wall, console })?;
    println!("{} passed, {} failed", outcome.passed.len(), outcome.failed.len());
    Ok(outcome.succeeded())
}
