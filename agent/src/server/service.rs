//! One method for each call.

use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use coffer_protocol::agent::{
    AdmitImageRequest, AdmitImageResponse, AgentStatsResponse, ContainerRef, CreateContainerRequest,
    CreateSandboxRequest, Empty, EventsRequest, EventsResponse, ExecProcessRequest, HelloRequest,
    HelloResponse, ListPidsResponse, NetworkConfig, ProcessRef, ProcessStatus, ReadVolumeFileRequest,
    ReadVolumeFileResponse, ResizePtyRequest, SignalProcessRequest, Stats, SyncVolumeRequest,
    UpdateContainerRequest, Volume, VolumeRef,
};
use coffer_protocol::{PROTOCOL_VERSION, agent};
use ttrpc::r#async::TtrpcContext;

use super::stubs::wire;
use super::{answers, requests};
use crate::boot::{clock, reset};
use crate::pod::{Pod, PodError, usage};

/// Between the answer to Shutdown and the end, so that the answer can leave the guest.
const LAST_WORDS: Duration = Duration::from_millis(20);

/// When what began, in nanoseconds since boot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) init_started: u64,
    pub(super) agent_ready: u64,
}

/// Answers calls for a pod.
pub(super) struct AgentService {
    pod: Pod,
    times: Times,
}

impl AgentService {
    /// A service for `pod`.
    pub(super) fn new(pod: Pod, times: Times) -> Self {
        AgentService { pod, times }
    }
}

/// Runs a change to its end, whatever becomes of the call.
async fn whole<T: Send + 'static>(
    what: &'static str,
    change: impl Future<Output = Result<T, PodError>> + Send + 'static,
) -> Result<T, PodError> {
    match tokio::spawn(change).await {
        Ok(done) => done,
        Err(_) => Err(PodError::CutOff { what }),
    }
}

type Answer<T> = ttrpc::Result<T>;

#[async_trait]
impl wire::Agent for AgentService {
    async fn hello(&self, _: &TtrpcContext, request: HelloRequest) -> Answer<HelloResponse> {
        let expected = "a version next to the agent's at most";
        if request.protocol.abs_diff(PROTOCOL_VERSION) > 1 {
            let value = format!("{}, the agent has {PROTOCOL_VERSION}", request.protocol);
            return Err(PodError::Field { field: "protocol", value, expected }.into());
        }
        if request.now_unix_nanos > 0
            && let Err(errno) = clock::set_unix_nanos(request.now_unix_nanos)
        {
            tracing::warn!(%errno, "the clock keeps its time");
        }
        tracing::info!(trace = request.trace_id, "hello");
        Ok(HelloResponse {
            protocol: PROTOCOL_VERSION,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel_release: rustix::system::uname().release().to_string_lossy().into_owned(),
            init_started_nanos: self.times.init_started,
            agent_ready_nanos: self.times.agent_ready,
            ..Default::default()
        })
    }

    async fn create_sandbox(&self, _: &TtrpcContext, request: CreateSandboxRequest) -> Answer<Empty> {
        let share_pids = request.share_pid_namespace;
        let settings = requests::settings(request)?;
        let pod = self.pod.clone();
        whole("CreateSandbox", async move { pod.prepare(&settings, share_pids).await }).await?;
        Ok(Empty::new())
    }

    async fn configure_network(&self, _: &TtrpcContext, request: NetworkConfig) -> Answer<Empty> {
        self.pod.configure_network(&requests::network(request)?)?;
        Ok(Empty::new())
    }

    async fn add_volume(&self, _: &TtrpcContext, request: Volume) -> Answer<Empty> {
        // A volume may lie on the scratch space, which the sandbox mounts.
        self.pod.ready()?;
        let added = self.pod.volumes().add(request).await;
        added.map_err(PodError::volume)?;
        Ok(Empty::new())
    }

    async fn remove_volume(&self, _: &TtrpcContext, request: VolumeRef) -> Answer<Empty> {
        let removed = self.pod.volumes().remove(&request.id).await;
        removed.map_err(PodError::volume)?;
        Ok(Empty::new())
    }

    async fn sync_volume(&self, _: &TtrpcContext, request: SyncVolumeRequest) -> Answer<Empty> {
        let synced = self.pod.volumes().sync(request).await;
        synced.map_err(PodError::volume)?;
        Ok(Empty::new())
    }

    async fn read_volume_file(
        &self,
        _: &TtrpcContext,
        request: ReadVolumeFileRequest,
    ) -> Answer<ReadVolumeFileResponse> {
        let read = self.pod.volumes().read_file(&request.id, &request.path, request.max_bytes).await;
        let data = read.map_err(PodError::volume)?;
        Ok(ReadVolumeFileResponse { data, ..Default::default() })
    }

