//! Processes that are awkward to look after: idle, greedy, deaf to signals, or survived by a child.

use std::io::{self, Write};
use std::process::{Command, ExitCode, Stdio};

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::pause as wait_for_signal;

/// Does nothing until a signal ends it: what a pod's pause container does.
pub(crate) fn pause() -> io::Result<ExitCode> {
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGINT);
    ends.thread_block()?;
    ends.wait()?;
    Ok(ExitCode::SUCCESS)
}

/// Takes `mebibytes` of memory, writes to every page, says so, and stays.
pub(crate) fn burn(mebibytes: u64) -> io::Result<ExitCode> {
    let mut kept = Vec::new();
    for _ in 0..mebibytes {
        let mut block = vec![0_u8; 1 << 20];
        for page in block.chunks_mut(4096) {
            page[0] = 1;
        }
        kept.push(block);
    }
    println!("holding {} MiB", kept.len());
    wait_for_signal();
    Ok(ExitCode::SUCCESS)
}

/// Ends at once with code 7 and leaves a child behind that keeps standard output and error open.
pub(crate) fn hold_output(seconds: &str) -> io::Result<ExitCode> {
    Command::new("/bin/sleep").arg(seconds).stdin(Stdio::null()).spawn()?;
    println!("a child holds this pipe");
    io::stdout().flush()?;
    Ok(ExitCode::from(7))
}

/// Starts a child that starts a grandchild and ends, so that the grandchild's exit is init's to collect; ends with `code`.
pub(crate) fn orphan(code: &str) -> io::Result<ExitCode> {
    let code: u8 = code.parse().map_err(io::Error::other)?;
    Command::new("/bin/sh").args(["-c", "(sleep 0.1; exit 3) & exit 0"]).status()?;
    Ok(ExitCode::from(code))
}

/// Prints the name of each of the named signals as it arrives; ends after SIGTERM with code 0, and ignores it if it is not named.
pub(crate) fn trap(names: &[&str]) -> io::Result<ExitCode> {
    let mut signals = SigSet::empty();
    for name in names {
        signals.add(name.parse::<Signal>()?);
    }
    let mut blocked = signals;
    blocked.add(Signal::SIGTERM);
    blocked.thread_block()?;
    println!("ready");
    loop {
        let signal = signals.wait()?;
        println!("{signal}");
        if signal == Signal::SIGTERM {
            return Ok(ExitCode::SUCCESS);
        }
    }
}
