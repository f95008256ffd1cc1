//! `coffer-testbox`: the static tool inside the test images; each command shows one thing that a shell cannot show exactly.
//!
//! It runs as an ordinary workload in a container: it never knows which runtime started it.

mod disturb;
mod see;
mod stream;

use std::io;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("testbox: {error}");
            ExitCode::from(125)
        }
    }
}

fn run(words: &[&str]) -> io::Result<ExitCode> {
    match words {
        ["bytes", count, seed] => stream::bytes(number(count)?, number(seed)?),
        ["hash"] => stream::hash(),
        ["forget"] => stream::forget(),
        ["serve", address, reply] => stream::serve(address, reply),
        ["ask", address, question] => stream::ask(address, question),
        ["get", socket, path] => stream::get(socket, path),
        ["size"] => see::size(),
        ["facts"] => see::facts(),
        ["pause"] => disturb::pause(),
        ["burn", mebibytes] => disturb::burn(number(mebibytes)?),
        ["hold-output", seconds] => disturb::hold_output(seconds),
        ["orphan", code] => disturb::orphan(code),
        ["trap", signals @ ..] => disturb::trap(signals),
        _ => Err(io::Error::other(format!("no such command: {}", words.join(" ")))),
    }
}

fn number(word: &str) -> io::Result<u64> {
    word.parse().map_err(|error| io::Error::other(format!("{word:?} is not a number: {error}")))
}
