//! Namespaces of the machine's own, and the root directory in them.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, pivot_root};
use rustix::thread::{
    CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities,
};

use super::process::{JailError, become_user, bind_to_parent};
use super::supervisor::Lifeline;

/// How long a thread that has done everything may take to be gone: a node that is so slow cannot run a machine.
const THREAD_ENDS: Duration = Duration::from_secs(10);

/// Namespaces that a process may have got before it was started, by their names in `/proc`.
const INHERITED: [(&str, CloneFlags); 3] =
    [("net", CloneFlags::CLONE_NEWNET), ("ipc", CloneFlags::CLONE_NEWIPC), ("uts", CloneFlags::CLONE_NEWUTS)];

/// Leaves the node's mounts, and its network, IPC and host name if `parent` is in the same ones. The working directory
/// becomes the root, read-only: nothing in it is a device, can be executed or changes a user.
pub fn leave_the_node(parent: u32) -> Result<(), JailError> {
    let mut wanted = CloneFlags::CLONE_NEWNS;
    for (name, flag) in INHERITED {
        if !is_own(name, parent) {
            wanted |= flag;
        }
    }
    let fail = |what| move |source| JailError::Namespaces { what, source };
    unshare(wanted).map_err(fail("mounts, network and IPC"))?;
    let none = None::<&str>;
    let here = std::env::current_dir().map_err(JailError::Limit)?;
    let locked =
        MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_BIND;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .and_then(|()| mount(Some(&here), &here, none, MsFlags::MS_BIND, none))
        .and_then(|()| chdir(&here))
        .and_then(|()| mount(none, ".", none, MsFlags::MS_REMOUNT | locked, none))
        .and_then(|()| pivot_root(".", "."))
        // The old root lies over the new one, and is taken away.
        .and_then(|()| umount2(".", MntFlags::MNT_DETACH))
        .and_then(|()| chdir("/"))
        .map_err(JailError::Root)
}

/// Whether this process has a namespace that `parent` is not in.
fn is_own(name: &str, parent: u32) -> bool {
    let link = |of: &str| fs::read_link(format!("/proc/{of}/ns/{name}"));
    match (link("self"), link(&parent.to_string())) {
        (Ok(ours), Ok(theirs)) => ours != theirs,
        _ => false,
    }
}

/// Becomes `uid` with the group of the same number, in a user namespace in which nobody has a number, and without any
/// capability in it. The only thread must call it.
pub fn become_nobody(uid: u32, lifeline: &Lifeline) -> Result<(), JailError> {
    let fail = |source| JailError::Capabilities { source: io::Error::from(source) };
    set_keep_capabilities(true).map_err(fail)?;
    become_user(uid)?;
    // Of all that root may do, only this, and only for the next call: not every node lets other users do it.
    give_up_all_but(CapabilitySet::SYS_ADMIN).map_err(fail)?;
    leave_the_users().map_err(|source| JailError::Namespaces { what: "users", source })?;
    for capability in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(capability) {
            // A kernel that does not know it yet.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(fail(error)),
        }
    }
    give_up_all_but(CapabilitySet::empty()).map_err(fail)?;
    bind_to_parent(uid)?;
    if lifeline.is_cut() { Err(JailError::Orphan) } else { Ok(()) }
}

/// A user namespace. A thread that was joined is still there for the kernel until it has been taken apart, and is waited for.
fn leave_the_users() -> nix::Result<()> {
    let start = Instant::now();
    loop {
        match unshare(CloneFlags::CLONE_NEWUSER) {
            Err(nix::Error::EINVAL) if start.elapsed() < THREAD_ENDS => std::thread::yield_now(),
            outcome => return outcome,
        }
    }
}

fn give_up_all_but(kept: CapabilitySet) -> rustix::io::Result<()> {
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })
}
