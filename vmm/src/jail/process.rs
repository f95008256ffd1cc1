//! A process by itself: its limits, its user, and what it is bound to.

use std::io;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, chdir, chroot, geteuid, setgroups, setresgid, setresuid};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

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
    /// The node does not give the process namespaces of its own.
    #[error("the node refuses the machine a namespace of its own for {what}")]
    Namespaces {
        /// For what.
        what: &'static str,
        /// What the kernel said.
        source: nix::Error,
    },
    /// Capabilities could not be given up.
    #[error("cannot give up capabilities")]
    Capabilities {
        /// What the kernel said.
        source: io::Error,
    },
    /// Only root can lock a machine in.
    #[error("coffer-vmm must be started by root, which it then gives up")]
    NotRoot,
    /// The system call filter could not be installed.
    #[error("cannot install the system call filter")]
    Install(#[source] seccompiler::Error),
}

/// Raises the number of descriptors to the most allowed, and gives it. Core dumps, which would hold the guest's
/// memory, are switched off, and so are locked memory and message queues.
pub fn limit_resources() -> Result<u64, JailError> {
    let files = getrlimit(Resource::Nofile);
    let set = |resource, limit| setrlimit(resource, limit).map_err(|error| JailError::Limit(error.into()));
    set(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum })?;
    for unused in [Resource::Core, Resource::Memlock, Resource::Msgqueue] {
        set(unused, Rlimit { current: Some(0), maximum: Some(0) })?;
    }
    Ok(files.maximum.unwrap_or(u64::MAX))
}

/// Makes the working directory the root, and becomes `uid` with the group of the same number, if it is root's.
/// Ends with the parent `parent`, which is asked for again because a change of user forgets it.
pub fn drop_privileges(uid: u32, parent: u32) -> Result<(), JailError> {
    if geteuid().is_root() {
        chroot(".").and_then(|()| chdir("/")).map_err(JailError::Root)?;
        become_user(uid)?;
    }
    bind_to_parent(uid)?;
    if std::os::unix::process::parent_id() == parent { Ok(()) } else { Err(JailError::Orphan) }
}

/// Becomes `uid` with the group of the same number and no other.
pub(super) fn become_user(uid: u32) -> Result<(), JailError> {
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    setgroups(&[])
        .and_then(|()| setresgid(group, group, group))
        .and_then(|()| setresuid(user, user, user))
        .map_err(|source| JailError::User { uid, source })
}

/// Lets nothing give the process more than it has, and ends it with its parent.
pub(super) fn bind_to_parent(uid: u32) -> Result<(), JailError> {
    prctl::set_no_new_privs()
        .and_then(|()| prctl::set_pdeathsig(Signal::SIGKILL))
        .map_err(|source| JailError::User { uid, source })
}
