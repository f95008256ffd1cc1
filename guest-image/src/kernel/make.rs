//! Runs `make` in a kernel's source tree, in an environment that leaves no trace in what it makes.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, PipeReader};
use std::path::Path;
use std::process::Command;

use super::error::{KernelError, command as failed};
use crate::command::{CommandError, SHOWN_LINES, command, name, run};
use crate::progress::Progress;

/// The slim kernel has about this many objects. It only serves to say how far a build is.
const OBJECTS: usize = 1760;

/// The compiler copies a function's end to where it is left, to save a jump. Every copy is one more return, and a kernel that starts
/// rewrites each of its returns: without copies there are 17 % fewer.
const FLAGS: &str = "KCFLAGS=--param=max-grow-copy-bb-insns=0";

/// `make` in `tree`. It is killed with the builder, so that it does not go on in a directory that is being removed.
pub(super) fn make(tree: &Path) -> Command {
    let mut make = command("setpriv");
    make.args(["--pdeathsig", "KILL", "make", FLAGS]).current_dir(tree);
    make.env("KBUILD_BUILD_TIMESTAMP", "1970-01-01 00:00:00 UTC").env("KBUILD_BUILD_VERSION", "1");
    make.env("KBUILD_BUILD_USER", "coffer").env("KBUILD_BUILD_HOST", "coffer");
    make
}

/// Runs a short `make`.
pub(super) fn run_make(make: &mut Command, doing: &str) -> Result<String, KernelError> {
    run(make).map_err(failed(doing))
}

/// Builds `targets`, and says every few seconds how far it is.
pub(super) fn build(tree: &Path, targets: &[&str]) -> Result<(), KernelError> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut make = make(tree);
    make.arg(format!("-j{jobs}")).args(targets);
    let progress = Progress::begin(format!("building the kernel with {jobs} jobs"));
    watch(make, progress).map_err(failed("build the kernel"))
}

fn watch(mut make: Command, mut progress: Progress) -> Result<(), CommandError> {
    let program = name(&make);
    let start = |source| CommandError::Start { program: program.clone(), source };
    let (output, input) = std::io::pipe().map_err(start)?;
    make.stdout(input.try_clone().map_err(start)?).stderr(input);
    let mut child = make.spawn().map_err(start)?;
    drop(make); // It holds the writing end of the pipe, whose end we are about to wait for.
    let tail = follow(output, &mut progress);
    let status = child.wait().map_err(start)?;
    if status.success() {
        progress.end();
        return Ok(());
    }
    Err(CommandError::Failed { program, status, output: Vec::from(tail).join("\n") })
}

/// Reads to the end, counts objects and keeps the last lines.
fn follow(output: PipeReader, progress: &mut Progress) -> VecDeque<String> {
    let (mut tail, mut objects) = (VecDeque::new(), 0);
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        if is_object(&line) {
            objects += 1;
            progress.tick(|| format!("{objects} of about {OBJECTS} objects"));
        } else {
            progress.tick(|| line.trim().to_owned());
        }
        tail.push_back(line);
        if tail.len() > SHOWN_LINES {
            tail.pop_front();
        }
    }
    tail
}

fn is_object(line: &str) -> bool {
    line.starts_with("  CC ") || line.starts_with("  AS ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut shell = command("sh");
        shell.args(["-c", script]);
        shell
    }

    #[test]
    fn a_build_that_fails_shows_its_last_lines_from_both_streams() {
        let error =
            watch(shell("echo to-stdout; echo to-stderr >&2; exit 2"), Progress::begin("test")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("to-stdout") && text.contains("to-stderr"), "{text}");
    }

    #[test]
    fn a_build_that_succeeds_is_no_error() {
        assert!(watch(shell("echo '  CC      init/main.o'"), Progress::begin("test")).is_ok());
    }

    #[test]
    fn compiled_objects_are_counted_and_other_lines_are_not() {
        assert!(is_object("  CC      init/main.o"));
        assert!(!is_object("  LD      vmlinux"));
    }
}
