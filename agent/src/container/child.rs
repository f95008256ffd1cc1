//! What a helper process does from its first instruction to the clone of the process it was asked for.
//!
//! ```text
//! socket is descriptor 0 ── receive instructions ──┬─ container: user namespace, maps ── other namespaces ──┐
//!                                                  ├─ exec: join the init process's namespaces ─────────────┤
//!                                                  └─ pid namespace: new pid namespace ─────────────────────┤
//!                        report pid and pidfd, exit ◄── parent ── clone as the agent's child ◄──────────────┘
//!                                                                   └─ child: `init.rs`
//! ```
//! A freshly executed copy of the agent, and so one thread: it may allocate after the clone, and nothing of the
//! agent's memory or descriptors is in it.
//!
//! Never here: anything the agent itself calls but [`run_if_child`].

use std::convert::Infallible;
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid, setresgid, setresuid};
use rustix::fs::{Mode, OFlags};

use super::init;
use super::messages::{Instructions, NewContainer, NewExec, Order, Report};
use super::mounts::Early;
use super::pod_init;
use super::report::{Agent, Descriptors, Step, process, write_file};
use super::sys::{self, Cloned};

/// The argument that makes the agent's executable a helper.
pub(super) const MODE: &str = "container-init";

/// Becomes a helper, and never returns, if this process was started as one. Called first thing in `main`, while the
/// process has one thread.
pub(crate) fn run_if_child() {
    if std::env::args_os().nth(1).is_some_and(|mode| mode == MODE) {
        run();
    }
}

/// Runs as a helper.
pub(super) fn run() -> ! {
    let Ok(socket) = sys::adopt_inherited(0) else { std::process::exit(1) };
    let agent = Agent::on(socket);
    let Err(error) = follow(&agent);
    agent.failed(error);
    std::process::exit(1)
}

fn follow(agent: &Agent) -> Step<Infallible> {
    let (instructions, descriptors) = agent.instructions()?;
    // Before anything of the container can look at this process: its memory and its links below /proc are root's.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(process("make the helper undumpable"))?;
    match instructions {
        Instructions::Container(new) => container(agent, *new, descriptors),
        Instructions::Exec(new) => exec(agent, *new, descriptors),
        Instructions::PidNamespace => {
            unshare(CloneFlags::CLONE_NEWPID).map_err(process("make a pid namespace"))?;
            clone(agent, None)?;
            pod_init::run(agent)
        }
    }
}

fn container(agent: &Agent, new: NewContainer, mut descriptors: Descriptors) -> Step<Infallible> {
    let cgroup = descriptors.take()?;
    let pid_namespace = new.join_pid_namespace.then(|| descriptors.take()).transpose()?;
    let namespaces = &new.namespaces;
    // Opened with the agent's rights: later the process may be nobody in the guest's own user namespace.
    let procs = match namespaces.user {
        Some(_) => Some(open_procs(&cgroup)?),
        None => None,
    };
    // What is written below /proc/self comes before the user namespace, from within which it is root's.
    if let Some(adjustment) = new.process.spec.oom_score_adj {
        adjust_oom_score(agent, adjustment);
    }
    if let Some(offsets) = &namespaces.time {
        make_time_namespace(offsets)?;
    }
    let early = Early::make(&new)?;
    if namespaces.user.is_some() {
        unshare(CloneFlags::CLONE_NEWUSER).map_err(process("make a user namespace"))?;
        agent.report(&Report::NeedsIdMaps, &[])?;
        agent.wait_for(Order::IdMapsWritten)?;
        become_root()?;
    }
    let wanted = [
        (true, CloneFlags::CLONE_NEWNS),
        (namespaces.ipc, CloneFlags::CLONE_NEWIPC),
        (namespaces.uts, CloneFlags::CLONE_NEWUTS),
        (pid_namespace.is_none(), CloneFlags::CLONE_NEWPID),
    ];
    let flags = wanted.into_iter().filter(|(wanted, _)| *wanted).map(|(_, flag)| flag).collect();
    unshare(flags).map_err(process("make the container's namespaces"))?;
    if let Some(pid_namespace) = pid_namespace {
        setns(pid_namespace, CloneFlags::CLONE_NEWPID).map_err(process("join the pod's pid namespace"))?;
    }
    clone(agent, procs.is_none().then(|| cgroup.as_fd()))?;
    if let Some(procs) = procs {
        join(procs)?;
    }
    init::container(agent, new, &early, descriptors)
}

fn exec(agent: &Agent, new: NewExec, mut descriptors: Descriptors) -> Step<Infallible> {
    let cgroup = descriptors.take()?;
    let leader = descriptors.take()?;
    let procs = match new.user_namespace {
        true => Some(open_procs(&cgroup)?),
        false => None,
    };
    if let Some(adjustment) = new.process.spec.oom_score_adj {
        // Inherited by the process, and here /proc is still the agent's.
        adjust_oom_score(agent, adjustment);
    }
    let mut flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);
    if new.user_namespace {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    setns(&leader, flags).map_err(process("join the container's namespaces"))?;
    if new.user_namespace {
        become_root()?;
    }
    clone(agent, procs.is_none().then(|| cgroup.as_fd()))?;
    if let Some(procs) = procs {
        join(procs)?;
    }
    // Last, because the kernel lets a process enter only cgroups that its cgroup namespace shows.
    setns(&leader, CloneFlags::CLONE_NEWCGROUP).map_err(process("join the container's cgroup namespace"))?;
    init::exec(agent, new.process, descriptors)
}

/// Needs privilege when it lowers the value; a container can live with another one.
fn adjust_oom_score(agent: &Agent, adjustment: i32) {
    if let Err(error) = write_file("/proc/self/oom_score_adj", &adjustment.to_string()) {
        agent.warn(format!("oom_score_adj stays as it is: setting it to {adjustment} failed: {error}"));
    }
}

/// For the children of this process.
fn make_time_namespace(offsets: &[(String, i64, u32)]) -> Step<()> {
    unshare(CloneFlags::from_bits_retain(libc::CLONE_NEWTIME)).map_err(process("make a time namespace"))?;
    let lines: String = offsets.iter().map(|(clock, s, ns)| format!("{clock} {s} {ns}\n")).collect();
    match lines.is_empty() {
        true => Ok(()),
        false => write_file("/proc/self/timens_offsets", &lines)
            .map_err(process("set the time namespace's offsets")),
    }
}

/// Returns in the new process only; the helper reports it and exits.
fn clone(agent: &Agent, cgroup: Option<BorrowedFd<'_>>) -> Step<()> {
    match sys::clone_sibling(cgroup).map_err(process("clone the container's process"))? {
        Cloned::Child => Ok(()),
        Cloned::Parent { pid, pidfd } => {
            let told = agent.report(&Report::Cloned(pid), &[pidfd.as_fd()]);
            std::process::exit(if told.is_ok() { 0 } else { 1 })
        }
    }
}

fn become_root() -> Step<()> {
    setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))
        .and_then(|()| setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)))
        .map_err(process("become root of the user namespace, which must map id 0"))
}

fn open_procs(cgroup: &OwnedFd) -> Step<OwnedFd> {
    rustix::fs::openat(cgroup, "cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(process("open the cgroup's list of processes"))
}

/// 0 is the writing process.
fn join(procs: OwnedFd) -> Step<()> {
    fs::File::from(procs).write_all(b"0").map_err(process("join the container's cgroup"))
}
