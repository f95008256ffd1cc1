//! What all containers of a guest share: the reaper, the cgroup hierarchy, the notices of memory shortage.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use super::cgroup::Hierarchy;
use super::error::ContainerError;
use super::handle::{Container, CreateParams, Ground};
use super::launch::Launcher;
use super::pid_namespace::SharedPidNamespace;
use super::reaper::Reaper;

/// Where containers' cgroups go.
#[derive(Debug, Clone)]
pub(crate) struct RuntimeConfig {
    /// A mounted cgroup v2 hierarchy.
    pub(crate) cgroup_root: PathBuf,
    /// Name of the directory in it that holds the containers' directories.
    pub(crate) parent: String,
}

/// A handle; clones are the same runtime.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    pub(super) ground: Ground,
    oom_receiver: Arc<Mutex<Option<mpsc::UnboundedReceiver<String>>>>,
}

impl Runtime {
    /// Starts reaping and prepares the hierarchy. Called once, on the main thread, inside the tokio runtime.
    pub(crate) fn new(config: RuntimeConfig) -> Result<Self, ContainerError> {
        let hierarchy = Hierarchy::open(&config.cgroup_root, &config.parent)?;
        let reaper = Reaper::start()
            .map_err(|source| ContainerError::Agent { action: "listen for SIGCHLD", source })?;
        let (oom_sender, oom_receiver) = mpsc::unbounded_channel();
        Ok(Runtime {
            ground: Ground { launcher: Launcher::new(reaper), hierarchy, enforce_devices: true, oom_sender },
            oom_receiver: Arc::new(Mutex::new(Some(oom_receiver))),
        })
    }

    /// Ids of containers in which the out-of-memory killer has struck, one for each time it was noticed. There is
    /// one receiver, for the first who asks.
    pub(crate) fn oom_events(&self) -> Option<mpsc::UnboundedReceiver<String>> {
        self.oom_receiver.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Makes a container whose init process waits for [`super::Process::start`].
    ///
    /// The work goes on when this future is dropped, and what it made is then destroyed.
    pub(crate) async fn create(&self, params: CreateParams) -> Result<Container, ContainerError> {
        let ground = self.ground.clone();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let created = Container::create(&ground, params).await;
            if let Err(Ok(container)) = sender.send(created) {
                let destroyed = container.destroy().await;
                tracing::warn!(
                    container = container.id(),
                    ?destroyed,
                    "nobody waits for a container any more"
                );
            }
        });
        let stopped = |_| ContainerError::Agent {
            action: "create a container while the agent stops",
            source: std::io::Error::from(std::io::ErrorKind::Interrupted),
        };
        receiver.await.map_err(stopped)?
    }

    /// Makes a pid namespace for all containers of a pod.
    pub(crate) async fn shared_pid_namespace(&self) -> Result<SharedPidNamespace, ContainerError> {
        SharedPidNamespace::make(&self.ground.launcher).await
    }
}
