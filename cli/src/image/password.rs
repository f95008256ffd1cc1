//! Asks for a password: the environment first, as cosign does, then the terminal, which does not show it.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};

use anyhow::Context;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// cosign's variable.
const VARIABLE: &str = "COSIGN_PASSWORD";

/// The password; the empty one is one too.
pub(super) fn ask(prompt: &str) -> anyhow::Result<Zeroizing<String>> {
    if let Ok(password) = std::env::var(VARIABLE) {
        return Ok(Zeroizing::new(password));
    }
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty");
    let terminal = terminal
        .with_context(|| format!("there is no terminal to ask on: set {VARIABLE} to the password"))?;
    let before = tcgetattr(&terminal).context("asking the terminal")?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    (&terminal).write_all(prompt.as_bytes())?;
    tcsetattr(&terminal, OptionalActions::Flush, &silent).context("silencing the terminal")?;
    let mut line = Zeroizing::new(String::new());
    let read = BufReader::new(&terminal).read_line(&mut line);
    // Whatever was read, the terminal shows again what is typed.
    tcsetattr(&terminal, OptionalActions::Flush, &before).context("restoring the terminal")?;
    (&terminal).write_all(b"\n")?;
    read.context("reading the password")?;
    Ok(Zeroizing::new(line.trim_end_matches(['\n', '\r']).to_owned()))
}
