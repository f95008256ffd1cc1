//! Carries out what the tables say: creation and deletion of containers, and with the first and the last of them the
//! machine's.
//!
//! Work that must not be left half done runs in a task of its own, because ttrpc drops a call's future when
//! containerd's connection closes.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::container::{self, Made};
use super::error::{PodError, Reason};
use super::guest::Guest;
use super::registry::{Container, Registry};
use super::rules::{Call, Role};
use super::spec::HostSpec;
use super::state::{Process, ProcessEvent, Sandbox, SandboxAction, SandboxEvent};
use super::watch::KILLED_STATUS;
use super::{CreateRequest, Event, ProcessKey, boot};
use crate::event::Exit;
use crate::group::{Group, GroupError};
use crate::metrics::{self, Metrics, Snapshot};
use crate::publisher::Publisher;

/// How long Delete waits for output that is still on its way to a reader.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// How long Delete waits for the creation that it cancels.
const CANCEL_LIMIT: Duration = Duration::from_secs(8);

/// How long Shutdown and a signal wait for the pod's end; the daemon itself waits on.
const LEAVE_LIMIT: Duration = Duration::from_millis(2500);

/// What the daemon knows from its command line and its bundle.
#[derive(Debug, Clone)]
pub(crate) struct PodSetup {
    /// containerd's namespace.
    pub(crate) namespace: String,
    /// The pod's id.
    pub(crate) pod: String,
    /// Address on which the shim answers.
    pub(crate) address: String,
    /// containerd's gRPC address.
    pub(crate) containerd: String,
    /// 32 hex digits that no other pod's start has.
    pub(crate) trace_id: String,
    /// Path of the configuration, when one is named.
    pub(crate) config_path: Option<PathBuf>,
}

/// A pod.
pub(crate) struct Pod {
    pub(super) setup: PodSetup,
    pub(super) publisher: Publisher,
    metrics: Arc<Metrics>,
    registry: Mutex<Registry>,
    /// The machine's state, for whoever waits for its end.
    sandbox: watch::Sender<Sandbox>,
    /// Whether containerd has said goodbye and nothing is left.
    left: watch::Sender<bool>,
}

/// A container that may be created.
#[derive(Clone)]
struct Plan {
    group: Group,
    spec: HostSpec,
    cancel: watch::Receiver<bool>,
}

impl Pod {
    /// A pod without a machine yet.
    pub(crate) fn new(setup: PodSetup, publisher: Publisher) -> Arc<Self> {
        Arc::new(Self {
            setup,
            publisher,
            metrics: Metrics::new(),
            registry: Mutex::new(Registry::default()),
            sandbox: watch::Sender::new(Sandbox::Empty),
            left: watch::Sender::new(false),
        })
    }

    /// What is counted.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The registry, for a moment without waits.
    pub(super) fn lock(&self) -> MutexGuard<'_, Registry> {
        // Every change leaves the registry whole, so a panic elsewhere does not spoil it.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes events in their order.
    pub(super) fn publish(&self, events: impl IntoIterator<Item = Event>) {
        events.into_iter().for_each(|event| self.publisher.publish(event));
    }

    /// Takes an event of a process and publishes what follows from it.
    pub(super) fn apply(&self, key: &ProcessKey, event: ProcessEvent) -> Result<(), PodError> {
        let mut registry = self.lock();
        let events = registry.apply(key, event)?;
        // Published under the lock, so that two events cannot change places.
        self.publish(events);
        Ok(())
    }

    /// Create: makes a container, and with a pod's first one its machine; answers the host pid.
    pub(crate) async fn create(self: &Arc<Self>, request: CreateRequest) -> Result<u32, PodError> {
        let began = Instant::now();
        let plan = self.plan(&request)?;
        let pod = self.clone();
        let id = request.id.clone();
        let created =
            joined("create the container", tokio::spawn(async move { pod.make(request, plan).await })).await;
        if let (Ok(_), Some(guest)) = (&created, self.lock().guest.clone()) {
            guest.trace_call(&id, began);
        }
        created
    }

