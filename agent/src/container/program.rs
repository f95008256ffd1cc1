//! Finds the program of a process in the container and executes it.

use std::ffi::{CString, OsStr, OsString};
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, execve};

use super::error::SetupError;
use super::report::Step;
use super::spec::ProcessSpec;

/// Where a process without a PATH of its own is looked for.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program that was found, ready to be executed: nothing is allocated between the order to start and execve.
#[derive(Debug)]
pub(super) struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    /// Looks the first argument up in the `PATH` of the process's own environment, unless it has a slash.
    pub(super) fn find(spec: &ProcessSpec) -> Step<Program> {
        let name = spec.args.first().cloned().unwrap_or_default();
        let path = match name.contains('/') {
            true => check(Path::new(&name))
                .map(|()| OsString::from(&name))
                .map_err(|errno| cannot(&name, errno))?,
            false => search(&name, &spec.env)?,
        };
        let mut env = spec.env.clone();
        if !env.iter().any(|variable| variable.starts_with("HOME=")) {
            env.push(format!("HOME={}", home(spec.uid)));
        }
        Ok(Program {
            path: c_string(&name, path.into_vec())?,
            args: spec
                .args
                .iter()
                .map(|arg| c_string(&name, arg.clone().into_bytes()))
                .collect::<Step<_>>()?,
            env: env
                .into_iter()
                .map(|variable| c_string(&name, variable.into_bytes()))
                .collect::<Step<_>>()?,
        })
    }

    /// Becomes the program; returns only why it could not.
    pub(super) fn execute(&self) -> SetupError {
        match execve(&self.path, &self.args, &self.env) {
            Err(errno) => {
                SetupError::Exec { program: self.path.to_string_lossy().into_owned(), errno: errno.into() }
            }
        }
    }
}

fn search(name: &str, env: &[String]) -> Step<OsString> {
    let path = env.iter().rev().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(USUAL_PATH);
    let mut forbidden = None;
    for directory in path.split(':') {
        // An empty entry is the working directory.
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = Path::new(directory).join(name);
        match check(&candidate) {
            Ok(()) => return Ok(candidate.into_os_string()),
            Err(Errno::EACCES) => forbidden = Some(Errno::EACCES),
            Err(_) => {}
        }
    }
    match forbidden {
        Some(errno) => Err(cannot(name, errno)),
        None => Err(SetupError::NotInPath { program: name.to_owned() }),
    }
}

/// Whether a path is a file that this process may execute.
fn check(path: &Path) -> Result<(), Errno> {
    let stat = nix::sys::stat::stat(path)?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(Errno::EACCES);
    }
    access(path, AccessFlags::X_OK)
}

fn cannot(name: &str, errno: Errno) -> SetupError {
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => {
            SetupError::Exec { program: name.to_owned(), errno: Errno::ENOENT.into() }
        }
        errno => SetupError::Exec { program: name.to_owned(), errno: errno.into() },
    }
}

/// As much of `/etc/passwd` as is looked at.
const MAX_PASSWD: u64 = 1 << 20;

/// The user's home directory by the container's `/etc/passwd`, as runc sets it.
fn home(uid: u32) -> String {
    let passwd = read_passwd().unwrap_or_default();
    let line =
        passwd.split(|byte| *byte == b'\n').find(|line| field(line, 2) == Some(uid.to_string().as_bytes()));
    let home = line.and_then(|line| field(line, 5)).filter(|home| !home.is_empty() && !home.contains(&0));
    home.map_or_else(|| "/".to_owned(), |home| OsStr::from_bytes(home).to_string_lossy().into_owned())
}

/// The container may have put a pipe there, which must not hold the process up.
fn read_passwd() -> std::io::Result<Vec<u8>> {
    let file =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open("/etc/passwd")?;
    let mut passwd = Vec::new();
    if file.metadata()?.is_file() {
        file.take(MAX_PASSWD).read_to_end(&mut passwd)?;
    }
    Ok(passwd)
}

fn field(line: &[u8], index: usize) -> Option<&[u8]> {
    line.split(|byte| *byte == b':').nth(index)
}

fn c_string(program: &str, bytes: Vec<u8>) -> Step<CString> {
    CString::new(bytes).map_err(|_| cannot(program, Errno::EINVAL))
}
