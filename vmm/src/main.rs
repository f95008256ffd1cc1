//! `coffer-vmm`: the processes of a machine that touch the guest's memory. Started by the shim, never by hand.
//!
//! ```text
//! coffer-vmm vsock …   the vsock device of a machine that QEMU runs
//! coffer-vmm run …     a whole machine, on /dev/kvm
//! ```

mod machine_process;
mod vsock_process;

use std::process::ExitCode;

use anyhow::{Context, bail};
use coffer_vmm::options::Options;

fn main() -> anyhow::Result<ExitCode> {
    let mut words = std::env::args().skip(1);
    let command = words.next();
    let options = Options::parse(words).context("command line")?;
    match command.as_deref() {
        Some("vsock") => vsock_process::run(options),
        Some("run") => machine_process::run(options),
        _ => bail!("usage: coffer-vmm {} | {}", vsock_process::USAGE, machine_process::USAGE),
    }
}

/// An error and its sources on one line. Not by way of anyhow, which might look for a backtrace and mean to open files.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
