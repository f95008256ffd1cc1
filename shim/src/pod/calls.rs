//! The calls on a container that exists.

use std::sync::Arc;

use coffer_protocol::agent::{ExecProcessRequest, Stats};
use oci_spec::runtime::LinuxResources;

use super::agent;
use super::container::{self, Made};
use super::driver::{Pod, joined};
use super::error::PodError;
use super::guest::Guest;
use super::quota::{self, Change};
use super::registry::Entry;
use super::rules::{Call, Role};
use super::state::{Process, ProcessEvent, SandboxEvent};
use super::{ExecRequest, ProcessKey, View, spec};
use crate::event::Exit;
use crate::stdio::Streams;

/// Signals on which the pause program ends by itself, with status 0.
const PAUSE_ENDS: [u32; 2] = [2, 15];

const SIGKILL: u32 = 9;

impl Pod {
    fn guest(&self, doing: &'static str) -> Result<Arc<Guest>, PodError> {
        self.lock().guest.clone().ok_or(PodError::GuestGone { doing, console: String::new() })
    }

    /// Start: lets a process go; answers its host pid.
    pub(crate) async fn start(self: &Arc<Self>, key: ProcessKey) -> Result<u32, PodError> {
        let (role, pid) = {
            let mut registry = self.lock();
            let role = registry.admit(Call::Start, &key)?;
            registry.apply(&key, ProcessEvent::StartAsked)?;
            (role, registry.entry(&key)?.pid)
        };
        if role == Role::Pause {
            self.apply(&key, ProcessEvent::Started)?;
            return Ok(pid);
        }
        let pod = self.clone();
        let started = tokio::spawn(async move {
            let outcome = pod.let_go(&key, role).await;
            let event = if outcome.is_ok() { ProcessEvent::Started } else { ProcessEvent::StartFailed };
            pod.apply(&key, event)?;
            outcome
        });
        joined("start the process", started).await.map(|()| pid)
    }

    async fn let_go(&self, key: &ProcessKey, role: Role) -> Result<(), PodError> {
        let guest = self.guest("starting the process")?;
        if role == Role::Exec {
            let stdio = self.lock().entry(key)?.stdio.clone();
            let host = container::open_host_ends(&guest, &stdio, &key.container).await?;
            let ends = container::open_guest_ends(&guest, key, host.present()).await?;
            self.lock().entry_mut(key)?.streams = Some(Streams::start(host, ends));
        }
        guest.start(key).await
    }

    /// Exec: adds a process to a container.
    pub(crate) async fn exec(self: &Arc<Self>, request: ExecRequest) -> Result<(), PodError> {
        let key = ProcessKey::new(&request.id, &request.exec);
        {
            let mut registry = self.lock();
            registry.admit(Call::Exec, &ProcessKey::init(&request.id))?;
            let container = registry.container_mut(&request.id)?;
            if container.execs.contains_key(&request.exec) {
                return Err(PodError::Exists { key });
            }
            let entry = Entry::new(request.stdio.clone(), container.init.pid);
            container.execs.insert(request.exec.clone(), entry);
        }
        let pod = self.clone();
        joined("add the process", tokio::spawn(async move { pod.add(key, request).await })).await
    }

    async fn add(self: Arc<Self>, key: ProcessKey, request: ExecRequest) -> Result<(), PodError> {
        let added = async {
            let guest = self.guest("adding the process")?;
            let message = ExecProcessRequest {
                container_id: request.id.clone(),
                exec_id: request.exec.clone(),
                process: request.process,
                streams: agent::streams(request.stdio.present(), request.stdio.terminal),
                ..Default::default()
            };
            guest.agent().exec(&message).await?;
            // Its streams come with Start.
            self.announce(&key, &guest, Made::default())?;
            Ok(guest)
        };
        match added.await {
            Ok(guest) => {
                self.watch_process(guest, key);
                Ok(())
            }
            Err(err) => {
                if let Ok(container) = self.lock().container_mut(&request.id) {
                    container.execs.remove(&request.exec);
                }
                Err(err)
            }
        }
    }

    /// Kill: sends a signal.
    pub(crate) async fn kill(
        self: &Arc<Self>,
        key: ProcessKey,
        signal: u32,
        all: bool,
    ) -> Result<(), PodError> {
        let role = self.lock().admit(Call::Kill, &key)?;
        if role != Role::Pause {
            return self.guest("signalling the process")?.agent().signal(&key, signal, all).await;
        }
        let status = match signal {
            SIGKILL => 128 + SIGKILL,
            signal if PAUSE_ENDS.contains(&signal) => 0,
            _ => return Ok(()),
        };
        let exit = Exit { status, at: std::time::SystemTime::now() };
        self.apply(&key, ProcessEvent::Exited(exit))?;
        // Without its pause container a pod is at its end, and what it used is to be free soon.
        self.on_sandbox(SandboxEvent::Stop);
        Ok(())
    }

