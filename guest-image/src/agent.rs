//! Builds the agent as a static program whose bytes do not depend on where the sources lie.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

use crate::command::{CommandError, name};
use crate::progress::Progress;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Needs nothing else of the guest, and moves itself to its place by a short list: every process that it starts reads that list.
const FLAGS: &str = "-Ctarget-feature=+crt-static\x1f-Clink-arg=-Wl,-z,pack-relative-relocs";

/// Every guest unpacks the agent into memory of its own, so its size counts more than the time to build it. And a guest has few
/// handshakes.
const SMALLER: [&str; 3] = [
    "profile.release.lto=\"fat\"",
    "profile.release.codegen-units=1",
    "profile.release.package.aws-lc-sys.opt-level=\"s\"",
];

/// Why there is no agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The workspace was not found.
    #[error("cannot find the workspace that holds coffer-agent; run this inside of it, or give --agent")]
    NoWorkspace {
        /// Why.
        source: CommandError,
    },
    /// It does not compile.
    #[error("cannot build coffer-agent")]
    Build {
        /// How cargo failed. What it said is already on standard error.
        source: CommandError,
    },
    /// The binary cannot be read.
    #[error("cannot read the agent {path}")]
    Unreadable {
        /// The binary.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The binary would not run as the only file of a guest.
    #[error("the agent {path} is not a static x86-64 program; build it with -C target-feature=+crt-static")]
    NotStatic {
        /// The binary.
        path: PathBuf,
    },
}

/// The bytes of the agent at `path`, or of the one that the workspace around the current directory builds.
pub(crate) fn agent(path: Option<&Path>) -> Result<Vec<u8>, AgentError> {
    let path = path.map_or_else(build, |path| Ok(path.to_owned()))?;
    let binary = fs::read(&path).map_err(|source| AgentError::Unreadable { path: path.clone(), source })?;
    if is_static(&binary) { Ok(binary) } else { Err(AgentError::NotStatic { path }) }
}

fn build() -> Result<PathBuf, AgentError> {
    let workspace = workspace()?;
    let target_dir =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    // A relative CARGO_TARGET_DIR is meant from the current directory, like cargo does.
    let target_dir =
        std::path::absolute(target_dir).unwrap_or_else(|_| workspace.join("target")).join("guest");
    let progress = Progress::begin("building coffer-agent");
    let mut build = cargo();
    build
        .args(["build", "--release", "--locked", "--target", TARGET, "-p", "coffer-agent"])
        .current_dir(&workspace);
    for setting in SMALLER {
        build.args(["--config", setting]);
    }
    build.arg("--target-dir").arg(&target_dir).stdin(Stdio::null());
    build.env("CARGO_ENCODED_RUSTFLAGS", flags(&workspace, &target_dir)).env_remove("RUSTFLAGS");
    let program = name(&build);
    let start =
        |source| AgentError::Build { source: CommandError::Start { program: program.clone(), source } };
    let status = build.status().map_err(start)?;
    if !status.success() {
        let output = "see above".to_owned();
        return Err(AgentError::Build { source: CommandError::Failed { program, status, output } });
    }
    progress.end();
    Ok(target_dir.join(TARGET).join("release/coffer-agent"))
}

/// Compiler flags, in the form that allows spaces in a path: no path of this machine gets into the binary.
fn flags(workspace: &Path, target_dir: &Path) -> OsString {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    let mut flags = OsString::from(FLAGS);
    let mut remap = |from: &Path, to: &str| {
        flags.push("\x1f--remap-path-prefix=");
        flags.push(from);
        flags.push(format!("={to}"));
    };
    // The last match wins, and the target directory usually lies in the workspace.
    remap(workspace, "/coffer");
    if let Some(home) = home {
        remap(&home, "/cargo");
    }
    remap(target_dir, "/target");
    flags
}

fn workspace() -> Result<PathBuf, AgentError> {
    let mut locate = cargo();
    locate.args(["locate-project", "--workspace", "--message-format", "plain"]);
    let manifest = crate::command::run(&mut locate).map_err(|source| AgentError::NoWorkspace { source })?;
    Ok(Path::new(manifest.trim()).parent().unwrap_or(Path::new("/")).to_owned())
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Whether an ELF file for this processor asks for no interpreter.
fn is_static(elf: &[u8]) -> bool {
    const INTERPRETER: &[u8] = &3u32.to_le_bytes();
    let field = |at: usize| {
        elf.get(at..).and_then(|rest| rest.first_chunk::<2>()).map(|bytes| u16::from_le_bytes(*bytes))
    };
    let table =
        elf.get(32..).and_then(|rest| rest.first_chunk::<8>()).map(|bytes| u64::from_le_bytes(*bytes));
    let (Some(62), Some(count), Some(Ok(table))) = (field(18), field(56), table.map(usize::try_from)) else {
        return false;
    };
    let kinds = (0..usize::from(count)).map(|index| elf.get(table.saturating_add(index * 56)..)?.get(..4));
    elf.starts_with(b"\x7fELF\x02\x01")
        && kinds.into_iter().all(|kind| kind.is_some_and(|kind| kind != INTERPRETER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_refused() {
        assert!(!is_static(&fs::read("/bin/sh").unwrap()));
    }

    #[test]
    fn what_is_no_program_is_refused() {
        assert!(!is_static(b"#!/bin/sh\n"));
        assert!(!is_static(b""));
    }

    #[test]
    fn no_path_of_the_build_reaches_the_compiler_unmapped() {
        let flags = flags(Path::new("/home/me/coffer"), Path::new("/home/me/coffer/target/guest"));
        let flags = flags.to_string_lossy();
        assert!(flags.contains("\x1f--remap-path-prefix=/home/me/coffer=/coffer\x1f"));
        assert!(flags.ends_with("\x1f--remap-path-prefix=/home/me/coffer/target/guest=/target"));
    }
}
