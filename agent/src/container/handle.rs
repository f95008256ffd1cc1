//! A container: its cgroup, its init process and the further processes in it.
//!
//! Each container has tasks of its own and short locks that are never held across an await; nothing is shared with
//! another container but the reaper's table. One longer lock per container, `setup`, keeps apart what would get stuck
//! in each other: making a further process, freezing, and burying.
//!
//! ```text
//! init reaped ─► no more execs ─► cgroup.kill ─► execs under way end ─► cgroup.kill ─► all execs published ─► init published
//! ```

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coffer_protocol::agent::Stats;
use tokio::sync::mpsc;

use super::capabilities::CapabilitySets;
use super::cgroup::{Cgroup, Hierarchy};
use super::device_filter::{self, Attached};
use super::error::{ContainerError, SpecError};
use super::launch::{Launch, Launched, Launcher};
use super::messages::{Instructions, NewContainer, NewExec, NewProcess};
use super::pid_namespace::SharedPidNamespace;
use super::process::Process;
use super::reaper::Exit;
use super::resources::{DeviceRule, ResourceUpdate};
use super::seccomp::Filter;
use super::spec::{ContainerSpec, ProcessSpec};
use super::state::ProcessState;
use super::stats;
use super::stdio::{Stdio, StdioRequest};
use super::sys;

/// What all containers stand on.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    pub(super) launcher: Launcher,
    pub(super) hierarchy: Hierarchy,
    /// Whether device access is enforced. Only tests, on machines that let nobody load a program, go without.
    pub(super) enforce_devices: bool,
    pub(super) oom_sender: mpsc::UnboundedSender<String>,
}

/// What a container is made of.
#[derive(Debug)]
pub(crate) struct CreateParams {
    /// Its id: letters, digits, `_`, `.` and `-`.
    pub(crate) id: String,
    /// Its specification.
    pub(crate) spec: ContainerSpec,
    /// Its root file system, mounted.
    pub(crate) rootfs: PathBuf,
    /// The pod's pid namespace; without one the container has its own.
    pub(crate) pid_namespace: Option<SharedPidNamespace>,
    /// Standard descriptors of its init process.
    pub(crate) stdio: StdioRequest,
}

/// A handle; clones are the same container.
#[derive(Debug, Clone)]
pub(crate) struct Container(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: String,
    cgroup: Arc<Cgroup>,
    launcher: Launcher,
    init: Process,
    execs: Mutex<HashMap<String, Exec>>,
    filter: Option<Filter>,
    capabilities: Option<CapabilitySets>,
    user_namespace: bool,
    devices: Mutex<Option<Attached>>,
    granted: Vec<DeviceRule>,
    paused: Arc<AtomicBool>,
    setup: tokio::sync::Mutex<()>,
    oom: Arc<OomCounter>,
    oom_task: tokio::task::AbortHandle,
    /// Keeps the pod's pid namespace while the container is there.
    _pid_namespace: Option<SharedPidNamespace>,
}

#[derive(Debug)]
enum Exec {
    BeingMade,
    Made(Process),
}

impl Container {
    pub(super) async fn create(ground: &Ground, params: CreateParams) -> Result<Self, ContainerError> {
        check_id(&params.id)?;
        if params.pid_namespace.is_some() && params.spec.namespaces.user.is_some() {
            return Err(ContainerError::Spec(SpecError::Unsupported {
                field: "linux.namespaces".to_owned(),
                why: "the pod's shared pid namespace belongs to the guest's user namespace; \
                      set either hostUsers: false or shareProcessNamespace, not both",
            }));
        }
        let cgroup = Arc::new(ground.hierarchy.create(&params.id)?);
        match Self::create_in(ground, params, &cgroup).await {
            Ok(container) => Ok(container),
            Err(error) => {
                if let Err(leftover) = bury(&cgroup).await {
                    tracing::warn!(error = %leftover, "a failed container leaves its cgroup behind");
                }
                Err(error)
            }
        }
    }

    async fn create_in(
        ground: &Ground,
        params: CreateParams,
        cgroup: &Arc<Cgroup>,
    ) -> Result<Self, ContainerError> {
        cgroup.apply(&params.spec.resources)?;
        let directory = cgroup.directory()?;
        let devices = match ground.enforce_devices {
            true => {
                let rules = with_granted(&params.spec.resources.devices, &params.spec.granted);
                Some(attach_devices(cgroup, &directory, &rules, None)?)
            }
            false => None,
        };
        let spec = &params.spec;
        let (pipes, ends) = params.stdio.open().map_err(no_pipes)?.unzip();
        let new = NewContainer {
            id: params.id.clone(),
            rootfs: params.rootfs.clone(),
            namespaces: spec.namespaces.clone(),
            join_pid_namespace: params.pid_namespace.is_some(),
            mounts: spec.mounts.clone(),
            devices: spec.devices.clone(),
            root: spec.root.clone(),
            cgroup: cgroup.path().to_owned(),
            process: new_process(spec.process.clone(), spec.filter.clone(), &params.stdio),
        };
        let mut descriptors = vec![directory.as_fd()];
        descriptors.extend(params.pid_namespace.as_ref().map(|shared| shared.descriptor().as_fd()));
        descriptors.extend(ends.iter().flat_map(|ends| ends.borrow()));
        let launch = Launch {
            id: &params.id,
            instructions: Instructions::Container(Box::new(new)),
            descriptors,
            mappings: spec.namespaces.user.as_ref(),
        };
        let launched = ground.launcher.launch(launch).await?;
        Self::assemble(ground, params, cgroup, devices, (launched, pipes))
    }