    fn plan(&self, request: &CreateRequest) -> Result<Plan, PodError> {
        let group = Group::of_bundle(&request.id, &request.bundle).map_err(refuse_group)?;
        if group.pod() != self.setup.pod {
            let what = format!(
                "container {} belongs to pod {}, this shim runs pod {}",
                request.id,
                group.pod(),
                self.setup.pod
            );
            return Err(PodError::Refused { what });
        }
        let spec = HostSpec::load(&request.bundle)?;
        let mut registry = self.lock();
        if registry.containers.contains_key(&request.id) {
            return Err(PodError::Exists { key: ProcessKey::init(&request.id) });
        }
        spec.check(&group)?;
        let role = match &group {
            Group::Sandbox { .. } => Role::Pause,
            Group::Member { .. } | Group::Single { .. } => Role::Init,
        };
        if matches!(group, Group::Member { .. }) {
            self.expect_ready(&registry, &request.id)?;
        } else {
            let (next, _) =
                registry.sandbox.on(SandboxEvent::Create).map_err(|_| no_machine(&registry, &request.id))?;
            registry.sandbox = next;
        }
        let container = Container::new(request.bundle.clone(), role, request.stdio.clone());
        let cancel = container.cancel.subscribe();
        registry.containers.insert(request.id.clone(), container);
        Ok(Plan { group, spec, cancel })
    }

    fn expect_ready(&self, registry: &Registry, id: &str) -> Result<Arc<Guest>, PodError> {
        match (&registry.sandbox, &registry.guest) {
            (Sandbox::Ready, Some(guest)) => Ok(guest.clone()),
            _ => Err(no_machine(registry, id)),
        }
    }

    async fn make(self: Arc<Self>, request: CreateRequest, mut plan: Plan) -> Result<u32, PodError> {
        let mut cancel = plan.cancel.clone();
        let made = tokio::select! {
            made = self.build(&request, &mut plan) => made,
            _ = cancel.wait_for(|cancelled| *cancelled) => Err(PodError::Cancelled { id: request.id.clone() }),
        };
        let key = ProcessKey::init(&request.id);
        let made = match made {
            Ok((guest, made)) => match self.announce(&key, &guest, made) {
                Ok(()) => Ok(guest),
                Err(err) => Err(guest.explain(err).await),
            },
            Err(err) => Err(err),
        };
        match made {
            Ok(guest) => {
                if !matches!(plan.group, Group::Sandbox { .. }) {
                    self.watch_process(guest.clone(), key);
                }
                Ok(guest.pid())
            }
            Err(err) => {
                if err.reason() == Reason::PermissionDenied {
                    self.metrics.image_refused();
                }
                let reason = super::error::chain(&err);
                tracing::warn!(container = request.id, error = reason, "the container cannot be created");
                let (container, class) = (request.id.clone(), err.reason().name());
                self.publish([Event::CreateFailed { container, class, reason }]);
                self.unmake(&request, &plan.group, &err).await;
                Err(err)
            }
        }
    }

    /// Takes a process that the agent has made, and publishes it.
    pub(super) fn announce(&self, key: &ProcessKey, guest: &Guest, made: Made) -> Result<(), PodError> {
        let mut registry = self.lock();
        let events = registry.made(key, guest.pid(), made.streams)?;
        self.publish(events);
        Ok(())
    }

    async fn build(
        self: &Arc<Self>,
        request: &CreateRequest,
        plan: &mut Plan,
    ) -> Result<(Arc<Guest>, Made), PodError> {
        match &plan.group {
            Group::Member { .. } => {
                let guest = self.expect_ready(&self.lock(), &request.id)?;
                match container::make(&guest, request, &plan.spec, None).await {
                    Ok(made) => Ok((guest, made)),
                    Err(err) => Err(guest.explain(err).await),
                }
            }
            Group::Sandbox { .. } => {
                let (guest, _) = boot::boot(&self.setup, request, &plan.spec, &plan.group).await?;
                Ok((self.adopt(guest), Made::default()))
            }
            Group::Single { .. } => {
                let (guest, first) = boot::boot(&self.setup, request, &plan.spec, &plan.group).await?;
                let guest = self.adopt(guest);
                match container::make(&guest, request, &plan.spec, Some(first)).await {
                    Ok(made) => Ok((guest, made)),
                    Err(err) => Err(guest.explain(err).await),
                }
            }
        }
    }

