//! Runs the programs that a build needs, in a fixed environment, and turns a failure into an error that shows why.

use std::io;
use std::process::{Command, ExitStatus, Stdio};

/// Of a failed program's output this many last lines are shown.
pub(crate) const SHOWN_LINES: usize = 25;

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started.
    #[error("cannot run {program}; is it installed")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It failed.
    #[error("{program} failed with {status}; its last words were:\n{output}")]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// Its last lines.
        output: String,
    },
}

/// A command whose result does not depend on the caller's environment, but for where programs and a proxy are found.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C").env("TZ", "UTC").stdin(Stdio::null());
    command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()));
    for name in ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// Runs a command to its end and returns what it wrote to standard output.
pub(crate) fn run(command: &mut Command) -> Result<String, CommandError> {
    let program = name(command);
    let output =
        command.output().map_err(|source| CommandError::Start { program: program.clone(), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Err(CommandError::Failed { program, status: output.status, output: last_lines(&text) })
}

/// How a command is called in messages: the program and its first argument.
pub(crate) fn name(command: &Command) -> String {
    let first =
        command.get_args().next().map(|arg| format!(" {}", arg.to_string_lossy())).unwrap_or_default();
    format!("{}{first}", command.get_program().to_string_lossy())
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(SHOWN_LINES)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_the_program_and_its_last_words() {
        let error = run(command("ls").arg("/no/such/directory")).unwrap_err().to_string();
        assert!(error.contains("ls /no/such/directory failed"), "{error}");
        assert!(error.contains("No such file or directory"), "{error}");
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let error = run(&mut command("no-such-program-of-coffer")).unwrap_err().to_string();
        assert!(error.contains("no-such-program-of-coffer"), "{error}");
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let text = (1..=100).map(|n| n.to_string()).collect::<Vec<_>>().join("\n");
        assert_eq!(last_lines(&text).lines().next(), Some("76"));
    }
}
