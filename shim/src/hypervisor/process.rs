//! What is alike for every process of a machine: how it is started, what it says, how long one waits for its end.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use coffer_node::host::find_program;
use coffer_vmm::spec::VmSpec;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::child::{Child, Ending};
use super::console::{Console, last_lines};
use super::jail::{Step, StepError, start};
use super::{BootError, MachineError, Tail, VmEnd};

/// Bytes of the serial console that are kept.
pub(super) const CONSOLE: usize = 64 * 1024;

/// Bytes of each process's standard error that are kept.
const MESSAGES: usize = 16 * 1024;

/// Lines of standard error that a message quotes.
const QUOTED: usize = 5;

/// How long something that has closely to do with an end may take to follow it.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// How long a killed process may take to be gone.
pub(super) const KILL: Duration = Duration::from_secs(5);

/// A process and what it says.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) child: Child,
    pub(super) messages: Console,
    pub(super) followers: Vec<JoinHandle<()>>,
}

/// Refuses what no machine can be.
pub(super) fn check(spec: &VmSpec) -> Result<(), BootError> {
    let refuse = |what, found: String, limit| Err(BootError::Spec { what, found, limit });
    match spec {
        VmSpec { uid: 0, .. } => refuse("user id", "0".to_owned(), "a machine never runs as root"),
        VmSpec { vcpus: 0 | 65.., .. } => {
            refuse("virtual CPUs", spec.vcpus.to_string(), "1 to 64 are possible")
        }
        VmSpec { memory_mib: 0..64, .. } => {
            refuse("MiB of memory", spec.memory_mib.to_string(), "the guest's kernel needs 64")
        }
        _ => Ok(()),
    }
}

/// What could not be done for a machine.
pub(super) fn prepare(action: &'static str) -> impl Fn(io::Error) -> BootError {
    move |source| BootError::Prepare { action, source }
}

/// The program that the configuration names so.
pub(super) fn program(name: &Path) -> Option<PathBuf> {
    find_program(name).and_then(|path| path.canonicalize().ok())
}

/// Opens a file of the guest image, which will be read as another user.
pub(super) fn guest_file(what: &'static str, path: &Path) -> Result<OwnedFd, BootError> {
    let fail = |source| BootError::GuestFile { what, path: path.to_owned(), source };
    let file = File::open(path).map_err(fail)?;
    let mode = file.metadata().map_err(fail)?.permissions().mode();
    if mode & 0o004 == 0 {
        return Err(fail(io::Error::new(io::ErrorKind::PermissionDenied, "it is not readable by everybody")));
    }
    Ok(file.into())
}

/// The steps into the machine's cgroups.
pub(super) fn joins(spec: &VmSpec) -> Result<Vec<Step>, BootError> {
    let open = |path: &PathBuf| File::options().write(true).open(path).map(|file| Step::Join(file.into()));
    spec.cgroup_procs
        .iter()
        .map(open)
        .collect::<io::Result<_>>()
        .map_err(prepare("open the machine's cgroup"))
}

/// Starts a process of the machine after these steps; gives its standard output as well, if that is a pipe.
pub(super) fn launch(
    mut command: Command,
    program: &Path,
    steps: Vec<Step>,
) -> Result<(Process, Option<OwnedFd>), BootError> {
    command.env_clear().stdin(Stdio::null()).stderr(Stdio::piped());
    let mut started = start(command, steps).map_err(|StepError { step, source }| BootError::Spawn {
        program: program.to_owned(),
        step,
        source,
    })?;
    let child = Child::adopt(&started).map_err(prepare("watch a process"))?;
    // A shim that containerd made unlikely to be killed for memory must not pass that on to the guest. Best effort.
    let _ = std::fs::write(format!("/proc/{}/oom_score_adj", child.pid()), "0");
    let messages = Console::new(MESSAGES);
    let mut followers = Vec::new();
    if let Some(errors) = started.stderr.take() {
        followers.push(messages.follow(errors.into()).map_err(prepare("read standard error"))?);
    }
    Ok((Process { child, messages, followers }, started.stdout.take().map(OwnedFd::from)))
}

/// A process's end as the machine's, with what it said last on standard error.
pub(super) fn described(ending: Ending, messages: &Console) -> VmEnd {
    match ending {
        Ending::Exited(0) => VmEnd::Off,
        Ending::Exited(code) => VmEnd::Failed { code, message: quoted(messages) },
        Ending::Signalled(signal) => VmEnd::Killed { signal },
        Ending::Unknown => VmEnd::Failed { code: -1, message: "its exit status was lost".to_owned() },
    }
}

/// The last lines of a process's standard error.
pub(super) fn quoted(messages: &Console) -> String {
    last_lines(&messages.tail(), QUOTED)
}

/// Waits for the machine's end.
pub(super) async fn reached(end: &watch::Receiver<Option<VmEnd>>) -> VmEnd {
    let lost = || VmEnd::Failed { code: -1, message: "nobody watches over the machine".to_owned() };
    match end.clone().wait_for(Option::is_some).await {
        Ok(end) => end.clone().unwrap_or_else(lost),
        Err(_) => lost(),
    }
}

/// Waits, not for long, until a machine that was killed is gone.
pub(super) async fn gone(pid: u32, end: &watch::Receiver<Option<VmEnd>>) {
    if timeout(KILL, reached(end)).await.is_err() {
        tracing::warn!(pid, "the machine was killed and is not gone after {KILL:?}");
    }
}

/// Waits, not for long, until everything that ended processes have said was read.
pub(super) async fn settle(followers: impl IntoIterator<Item = JoinHandle<()>>) {
    for follower in followers {
        let _ = timeout(GRACE, follower).await;
    }
}

/// Why a machine that did not do as it was told did not come up: it ended, or it refused.
pub(super) fn not_up(ended: Option<VmEnd>, source: MachineError, tail: Tail) -> BootError {
    match ended {
        Some(end) => BootError::Ended { end, tail },
        None => BootError::Monitor { tail, source },
    }
}

/// Console and standard error, for whoever looks for a reason.
pub(super) fn said(console: &Console, messages: &Console) -> String {
    let (console, messages) = (console.tail(), messages.tail());
    if messages.trim().is_empty() { console } else { format!("{console}\n--- hypervisor ---\n{messages}") }
}