    /// The machine is up: from now on its end is everybody's end.
    fn adopt(self: &Arc<Self>, guest: Guest) -> Arc<Guest> {
        let guest = Arc::new(guest);
        {
            let mut registry = self.lock();
            registry.guest = Some(guest.clone());
            if let Ok((next, _)) = registry.sandbox.on(SandboxEvent::Booted) {
                registry.sandbox = next;
            }
        }
        self.watch_guest(guest.clone());
        self.serve_metrics(guest.clone());
        guest
    }

    fn serve_metrics(self: &Arc<Self>, guest: Arc<Guest>) {
        let pod = self.clone();
        tokio::spawn(async move {
            let path = guest.record().run_dir().join(metrics::SOCKET);
            let look = || async {
                let agent = guest.agent().resources().await.ok();
                let (containers, processes) = pod.lock().count();
                Snapshot { containers, processes, phases: guest.phases(), agent }
            };
            metrics::serve(pod.metrics.clone(), &path, look).await;
        });
    }

    /// Undoes a failed creation; a pod whose first container failed goes with it.
    async fn unmake(self: &Arc<Self>, request: &CreateRequest, group: &Group, error: &PodError) {
        let id = request.id.as_str();
        let guest = self.lock().guest.clone();
        match (guest, group) {
            (Some(guest), Group::Member { .. }) => container::unmake(&guest, id).await,
            (Some(guest), _) => {
                guest.trace_failure(error);
                self.on_sandbox(SandboxEvent::Stop);
                self.gone(CANCEL_LIMIT).await;
            }
            (None, _) => {
                boot::clean_up(&self.setup, request).await;
                self.on_sandbox(SandboxEvent::BootFailed);
                self.on_sandbox(SandboxEvent::TornDown);
            }
        }
        self.lock().containers.remove(id);
    }

    /// Takes an event of the machine and does what follows from it.
    pub(super) fn on_sandbox(self: &Arc<Self>, event: SandboxEvent) {
        let actions = {
            let mut registry = self.lock();
            match registry.sandbox.on(event) {
                Ok((next, actions)) => {
                    registry.sandbox = next;
                    self.sandbox.send_replace(next);
                    actions
                }
                Err(err) => {
                    tracing::error!(error = %err, "the machine's life is out of turn");
                    return;
                }
            }
        };
        if actions.contains(&SandboxAction::EndProcesses) {
            self.end_processes(event);
        }
        if actions.contains(&SandboxAction::TearDown) && event != SandboxEvent::BootFailed {
            self.tear_down(actions.contains(&SandboxAction::PowerOff));
        }
    }

    fn end_processes(&self, why: SandboxEvent) {
        let mut registry = self.lock();
        let status = match (why, &registry.guest) {
            (SandboxEvent::GuestGone, Some(guest)) => guest.exit_status(),
            _ => KILLED_STATUS,
        };
        if why == SandboxEvent::GuestGone
            && registry.guest.as_ref().is_some_and(|guest| guest.out_of_memory())
        {
            let containers: Vec<String> = registry.containers.keys().cloned().collect();
            self.publish(containers.into_iter().map(|container| Event::Oom { container }));
        }
        let events = registry.end_all(Exit { status, at: SystemTime::now() });
        self.publish(events);
    }

    /// Delete: forgets an ended process; with an init process goes its container, with the last container the machine.
    pub(crate) async fn delete(self: &Arc<Self>, key: ProcessKey) -> Result<(u32, Exit), PodError> {
        self.lock().admit(Call::Delete, &key)?;
        if self.lock().entry(&key)?.state == Process::Creating {
            return self.cancel(&key).await;
        }
        let pod = self.clone();
        joined("delete the process", tokio::spawn(async move { pod.forget(key).await })).await
    }

