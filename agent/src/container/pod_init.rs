//! The first process of a pod-level pid namespace: it has nothing, does nothing, and reaps.
//!
//! Containers of the pod can see it as process 1, so it gives up all rights and stands in an empty, read-only root.

use std::convert::Infallible;
use std::path::Path;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::mount::{MountFlags, MountPropagationFlags};

use super::capabilities::CapabilitySets;
use super::messages::{Order, Report};
use super::report::{Agent, Step, process};
use super::rootfs::{Root, at};

/// The user that Kubernetes' own pause image runs as.
const NOBODY: u32 = 65535;

/// A directory that every guest has; in this process's mount namespace an empty file system covers it.
const COVERED: &str = "/sys";

/// Runs until it is killed.
pub(super) fn run(agent: &Agent) -> Step<Infallible> {
    nix::unistd::setsid().map_err(process("start a session"))?;
    // Blocked before the first orphan can come, so that none is missed between two looks.
    let mut child_exited = SigSet::empty();
    child_exited.add(Signal::SIGCHLD);
    child_exited.thread_block().map_err(process("block SIGCHLD"))?;
    enter_nothing()?;
    give_up_rights()?;
    agent.report(&Report::Ready, &[])?;
    agent.wait_for(Order::Start)?;
    agent.hang_up();
    loop {
        match waitpid(None, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => drop(child_exited.wait()),
        }
    }
}

fn enter_nothing() -> Step<()> {
    let covered = Path::new(COVERED);
    unshare(CloneFlags::CLONE_NEWNS).map_err(process("make a mount namespace"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(process("stop mounts from leaving the namespace"))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("none", covered, "tmpfs", flags, c"size=0k,mode=555")
        .map_err(at("cover", covered))?;
    Root::attach(covered)?.enter(None)
}

fn give_up_rights() -> Step<()> {
    let nothing = CapabilitySets::default();
    nothing.drop_bounding().map_err(process("drop capabilities"))?;
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    setgroups(&[])
        .and_then(|()| setresgid(gid, gid, gid))
        .and_then(|()| setresuid(uid, uid, uid))
        .map_err(process("become nobody"))?;
    nothing.apply().map_err(process("drop capabilities"))
}
