//! How a process of the machine gives up what it does not need, before it touches a byte of the guest's.
//!
//! ```text
//! root ──▶ chroot to the working directory ──▶ own uid, no groups, no capabilities ──▶ no new privileges ──▶ seccomp
//! ```
//! Each step is one way. A process that is not root when it is started keeps its user and its root directory.

use std::collections::BTreeMap;
use std::io;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, chdir, chroot, geteuid, setgroups, setresgid, setresuid};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use seccompiler::{SeccompAction, SeccompFilter, SeccompRule, apply_filter};

/// Why a process could not be locked in.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// A resource limit could not be set.
    #[error("cannot set a resource limit")]
    Limit(#[source] io::Error),
    /// The root directory could not be changed.
    #[error("cannot make the working directory the root")]
    Root(#[source] nix::Error),
    /// The user could not be changed.
    #[error("cannot become user {uid}")]
    User {
        /// The user wanted.
        uid: u32,
        /// What the kernel said.
        source: nix::Error,
    },
    /// The parent was gone before its end could be bound to ours.
    #[error("the parent process is gone")]
    Orphan,
    /// The system call filter could not be made.
    #[error("cannot make the system call filter")]
    Filter(#[source] seccompiler::BackendError),
    /// The system call filter could not be installed.
    #[error("cannot install the system call filter")]
    Install(#[source] seccompiler::Error),
}

/// Raises the number of descriptors to the most allowed, and gives it. Core dumps, which would hold the guest's
/// memory, are switched off.
pub fn limit_resources() -> Result<u64, JailError> {
    let files = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: files.maximum, maximum: files.maximum };
    setrlimit(Resource::Nofile, raised).map_err(|error| JailError::Limit(error.into()))?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(|error| JailError::Limit(error.into()))?;
    Ok(files.maximum.unwrap_or(u64::MAX))
}

/// Makes the working directory the root, and becomes `uid` with the group of the same number.
/// Ends with the parent `parent`, which is asked for again because a change of user forgets it.
pub fn drop_privileges(uid: u32, parent: u32) -> Result<(), JailError> {
    if geteuid().is_root() {
        chroot(".").and_then(|()| chdir("/")).map_err(JailError::Root)?;
        let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
        setgroups(&[])
            .and_then(|()| setresgid(group, group, group))
            .and_then(|()| setresuid(user, user, user))
            .map_err(|source| JailError::User { uid, source })?;
    }
    prctl::set_no_new_privs().map_err(|source| JailError::User { uid, source })?;
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|source| JailError::User { uid, source })?;
    if std::os::unix::process::parent_id() == parent { Ok(()) } else { Err(JailError::Orphan) }
}

/// From here on every system call that is not in `allowed` kills the process.
pub fn allow_only(allowed: BTreeMap<i64, Vec<SeccompRule>>) -> Result<(), JailError> {
    let target = std::env::consts::ARCH.try_into().map_err(JailError::Filter)?;
    let filter = SeccompFilter::new(allowed, SeccompAction::KillProcess, SeccompAction::Allow, target)
        .and_then(seccompiler::BpfProgram::try_from)
        .map_err(JailError::Filter)?;
    apply_filter(&filter).map_err(JailError::Install)
}
