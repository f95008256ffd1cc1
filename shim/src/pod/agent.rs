//! The agent in the guest, as the shim calls it: every call with a limit and in our own words.

use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coffer_protocol::PROTOCOL_VERSION;
use coffer_protocol::agent::{self, ProcessRef, ProcessStatus, Streams};
use protobuf::MessageField;
use tokio::net::UnixStream;
use ttrpc::asynchronous::Client;
use ttrpc::asynchronous::transport::Socket;
use ttrpc::context::{self, Context};

use super::error::{PodError, Reason};
use super::{Exit, ProcessKey};

#[allow(missing_docs, unreachable_pub, dead_code, unused_imports, clippy::all)] // Generated.
mod stubs {
    use coffer_protocol::agent;
    pub(super) mod client {
        include!(concat!(env!("OUT_DIR"), "/agent_ttrpc.rs"));
    }
}

use stubs::client::AgentClient;

/// For calls that only touch the agent's own state or one system call.
const QUICK: Duration = Duration::from_secs(10);

/// For calls that mount, fork or unmount.
const SLOW: Duration = Duration::from_secs(60);

/// For what is only nice to know.
const BRIEF: Duration = Duration::from_secs(2);

/// For the last words to a guest that is going to be killed anyway.
const LAST: Duration = Duration::from_secs(1);

/// A connection to the agent; clones share it.
#[derive(Clone)]
pub(crate) struct Agent {
    client: AgentClient,
}

impl Agent {
    /// Speaks ttrpc over a connected stream.
    pub(crate) fn over(stream: UnixStream) -> Self {
        Self { client: AgentClient::new(Client::new(Socket::new(stream))) }
    }

    /// The first call: agrees on the protocol and sets the guest's clock.
    pub(crate) async fn hello(
        &self,
        trace_id: &str,
        limit: Duration,
    ) -> Result<agent::HelloResponse, PodError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let request = agent::HelloRequest {
            protocol: PROTOCOL_VERSION,
            trace_id: trace_id.to_owned(),
            now_unix_nanos: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            ..Default::default()
        };
        let doing = "greeting the agent";
        let hello = call(doing, limit, self.client.hello(within(limit), &request)).await?;
        if hello.protocol.abs_diff(PROTOCOL_VERSION) > 1 {
            let what = format!(
                "the guest's agent speaks protocol {}, this shim {PROTOCOL_VERSION}: install guest image and shim of one release",
                hello.protocol
            );
            return Err(PodError::Refused { what });
        }
        Ok(hello)
    }

    /// Sets the sandbox up.
    pub(crate) async fn create_sandbox(&self, request: &agent::CreateSandboxRequest) -> Result<(), PodError> {
        call("setting the sandbox up", SLOW, self.client.create_sandbox(within(SLOW), request))
            .await
            .map(drop)
    }

    /// Has a container's image judged.
    pub(crate) async fn admit_image(
        &self,
        request: &agent::AdmitImageRequest,
    ) -> Result<agent::AdmitImageResponse, PodError> {
        call("judging the container's image", SLOW, self.client.admit_image(within(SLOW), request)).await
    }

    /// Makes a container, its init process waiting.
    pub(crate) async fn create_container(
        &self,
        request: &agent::CreateContainerRequest,
    ) -> Result<(), PodError> {
        call("creating the container", SLOW, self.client.create_container(within(SLOW), request))
            .await
            .map(drop)
    }

    /// Adds a process to a container.
    pub(crate) async fn exec(&self, request: &agent::ExecProcessRequest) -> Result<(), PodError> {
        call("adding the process", QUICK, self.client.exec_process(within(QUICK), request)).await.map(drop)
    }

    /// Lets a process go.
    pub(crate) async fn start(&self, key: &ProcessKey) -> Result<(), PodError> {
        call("starting the process", SLOW, self.client.start_process(within(SLOW), &process(key)))
            .await
            .map(drop)
    }

    /// Sends a signal.
    pub(crate) async fn signal(&self, key: &ProcessKey, signal: u32, all: bool) -> Result<(), PodError> {
        let request = agent::SignalProcessRequest {
            container_id: key.container.clone(),
            exec_id: key.exec.clone().unwrap_or_default(),
            signal,
            all,
            ..Default::default()
        };
        call("signalling the process", QUICK, self.client.signal_process(within(QUICK), &request))
            .await
            .map(drop)
    }

    /// Returns when the process has ended; the only call without a limit.
    pub(crate) async fn wait(&self, key: &ProcessKey) -> Result<Ended, PodError> {
        let status = self.client.wait_process(Context::default(), &process(key)).await;
        status.map(|status| ended(&status)).map_err(|err| failure("waiting for the process", QUICK, err))
    }

    /// Forgets a process; the init process takes its container along.
    pub(crate) async fn delete(&self, key: &ProcessKey) -> Result<Ended, PodError> {
        let status =
            call("deleting the process", QUICK, self.client.delete_process(within(QUICK), &process(key)))
                .await?;
        Ok(ended(&status))
    }

    /// Changes a terminal's size.
    pub(crate) async fn resize(&self, key: &ProcessKey, width: u32, height: u32) -> Result<(), PodError> {
        let request = agent::ResizePtyRequest {
            container_id: key.container.clone(),
            exec_id: key.exec.clone().unwrap_or_default(),
            width,
            height,
            ..Default::default()
        };
        call("resizing the terminal", QUICK, self.client.resize_pty(within(QUICK), &request)).await.map(drop)
    }

    /// Freezes a container.
    pub(crate) async fn pause(&self, id: &str) -> Result<(), PodError> {
        call("pausing the container", QUICK, self.client.pause_container(within(QUICK), &container(id)))
            .await
            .map(drop)
    }

    /// Thaws a container.
    pub(crate) async fn resume(&self, id: &str) -> Result<(), PodError> {
        call("resuming the container", QUICK, self.client.resume_container(within(QUICK), &container(id)))
            .await
            .map(drop)
    }

    /// Changes a container's limits, given as OCI `linux.resources` in JSON.
    pub(crate) async fn update(&self, id: &str, resources: Vec<u8>) -> Result<(), PodError> {
        let request =
            agent::UpdateContainerRequest { container_id: id.to_owned(), resources, ..Default::default() };
        call("updating the container", QUICK, self.client.update_container(within(QUICK), &request))
            .await
            .map(drop)
    }

    /// A container's cgroup counters.
    pub(crate) async fn stats(&self, id: &str) -> Result<agent::Stats, PodError> {
        call(
            "reading the container's statistics",
            QUICK,
            self.client.container_stats(within(QUICK), &container(id)),
        )
        .await
    }

    /// Events after `after`; waits up to `wait` for one.
    pub(crate) async fn events(&self, after: u64, wait: Duration) -> Result<Vec<agent::Event>, PodError> {
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let request = agent::EventsRequest { after, wait_ms, ..Default::default() };
        let limit = wait + QUICK;
        let response = call("awaiting events", limit, self.client.events(within(limit), &request)).await?;
        Ok(response.events)
    }

    /// The agent's own resources.
    pub(crate) async fn resources(&self) -> Result<agent::AgentStatsResponse, PodError> {
        let request = agent::Empty::new();
        call("asking for the agent's resources", BRIEF, self.client.agent_stats(within(BRIEF), &request))
            .await
    }

    /// Makes a volume.
    pub(crate) async fn add_volume(&self, volume: &agent::Volume) -> Result<(), PodError> {
        call("adding a volume", SLOW, self.client.add_volume(within(SLOW), volume)).await.map(drop)
    }

    /// Removes a volume.
    pub(crate) async fn remove_volume(&self, id: &str) -> Result<(), PodError> {
        let request = agent::VolumeRef { id: id.to_owned(), ..Default::default() };
        call("removing a volume", QUICK, self.client.remove_volume(within(QUICK), &request)).await.map(drop)
    }

    /// Sends a part of a volume's contents.
    pub(crate) async fn sync_volume(&self, part: &agent::SyncVolumeRequest) -> Result<(), PodError> {
        call("updating a volume", SLOW, self.client.sync_volume(within(SLOW), part)).await.map(drop)
    }

    /// Reads a file of a volume.
    pub(crate) async fn read_volume_file(
        &self,
        file: &agent::ReadVolumeFileRequest,
    ) -> Result<Vec<u8>, PodError> {
        let answer =
            call("reading a volume's file", QUICK, self.client.read_volume_file(within(QUICK), file));
        Ok(answer.await?.data)
    }

    /// Syncs and powers the guest off; the answer may never come.
    pub(crate) async fn shut_down(&self) {
        let request = agent::Empty::new();
        let _ = tokio::time::timeout(LAST, self.client.shutdown(within(LAST), &request)).await;
    }
}

