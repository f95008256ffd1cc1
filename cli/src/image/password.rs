//! Asks for a password: the environment first, as cosign does, then the terminal, which does not show it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

use anyhow::Context;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// cosign's variable.
const VARIABLE: &str = "COSIGN_PASSWORD";

/// The longest password, in bytes.
const MAX_PASSWORD: usize = 1024;
// Keys that mean something on a terminal.
const INTERRUPT: u8 = 0x03;
const END: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const KILL: u8 = 0x15;
const QUIT: u8 = 0x1c;
const DELETE: u8 = 0x7f;

/// The password; the empty one is one too.
pub(super) fn ask(prompt: &str) -> anyhow::Result<Zeroizing<String>> {
    if let Ok(password) = std::env::var(VARIABLE) {
        return Ok(Zeroizing::new(password));
    }
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty");
    let terminal = terminal
        .with_context(|| format!("there is no terminal to ask on: set {VARIABLE} to the password"))?;
    (&terminal).write_all(prompt.as_bytes())?;
    let silent = Silent::new(&terminal)?;
    let read = line(&mut &terminal);
    drop(silent);
    (&terminal).write_all(b"\n")?;
    read.context("reading the password")
}

/// A terminal that shows nothing and hands over each key; as it was before when this ends.
struct Silent<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Silent<'a> {
    fn new(terminal: &'a File) -> anyhow::Result<Self> {
        let before = tcgetattr(terminal).context("asking the terminal")?;
        let mut silent = before.clone();
        // An interruption is a key like others: as a signal it would leave the terminal as it is now.
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        tcsetattr(terminal, OptionalActions::Flush, &silent).context("silencing the terminal")?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(self.terminal, OptionalActions::Flush, &self.before) {
            eprintln!("coffer: the terminal may not show what is typed, run `stty sane`: {error}");
        }
    }
}

/// What is typed up to the end of the line.
fn line(keys: &mut dyn Read) -> io::Result<Zeroizing<String>> {
    // Room for all of it at once: growing would leave copies behind.
    let mut typed = Zeroizing::new(String::with_capacity(MAX_PASSWORD + 4));
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_PASSWORD));
    let mut key = Zeroizing::new([0_u8]);
    loop {
        let ended = keys.read(key.as_mut_slice())? == 0;
        let [pressed] = *key;
        match pressed {
            b'\n' | b'\r' | END => break,
            _ if ended => break,
            INTERRUPT | QUIT => return Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted")),
            BACKSPACE | DELETE => {
                // All bytes of the last character.
                while bytes.pop().is_some_and(|byte: u8| byte & 0xc0 == 0x80) {}
            }
            KILL => bytes.clear(),
            _ if bytes.len() >= MAX_PASSWORD => return Err(io::Error::other("it is too long")),
            other => bytes.push(other),
        }
    }
    typed.push_str(std::str::from_utf8(&bytes).map_err(io::Error::other)?);
    Ok(typed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(mut keys: &[u8]) -> Result<String, io::ErrorKind> {
        line(&mut keys).map(|line| line.to_string()).map_err(|error| error.kind())
    }

    #[test]
    fn a_line_is_what_was_typed_without_what_was_taken_back() {
        assert_eq!(typed("gé\x7f\x7fsecret\nmore".as_bytes()), Ok("secret".to_owned()));
        assert_eq!(typed(b"wrong\x15right\r"), Ok("right".to_owned()));
        assert_eq!(typed(b"\n"), Ok(String::new()));
    }

    #[test]
    fn an_interruption_ends_the_question_with_no_password() {
        assert_eq!(typed(b"sec\x03ret\n"), Err(io::ErrorKind::Interrupted));
    }
}
