//! What the cloned process does until it executes the container's program.
//!
//! ```text
//! container: session ── own cgroup namespace ── root file system ── sysctls ── host name ──┐
//! exec:      session ── terminal in the container's devpts ────────────────────────────────┤
//!                                                            limits, user, capabilities ◄──┘
//!            execve ◄── seccomp ◄── Order::Start ◄── Report::Ready ◄── program looked up ◄──┘
//! ```

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags};

use super::devices;
use super::error::SetupError;
use super::identity;
use super::messages::{NewContainer, NewProcess, Order, Report};
use super::mounts::{self, Early};
use super::program::Program;
use super::report::{Agent, Descriptors, Step, process, write_file};
use super::rootfs::Root;
use super::sys;
use super::terminal::{self, Terminal};

/// Becomes the init process of a container.
pub(super) fn container(
    agent: &Agent,
    new: NewContainer,
    early: &Early,
    mut descriptors: Descriptors,
) -> Step<Infallible> {
    start_session()?;
    if new.namespaces.cgroup {
        unshare(CloneFlags::CLONE_NEWCGROUP).map_err(process("make a cgroup namespace"))?;
    }
    if let Err(errno) = sys::join_new_keyring(&format!("_ses.{}", new.id)) {
        // Without a name for it the container would share the agent's; a kernel without keys has none to share.
        if errno != nix::errno::Errno::ENOSYS {
            return Err(process("make a session keyring")(errno));
        }
    }
    let root = Root::attach(&new.rootfs)?;
    mounts::apply(&root, &new, early)?;
    devices::make(&root, &new)?;
    let terminal = match new.process.terminal {
        Some(size) => Some(terminal::open(root.fd(), size)?),
        None => None,
    };
    if let Some(terminal) = &terminal {
        devices::bind_console(&root, terminal)?;
    }
    root.make_dir(&new.process.spec.cwd)?;
    // While /proc is still the agent's: nothing of the image can stand in its place.
    set_sysctls(&new.root.sysctls)?;
    mounts::protect(&root, &new)?;
    root.enter(new.root.propagation)?;
    set_names(&new)?;
    finish(agent, new.process, &mut descriptors, terminal)
}

/// Becomes a further process of a container.
pub(super) fn exec(agent: &Agent, new: NewProcess, mut descriptors: Descriptors) -> Step<Infallible> {
    start_session()?;
    let terminal = match new.terminal {
        Some(size) => Some(open_terminal(size)?),
        None => None,
    };
    finish(agent, new, &mut descriptors, terminal)
}

/// A new session, so that no signal of another terminal reaches the process.
fn start_session() -> Step<()> {
    nix::unistd::setsid().map(drop).map_err(process("start a session"))
}

fn open_terminal(size: (u16, u16)) -> Step<Terminal> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(process("open the container's root"))?;
    terminal::open(root.as_fd(), size)
}

fn set_sysctls(sysctls: &[(String, String)]) -> Step<()> {
    for (name, value) in sysctls {
        write_file(&format!("/proc/sys/{name}"), value).map_err(|error| SetupError::Path {
            action: format!("write {value:?} to sysctl"),
            path: PathBuf::from(name),
            errno: error.into(),
        })?;
    }
    Ok(())
}

fn set_names(new: &NewContainer) -> Step<()> {
    if !new.namespaces.uts {
        return Ok(());
    }
    if !new.root.hostname.is_empty() {
        rustix::system::sethostname(new.root.hostname.as_bytes()).map_err(process("set the host name"))?;
    }
    if !new.root.domainname.is_empty() {
        rustix::system::setdomainname(new.root.domainname.as_bytes())
            .map_err(process("set the domain name"))?;
    }
    Ok(())
}

/// From here on init and further processes are alike.
fn finish(
    agent: &Agent,
    new: NewProcess,
    descriptors: &mut Descriptors,
    terminal: Option<Terminal>,
) -> Step<Infallible> {
    let standard = match &terminal {
        Some(terminal) => [terminal.slave()?, terminal.slave()?, terminal.slave()?],
        None => [descriptors.take()?, descriptors.take()?, descriptors.take()?],
    };
    for (number, descriptor) in (0..).zip(&standard) {
        identity::give_to(descriptor.as_fd(), new.spec.uid);
        sys::replace_standard(descriptor.as_fd(), number)
            .map_err(process("set up standard input and output"))?;
    }
    if terminal.is_some() {
        rustix::process::ioctl_tiocsctty(&standard[0]).map_err(process("take the terminal"))?;
    }
    drop(standard);
    let master = terminal.map(Terminal::into_master);
    identity::limit(agent, &new.spec)?;
    let late_filter = identity::take_on(&new)?;
    let program = Program::find(&new.spec)?;
    sys::reset_signals();
    ready(agent, master)?;
    agent.wait_for(Order::Start)?;
    sys::close_on_exec_from(3).map_err(process("close the agent's descriptors"))?;
    if let Some(filter) = late_filter {
        sys::load_filter(&filter.program, filter.flags).map_err(process("load the seccomp filter"))?;
    }
    Err(program.execute())
}

fn ready(agent: &Agent, master: Option<OwnedFd>) -> Step<()> {
    match master {
        Some(master) => agent.report(&Report::Ready, &[master.as_fd()]),
        None => agent.report(&Report::Ready, &[]),
    }
}