/// How a process ended, with what only the guest knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Status and time.
    pub(crate) exit: Exit,
    /// Whether the kernel killed it for lack of memory.
    pub(crate) oom: bool,
}

/// What the agent is told about a process's descriptors.
pub(crate) fn streams(present: (bool, bool, bool), terminal: bool) -> MessageField<Streams> {
    let (stdin, stdout, stderr) = present;
    MessageField::some(Streams { stdin, stdout, stderr, terminal, ..Default::default() })
}

fn process(key: &ProcessKey) -> ProcessRef {
    let exec_id = key.exec.clone().unwrap_or_default();
    ProcessRef { container_id: key.container.clone(), exec_id, ..Default::default() }
}

fn container(id: &str) -> agent::ContainerRef {
    agent::ContainerRef { container_id: id.to_owned(), ..Default::default() }
}

fn ended(status: &ProcessStatus) -> Ended {
    let nanos = Duration::from_nanos(status.exited_unix_nanos);
    let at = if nanos.is_zero() { SystemTime::now() } else { UNIX_EPOCH + nanos };
    Ended { exit: Exit { status: status.exit_status, at }, oom: status.oom_killed }
}

fn within(limit: Duration) -> Context {
    context::with_duration(limit)
}

async fn call<T>(
    doing: &'static str,
    limit: Duration,
    reply: impl Future<Output = ttrpc::Result<T>>,
) -> Result<T, PodError> {
    match tokio::time::timeout(limit, reply).await {
        Ok(answer) => answer.map_err(|err| failure(doing, limit, err)),
        Err(_) => Err(PodError::Late { doing, limit }),
    }
}

fn failure(doing: &'static str, limit: Duration, error: ttrpc::Error) -> PodError {
    use ttrpc::Code;
    let ttrpc::Error::RpcStatus(status) = error else {
        return PodError::GuestGone { doing, console: String::new() };
    };
    let reason = match status.code() {
        Code::NOT_FOUND => Reason::NotFound,
        Code::ALREADY_EXISTS => Reason::AlreadyExists,
        Code::FAILED_PRECONDITION => Reason::FailedPrecondition,
        Code::INVALID_ARGUMENT | Code::OUT_OF_RANGE => Reason::InvalidArgument,
        Code::UNIMPLEMENTED => Reason::Unimplemented,
        Code::DEADLINE_EXCEEDED => return PodError::Late { doing, limit },
        Code::PERMISSION_DENIED => Reason::PermissionDenied,
        Code::UNAVAILABLE => Reason::Unavailable,
        _ => Reason::Unknown,
    };
    PodError::Agent { doing, reason, message: status.message().to_owned() }
}