    fn assemble(
        ground: &Ground,
        params: CreateParams,
        cgroup: &Arc<Cgroup>,
        devices: Option<Attached>,
        (launched, pipes): (Launched, Option<Stdio>),
    ) -> Result<Self, ContainerError> {
        let paused = Arc::new(AtomicBool::new(false));
        let oom = Arc::new(OomCounter::new(&params.id, Arc::clone(cgroup), ground.oom_sender.clone()));
        let init = Process::new(&params.id, launched, pipes, Arc::clone(&paused)).map_err(no_pipes)?;
        let container = Container(Arc::new(Inner {
            id: params.id,
            cgroup: Arc::clone(cgroup),
            launcher: ground.launcher.clone(),
            init,
            execs: Mutex::default(),
            filter: params.spec.filter,
            capabilities: params.spec.process.capabilities,
            user_namespace: params.spec.namespaces.user.is_some(),
            devices: Mutex::new(devices),
            granted: params.spec.granted,
            paused,
            setup: tokio::sync::Mutex::default(),
            oom_task: tokio::spawn(watch_oom(Arc::clone(&oom))).abort_handle(),
            oom,
            _pid_namespace: params.pid_namespace,
        }));
        tokio::spawn(container.clone().outlive_init());
        Ok(container)
    }

    /// Its id.
    pub(crate) fn id(&self) -> &str {
        &self.0.id
    }

    /// Its init process.
    pub(crate) fn init(&self) -> Process {
        self.0.init.clone()
    }

    /// A process of it; the empty id is the init process.
    pub(crate) fn process(&self, exec_id: &str) -> Option<Process> {
        if exec_id.is_empty() {
            return Some(self.init());
        }
        match self.execs().get(exec_id) {
            Some(Exec::Made(process)) => Some(process.clone()),
            _ => None,
        }
    }

    /// Makes a further process, which waits for [`Process::start`].
    pub(crate) async fn exec(
        &self,
        exec_id: &str,
        spec: ProcessSpec,
        stdio: StdioRequest,
    ) -> Result<Process, ContainerError> {
        check_id(exec_id)?;
        self.must_be_alive("exec in")?;
        let place = Place::take(self, exec_id)?;
        let _setup = self.0.setup.lock().await;
        self.must_be_alive("exec in")?;
        let process = self.make_exec(spec, stdio).await?;
        place.fill(process.clone());
        let (container, made) = (self.clone(), process.clone());
        tokio::spawn(async move {
            let exit = container.judge(made.reaped().await);
            made.publish(exit);
        });
        Ok(process)
    }

    /// Forgets a further process that has exited, and returns its exit.
    pub(crate) fn forget(&self, exec_id: &str) -> Result<Exit, ContainerError> {
        let mut execs = self.execs();
        let exit = match execs.get(exec_id) {
            None => {
                return Err(ContainerError::NoSuchExec { id: self.0.id.clone(), exec: exec_id.to_owned() });
            }
            Some(Exec::BeingMade) => Err(ProcessState::Created),
            Some(Exec::Made(process)) => process.exit().ok_or(process.state()),
        };
        let state_error = |state| ContainerError::State { id: self.0.id.clone(), action: "delete", state };
        let exit = exit.map_err(state_error)?;
        execs.remove(exec_id);
        Ok(exit)
    }

    /// Sends a signal to every process in it.
    pub(crate) fn signal_all(&self, signal: i32) -> Result<(), ContainerError> {
        if self.0.init.is_reaped() {
            return Err(ContainerError::Finished { id: self.0.id.clone(), pid: self.0.init.pid() });
        }
        if signal == libc::SIGKILL {
            return self.0.cgroup.kill();
        }
        for pid in self.0.cgroup.pids()? {
            let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
            let flags = rustix::process::PidfdFlags::empty();
            // A process that is gone between the list and here needs no signal.
            if let Some(Ok(pidfd)) = pid.map(|pid| rustix::process::pidfd_open(pid, flags)) {
                let _ = sys::pidfd_signal(pidfd.as_fd(), signal);
            }
        }
        Ok(())
    }