    /// State.
    pub(crate) fn state(&self, key: &ProcessKey) -> Result<View, PodError> {
        let registry = self.lock();
        registry.admit(Call::Look, key)?;
        let bundle = registry.container(&key.container)?.bundle.clone();
        let entry = registry.entry(key)?;
        Ok(View { bundle, pid: entry.pid, state: entry.state, stdio: entry.stdio.clone() })
    }

    /// Wait: returns when the process has ended.
    pub(crate) async fn wait(&self, key: &ProcessKey) -> Result<Exit, PodError> {
        let mut exit = self.lock().entry(key)?.exit.subscribe();
        let gone = || PodError::Unknown { key: key.clone() };
        let exit = exit.wait_for(Option::is_some).await.map_err(|_| gone())?;
        (*exit).ok_or_else(gone)
    }

    /// Pause: freezes a container.
    pub(crate) async fn pause(&self, id: &str) -> Result<(), PodError> {
        let key = ProcessKey::init(id);
        self.lock().admit(Call::Pause, &key)?;
        self.guest("pausing the container")?.agent().pause(id).await?;
        self.apply(&key, ProcessEvent::Paused)
    }

    /// Resume: thaws a container.
    pub(crate) async fn resume(&self, id: &str) -> Result<(), PodError> {
        let key = ProcessKey::init(id);
        self.lock().admit(Call::Resume, &key)?;
        self.guest("resuming the container")?.agent().resume(id).await?;
        self.apply(&key, ProcessEvent::Resumed)
    }

    /// ResizePty.
    pub(crate) async fn resize(&self, key: &ProcessKey, width: u32, height: u32) -> Result<(), PodError> {
        {
            let registry = self.lock();
            registry.admit(Call::Resize, key)?;
            if !registry.entry(key)?.stdio.terminal {
                return Err(PodError::Refused { what: format!("{key} has no terminal to resize") });
            }
        }
        self.guest("resizing the terminal")?.agent().resize(key, width, height).await
    }

    /// CloseIO: ends standard input after what is on its way.
    pub(crate) fn close_input(&self, key: &ProcessKey) -> Result<(), PodError> {
        let registry = self.lock();
        registry.admit(Call::CloseIo, key)?;
        registry.entry(key)?.streams.iter().for_each(Streams::close_input);
        Ok(())
    }

    /// Update: changes a container's limits, given as OCI `linux.resources`.
    pub(crate) async fn update(&self, id: &str, resources: &[u8]) -> Result<(), PodError> {
        let key = ProcessKey::init(id);
        let role = self.lock().admit(Call::Update, &key)?;
        let mut resources: LinuxResources = serde_json::from_slice(resources)
            .map_err(|err| PodError::Malformed { what: "the resources".to_owned(), source: Box::new(err) })?;
        spec::strip_resources(&mut resources);
        if role == Role::Pause {
            return Ok(());
        }
        let bytes =
            serde_json::to_vec(&resources).map_err(|err| PodError::host("write the resources", err))?;
        let guest = self.guest("updating the container")?;
        guest.agent().update(id, bytes).await?;
        if let Some(quota) = quota::changed(&resources) {
            guest.cpu_time().set(id, Change::Limit(quota));
        }
        Ok(())
    }

    /// Pids: the host processes behind a container; never empty while it exists.
    pub(crate) fn pids(&self, id: &str) -> Result<Vec<u32>, PodError> {
        let registry = self.lock();
        let entry = registry.entry(&ProcessKey::init(id))?;
        Ok(if entry.state == Process::Creating { Vec::new() } else { vec![entry.pid] })
    }

    /// Stats: a container's counters; all zero when nobody can tell them any more.
    pub(crate) async fn stats(&self, id: &str) -> Result<Stats, PodError> {
        let (role, guest) = {
            let registry = self.lock();
            (registry.admit(Call::Look, &ProcessKey::init(id))?, registry.guest.clone())
        };
        match guest {
            Some(guest) if role == Role::Pause => Ok(guest.cost()),
            Some(guest) => match guest.agent().stats(id).await {
                Err(PodError::GuestGone { .. }) => Ok(guest.last_stats()),
                stats => stats,
            },
            None => Ok(Stats::new()),
        }
    }

    /// Connect: host pid of a container's init process, 0 if there is no such container.
    pub(crate) fn task_pid(&self, id: &str) -> u32 {
        self.lock().entry(&ProcessKey::init(id)).map(|entry| entry.pid).unwrap_or_default()
    }
}