    async fn cancel(&self, key: &ProcessKey) -> Result<(u32, Exit), PodError> {
        let mut exit = {
            let registry = self.lock();
            registry.container(&key.container)?.cancel.send_replace(true);
            registry.entry(key)?.exit.subscribe()
        };
        // Its sender goes when the creation has been undone.
        let undone = timeout(CANCEL_LIMIT, async { while exit.changed().await.is_ok() {} }).await;
        match undone {
            Ok(()) => Err(PodError::Unknown { key: key.clone() }),
            Err(_) => Err(PodError::Late { doing: "cancelling the creation", limit: CANCEL_LIMIT }),
        }
    }

    async fn forget(self: Arc<Self>, key: ProcessKey) -> Result<(u32, Exit), PodError> {
        let (guest, streams, role, last) = {
            let mut registry = self.lock();
            let role = registry.admit(Call::Delete, &key)?;
            let last = key.exec.is_none() && registry.containers.len() == 1;
            if key.exec.is_none() {
                // Their container goes: what has not told its exit by now was killed with it.
                let killed = Exit { status: KILLED_STATUS, at: SystemTime::now() };
                let events = registry.end_execs(&key.container, killed);
                self.publish(events);
            }
            let guest = registry.guest.clone();
            (guest, registry.entry_mut(&key)?.streams.take(), role, last)
        };
        if let Some(streams) = streams {
            streams.finish(DRAIN_LIMIT).await;
        }
        let mut ended = None;
        if let (Some(guest), false) = (&guest, role == Role::Pause) {
            ended = container::forget(guest, &key, last).await;
        }
        let exit = ended.unwrap_or(Exit { status: KILLED_STATUS, at: SystemTime::now() });
        // What never ran has ended by being deleted, and that is told too; what has ended stays as it was.
        self.apply(&key, ProcessEvent::Exited(exit))?;
        let (pid, exit, empty) = {
            let mut registry = self.lock();
            let entry = registry.entry(&key)?;
            let (pid, exit) = (entry.pid, entry.state.exit().unwrap_or(exit));
            match &key.exec {
                Some(exec) => drop(registry.container_mut(&key.container)?.execs.remove(exec)),
                None => drop(registry.containers.remove(&key.container)),
            }
            self.publish([Event::Delete { process: key.clone(), pid, exit }]);
            (pid, exit, registry.containers.is_empty())
        };
        if empty {
            self.on_sandbox(SandboxEvent::Stop);
        }
        Ok((pid, exit))
    }

    /// Shutdown: ends the shim, unless it still has a container.
    pub(crate) async fn shut_down(self: &Arc<Self>) {
        if self.lock().containers.is_empty() {
            let pod = self.clone();
            let leaving = tokio::spawn(async move { pod.leave().await });
            let _ = timeout(LEAVE_LIMIT, leaving).await;
        }
    }

    /// Ends the pod, whatever runs in it, and then the shim.
    pub(crate) async fn leave(self: &Arc<Self>) {
        self.lock().containers.values().for_each(|container| {
            container.cancel.send_replace(true);
        });
        self.on_sandbox(SandboxEvent::Stop);
        self.gone(CANCEL_LIMIT).await;
        self.left.send_replace(true);
    }

    /// Returns when the shim has nothing left to do.
    pub(crate) async fn left(&self) {
        let _ = self.left.subscribe().wait_for(|left| *left).await;
    }

    /// Waits until nothing of the pod is left, at most for `limit`.
    async fn gone(&self, limit: Duration) {
        let mut sandbox = self.sandbox.subscribe();
        let _ = timeout(limit, sandbox.wait_for(|state| *state == Sandbox::Gone)).await;
    }
}

/// The answer of a task.
pub(super) async fn joined<T>(
    doing: &'static str,
    task: JoinHandle<Result<T, PodError>>,
) -> Result<T, PodError> {
    task.await.map_err(|err| PodError::host(doing, err))?
}

fn no_machine(registry: &Registry, id: &str) -> PodError {
    PodError::NoMachine { id: id.to_owned(), found: format!("{:?}", registry.sandbox).to_lowercase() }
}

fn refuse_group(error: GroupError) -> PodError {
    PodError::Malformed { what: "the bundle".to_owned(), source: Box::new(error) }
}