    /// Freezes all its processes.
    pub(crate) async fn pause(&self) -> Result<(), ContainerError> {
        let _setup = self.0.setup.lock().await;
        match self.0.init.state() {
            ProcessState::Running => {}
            state => return Err(self.in_state("pause", state)),
        }
        // First the mark: a reader must not take a frozen process for a running one.
        self.0.paused.store(true, Ordering::Release);
        let frozen = self.0.cgroup.freeze(true).await;
        if frozen.is_err() {
            // Thawing is only the attempt to undo; the first error is the one to report.
            let _ = self.0.cgroup.write("cgroup.freeze", "0");
            self.0.paused.store(false, Ordering::Release);
        }
        frozen
    }

    /// Thaws all its processes.
    pub(crate) async fn resume(&self) -> Result<(), ContainerError> {
        let _setup = self.0.setup.lock().await;
        match self.0.init.state() {
            ProcessState::Paused => {}
            state => return Err(self.in_state("resume", state)),
        }
        self.0.cgroup.freeze(false).await?;
        self.0.paused.store(false, Ordering::Release);
        Ok(())
    }

    /// Changes its limits.
    pub(crate) async fn update(&self, update: &ResourceUpdate) -> Result<(), ContainerError> {
        self.0.cgroup.apply(update)?;
        let mut devices = lock(&self.0.devices);
        if let (Some(earlier), false) = (devices.as_ref(), update.devices.is_empty()) {
            let directory = self.0.cgroup.directory()?;
            let rules = with_granted(&update.devices, &self.0.granted);
            *devices = Some(attach_devices(&self.0.cgroup, &directory, &rules, Some(earlier))?);
        }
        Ok(())
    }

    /// Its counters, also after its exit, until it is deleted.
    pub(crate) fn stats(&self) -> Result<Stats, ContainerError> {
        Ok(stats::read(&self.0.cgroup))
    }

    /// Ids of its processes, in the agent's pid namespace.
    pub(crate) fn pids(&self) -> Result<Vec<u32>, ContainerError> {
        self.0.cgroup.pids()
    }

    /// Removes what is left of it after its exit. Its root file system is the caller's.
    pub(crate) async fn delete(&self) -> Result<(), ContainerError> {
        match self.0.init.state() {
            ProcessState::Stopped => {}
            state => return Err(self.in_state("delete", state)),
        }
        self.0.oom_task.abort();
        bury(&self.0.cgroup).await
    }

    /// Kills all its processes, waits, and removes what is left.
    pub(crate) async fn destroy(&self) -> Result<(), ContainerError> {
        self.0.cgroup.kill()?;
        // It fails when the process is gone, which is what it is for.
        let _ = self.0.init.signal(libc::SIGKILL);
        self.0.init.wait().await;
        self.delete().await
    }

    async fn make_exec(&self, spec: ProcessSpec, stdio: StdioRequest) -> Result<Process, ContainerError> {
        let inner = &self.0;
        let spec = ProcessSpec { capabilities: spec.capabilities.or(inner.capabilities), ..spec };
        let leader = i32::try_from(inner.init.pid()).unwrap_or(0);
        let directory = inner.cgroup.directory_for_exec(leader)?;
        let (pipes, ends) = stdio.open().map_err(no_pipes)?.unzip();
        let process = new_process(spec, inner.filter.clone(), &stdio);
        let mut descriptors = vec![directory.as_fd(), inner.init.pidfd()];
        descriptors.extend(ends.iter().flat_map(|ends| ends.borrow()));
        let launch = Launch {
            id: &inner.id,
            instructions: Instructions::Exec(Box::new(NewExec {
                user_namespace: inner.user_namespace,
                process,
            })),
            descriptors,
            mappings: None,
        };
        let launched = inner.launcher.launch(launch).await?;
        Process::new(&inner.id, launched, pipes, Arc::clone(&inner.paused)).map_err(no_pipes)
    }

    /// Waits for the init process, ends the others, and publishes its exit last.
    async fn outlive_init(self) {
        let exit = self.0.init.reaped().await;
        self.kill_the_rest();
        // Whoever is making a process now sees that the container is ending; whoever comes later is refused.
        let setup = self.0.setup.lock().await;
        self.kill_the_rest();
        drop(setup);
        let others: Vec<Process> = self
            .execs()
            .values()
            .filter_map(|exec| match exec {
                Exec::Made(process) => Some(process.clone()),
                Exec::BeingMade => None,
            })
            .collect();
        for other in others {
            other.wait().await;
        }
        let exit = self.judge(exit);
        self.0.paused.store(false, Ordering::Release);
        self.0.init.publish(exit);
    }

    fn kill_the_rest(&self) {
        if let Err(error) = self.0.cgroup.kill() {
            tracing::warn!(container = self.id(), %error, "cannot kill the rest of a container");
        }
    }