    async fn admit_image(&self, _: &TtrpcContext, request: AdmitImageRequest) -> Answer<AdmitImageResponse> {
        let (container, claim) = requests::claim(request);
        let pod = self.pod.clone();
        let admitted = whole("AdmitImage", async move { pod.admit(&container, claim).await }).await?;
        Ok(answers::admitted(admitted))
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: CreateContainerRequest,
    ) -> Answer<ProcessStatus> {
        let (new, pod) = (requests::container(request)?, self.pod.clone());
        let status = whole("CreateContainer", async move { pod.create(new).await }).await?;
        Ok(answers::status(status))
    }

    async fn exec_process(&self, _: &TtrpcContext, request: ExecProcessRequest) -> Answer<Empty> {
        let (new, pod) = (requests::exec(request)?, self.pod.clone());
        whole("ExecProcess", async move { pod.exec(new).await }).await?;
        Ok(Empty::new())
    }

    async fn start_process(&self, _: &TtrpcContext, request: ProcessRef) -> Answer<ProcessStatus> {
        let (id, pod) = (requests::process(request), self.pod.clone());
        let status = whole("StartProcess", async move { pod.start(&id).await }).await?;
        Ok(answers::status(status))
    }

    async fn signal_process(&self, _: &TtrpcContext, request: SignalProcessRequest) -> Answer<Empty> {
        let signal = requests::signal(request.signal)?;
        let all = request.all;
        self.pod.signal(&requests::id(request.container_id, request.exec_id), signal, all)?;
        Ok(Empty::new())
    }

    async fn wait_process(&self, _: &TtrpcContext, request: ProcessRef) -> Answer<ProcessStatus> {
        Ok(answers::status(self.pod.wait(&requests::process(request)).await?))
    }

    async fn process_state(&self, _: &TtrpcContext, request: ProcessRef) -> Answer<ProcessStatus> {
        Ok(answers::status(self.pod.state(&requests::process(request))?))
    }

    async fn delete_process(&self, _: &TtrpcContext, request: ProcessRef) -> Answer<ProcessStatus> {
        let (id, pod) = (requests::process(request), self.pod.clone());
        let status = whole("DeleteProcess", async move { pod.delete(&id).await }).await?;
        Ok(answers::status(status))
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> Answer<Empty> {
        let size = requests::size(request.width, request.height)?;
        self.pod.resize(&requests::id(request.container_id, request.exec_id), size)?;
        Ok(Empty::new())
    }

    async fn close_stdin(&self, _: &TtrpcContext, request: ProcessRef) -> Answer<Empty> {
        self.pod.close_stdin(&requests::process(request))?;
        Ok(Empty::new())
    }

    async fn pause_container(&self, _: &TtrpcContext, request: ContainerRef) -> Answer<Empty> {
        let pod = self.pod.clone();
        whole("PauseContainer", async move { pod.freeze(&request.container_id, true).await }).await?;
        Ok(Empty::new())
    }

    async fn resume_container(&self, _: &TtrpcContext, request: ContainerRef) -> Answer<Empty> {
        let pod = self.pod.clone();
        whole("ResumeContainer", async move { pod.freeze(&request.container_id, false).await }).await?;
        Ok(Empty::new())
    }

    async fn update_container(&self, _: &TtrpcContext, request: UpdateContainerRequest) -> Answer<Empty> {
        let pod = self.pod.clone();
        let update = async move { pod.update(&request.container_id, &request.resources).await };
        whole("UpdateContainer", update).await?;
        Ok(Empty::new())
    }

    async fn list_pids(&self, _: &TtrpcContext, request: ContainerRef) -> Answer<ListPidsResponse> {
        let pids = self.pod.pids(&request.container_id)?;
        Ok(ListPidsResponse { pids, ..Default::default() })
    }

    async fn container_stats(&self, _: &TtrpcContext, request: ContainerRef) -> Answer<Stats> {
        Ok(self.pod.stats(&request.container_id)?)
    }

    async fn events(&self, _: &TtrpcContext, request: EventsRequest) -> Answer<EventsResponse> {
        let patience = Duration::from_millis(request.wait_ms.into());
        let events = self.pod.events().after(request.after, patience).await;
        let events: Vec<agent::Event> = events.into_iter().map(answers::event).collect();
        Ok(EventsResponse { events, ..Default::default() })
    }

    async fn agent_stats(&self, _: &TtrpcContext, _: Empty) -> Answer<AgentStatsResponse> {
        Ok(answers::usage(usage()))
    }

    async fn shutdown(&self, _: &TtrpcContext, _: Empty) -> Answer<Empty> {
        let pod = self.pod.clone();
        let end = async move {
            pod.end().await;
            tokio::spawn(async {
                tokio::time::sleep(LAST_WORDS).await;
                reset::give_up("shut down as asked");
            });
            Ok(())
        };
        whole("Shutdown", end).await?;
        Ok(Empty::new())
    }
}
