//! The calls that the kubelet makes, each bounded in time.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use prost::Message;

use super::grpc::call;
use super::messages::*;

/// The kubelet's own limit for a runtime call is two minutes; a software-emulated guest on a busy machine needs some of it.
const LIMIT: Duration = Duration::from_secs(120);

/// A CRI server.
#[derive(Clone, Debug)]
pub struct Cri {
    socket: PathBuf,
    limit: Duration,
}

impl Cri {
    /// The server at `socket`.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, limit: LIMIT }
    }

    /// The same server, whose calls may take as long as `limit`.
    pub fn patient(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Who answers.
    pub fn version(&self) -> Result<VersionResponse> {
        self.runtime("Version", &VersionRequest { version: "v1".into() })
    }

    /// Whether runtime and network are ready; what is not, else.
    pub fn ready(&self) -> Result<()> {
        let answer: StatusResponse = self.runtime("Status", &StatusRequest { verbose: false })?;
        let conditions = answer.status.context("a status without content")?.conditions;
        match conditions.iter().find(|condition| !condition.status && condition.r#type.ends_with("Ready")) {
            Some(bad) => bail!("{} is false: {}", bad.r#type, bad.message),
            None => Ok(()),
        }
    }

    /// Whether the server knows the image.
    pub fn has_image(&self, name: &str) -> Result<bool> {
        let request = ImageStatusRequest { image: Some(ImageSpec { image: name.into() }) };
        let answer: ImageStatusResponse =
            call(&self.socket, "/runtime.v1.ImageService/ImageStatus", &request, self.limit)?;
        Ok(answer.image.is_some())
    }

    /// Makes and starts a pod, and answers its id.
    pub fn run_sandbox(&self, config: &SandboxConfig, handler: &str) -> Result<String> {
        let request = RunSandboxRequest { config: Some(config.clone()), runtime_handler: handler.into() };
        self.runtime::<_, SandboxId>("RunPodSandbox", &request).map(|answer| answer.pod_sandbox_id)
    }

    /// Stops a pod and everything in it.
    pub fn stop_sandbox(&self, id: &str) -> Result<()> {
        self.runtime::<_, Empty>("StopPodSandbox", &SandboxId { pod_sandbox_id: id.into() }).map(drop)
    }

    /// Removes a pod.
    pub fn remove_sandbox(&self, id: &str) -> Result<()> {
        self.runtime::<_, Empty>("RemovePodSandbox", &SandboxId { pod_sandbox_id: id.into() }).map(drop)
    }

    /// The ids of all pods.
    pub fn sandboxes(&self) -> Result<Vec<String>> {
        let answer: ListSandboxesResponse = self.runtime("ListPodSandbox", &ListSandboxesRequest {})?;
        Ok(answer.items.into_iter().map(|item| item.id).collect())
    }

    /// How a pod is.
    pub fn sandbox_status(&self, id: &str) -> Result<SandboxStatus> {
        let request = SandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        self.runtime::<_, SandboxStatusResponse>("PodSandboxStatus", &request)?
            .status
            .context("a status without content")
    }

    /// Makes a container in a pod, and answers its id.
    pub fn create(&self, sandbox: &str, pod: &SandboxConfig, config: &ContainerConfig) -> Result<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(config.clone()),
            sandbox_config: Some(pod.clone()),
        };
        self.runtime::<_, ContainerId>("CreateContainer", &request).map(|answer| answer.container_id)
    }

    /// Starts a container.
    pub fn start(&self, container: &str) -> Result<()> {
        self.runtime::<_, Empty>("StartContainer", &ContainerId { container_id: container.into() }).map(drop)
    }

    /// Stops a container, with SIGKILL after `grace`.
    pub fn stop(&self, container: &str, grace: Duration) -> Result<()> {
        let timeout = i64::try_from(grace.as_secs())?;
        let request = StopContainerRequest { container_id: container.into(), timeout };
        self.runtime::<_, Empty>("StopContainer", &request).map(drop)
    }

    /// Removes a container.
    pub fn remove(&self, container: &str) -> Result<()> {
        self.runtime::<_, Empty>("RemoveContainer", &ContainerId { container_id: container.into() }).map(drop)
    }

    /// How a container is.
    pub fn status(&self, container: &str) -> Result<ContainerStatus> {
        let request = ContainerId { container_id: container.into() };
        self.runtime::<_, ContainerStatusResponse>("ContainerStatus", &request)?
            .status
            .context("a status without content")
    }

    /// Runs a command in a container to its end; without a `limit` it may take as long as a call may.
    pub fn exec(
        &self,
        container: &str,
        command: &[&str],
        limit: Option<Duration>,
    ) -> Result<ExecSyncResponse> {
        let timeout = limit.map_or(Ok(0), |limit| i64::try_from(limit.as_secs()))?;
        let cmd = command.iter().map(|&word| word.to_owned()).collect();
        self.runtime("ExecSync", &ExecSyncRequest { container_id: container.into(), cmd, timeout })
    }

    /// What a container uses.
    pub fn stats(&self, container: &str) -> Result<ContainerStats> {
        let request = ContainerId { container_id: container.into() };
        self.runtime::<_, ContainerStatsResponse>("ContainerStats", &request)?.stats.context("no statistics")
    }

    /// Changes a container's limits.
    pub fn update(&self, container: &str, limits: Resources) -> Result<()> {
        let request = UpdateResourcesRequest { container_id: container.into(), linux: Some(limits) };
        self.runtime::<_, Empty>("UpdateContainerResources", &request).map(drop)
    }

    /// Where a command can be run with its streams.
    pub fn exec_url(&self, request: &ExecRequest) -> Result<String> {
        self.runtime::<_, Url>("Exec", request).map(|answer| answer.url)
    }

    /// Where a container's own streams are.
    pub fn attach_url(&self, request: &AttachRequest) -> Result<String> {
        self.runtime::<_, Url>("Attach", request).map(|answer| answer.url)
    }

    /// Where a pod's port is.
    pub fn forward_url(&self, sandbox: &str, port: u16) -> Result<String> {
        let request = PortForwardRequest { pod_sandbox_id: sandbox.into(), port: vec![i32::from(port)] };
        self.runtime::<_, Url>("PortForward", &request).map(|answer| answer.url)
    }

    fn runtime<Q: Message, A: Message + Default>(&self, method: &str, request: &Q) -> Result<A> {
        call(&self.socket, &format!("/runtime.v1.RuntimeService/{method}"), request, self.limit)
            .with_context(|| format!("{method} failed"))
    }
}