    /// Adds to an exit what only the container knows.
    fn judge(&self, exit: Exit) -> Exit {
        let killed = self.0.oom.notice() > 0 && exit.status == 128 + libc::SIGKILL.unsigned_abs();
        Exit { oom_killed: killed, ..exit }
    }

    fn must_be_alive(&self, action: &'static str) -> Result<(), ContainerError> {
        match self.0.init.state() {
            _ if self.0.init.is_reaped() => Err(self.in_state(action, ProcessState::Stopped)),
            ProcessState::Created | ProcessState::Running => Ok(()),
            state => Err(self.in_state(action, state)),
        }
    }

    fn in_state(&self, action: &'static str, state: ProcessState) -> ContainerError {
        ContainerError::State { id: self.0.id.clone(), action, state }
    }

    fn execs(&self) -> MutexGuard<'_, HashMap<String, Exec>> {
        lock(&self.0.execs)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.oom_task.abort();
    }
}

/// The place of a process that is being made; it is free again if the making fails.
struct Place<'a> {
    container: &'a Container,
    id: &'a str,
    filled: bool,
}

impl<'a> Place<'a> {
    fn take(container: &'a Container, id: &'a str) -> Result<Self, ContainerError> {
        match container.execs().entry(id.to_owned()) {
            std::collections::hash_map::Entry::Occupied(_) => {
                Err(ContainerError::ExecExists { id: container.0.id.clone(), exec: id.to_owned() })
            }
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(Exec::BeingMade);
                Ok(Place { container, id, filled: false })
            }
        }
    }

    fn fill(mut self, process: Process) {
        self.container.execs().insert(self.id.to_owned(), Exec::Made(process));
        self.filled = true;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.filled {
            self.container.execs().remove(self.id);
        }
    }
}

/// Counts the out-of-memory kills of a container and tells of new ones.
#[derive(Debug)]
struct OomCounter {
    id: String,
    cgroup: Arc<Cgroup>,
    seen: AtomicU64,
    notices: mpsc::UnboundedSender<String>,
}

impl OomCounter {
    fn new(id: &str, cgroup: Arc<Cgroup>, notices: mpsc::UnboundedSender<String>) -> Self {
        OomCounter { id: id.to_owned(), cgroup, seen: AtomicU64::new(0), notices }
    }

    /// The kills so far. Called before an exit is published, so that the notice comes first.
    fn notice(&self) -> u64 {
        let kills = stats::oom_kills(&self.cgroup);
        if self.seen.fetch_max(kills, Ordering::AcqRel) < kills {
            // Without a receiver nobody wants to know.
            let _ = self.notices.send(self.id.clone());
        }
        kills
    }
}

async fn watch_oom(counter: Arc<OomCounter>) {
    let Ok(Some(events)) = counter.cgroup.memory_events() else { return };
    loop {
        // The kernel wakes only a reader that has read.
        if events.read().is_ok_and(|text| text.is_empty()) {
            return;
        }
        counter.notice();
        if events.changed().await.is_err() {
            return;
        }
    }
}

/// Kills, waits and removes.
async fn bury(cgroup: &Cgroup) -> Result<(), ContainerError> {
    cgroup.kill()?;
    cgroup.wait_until_empty().await?;
    cgroup.remove()
}

fn new_process(spec: ProcessSpec, filter: Option<Filter>, stdio: &StdioRequest) -> NewProcess {
    NewProcess { spec, filter, terminal: stdio.terminal.map(|size| (size.columns, size.rows)) }
}

fn attach_devices(
    cgroup: &Cgroup,
    directory: &OwnedFd,
    rules: &[DeviceRule],
    earlier: Option<&Attached>,
) -> Result<Attached, ContainerError> {
    device_filter::attach(directory.as_fd(), rules, earlier).map_err(|source| ContainerError::Cgroup {
        action: "attach the device rules to".to_owned(),
        path: cgroup.path().to_owned(),
        source,
    })
}

/// The rules as asked for, and then those for the disks of the container's own volumes: a later rule beats an earlier one, and
/// whoever asks for new rules knows nothing of the guest's disks.
fn with_granted(asked: &[DeviceRule], granted: &[DeviceRule]) -> Vec<DeviceRule> {
    asked.iter().chain(granted).copied().collect()
}

/// An id becomes a directory's name and a word of a protocol.
fn check_id(id: &str) -> Result<(), ContainerError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    match !id.is_empty() && id.len() <= 128 && id.bytes().all(plain) && !id.starts_with('.') {
        true => Ok(()),
        false => Err(ContainerError::Id { id: id.to_owned() }),
    }
}

fn no_pipes(source: std::io::Error) -> ContainerError {
    ContainerError::Agent { action: "make a process's pipes", source }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
