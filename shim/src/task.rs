//! containerd's Task API, versions 2 and 3, over the pod: the door where containerd's types become ours.
//!
//! Every answer's status code is part of the contract, because containerd decides by it whether a container is gone.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use coffer_node::layers::RootfsMount;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest,
    PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest,
    StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse, Status, UpdateTaskRequest,
    WaitRequest, WaitResponse,
};
use containerd_shim_protos::shim_async::Task;
use protobuf::MessageField;
use protobuf::well_known_types::timestamp::Timestamp;
use ttrpc::Code;
use ttrpc::asynchronous::TtrpcContext;
use ttrpc::error::get_rpc_status;

use crate::event::{Exit, ProcessKey};
use crate::options::config_path;
use crate::pod::{CreateRequest, ExecRequest, Pod, PodError, Process, Reason, View, chain};
use crate::stats;
use crate::stdio::StdioPaths;

/// The Task service of one pod.
pub(crate) struct TaskService {
    pod: Arc<Pod>,
}

impl TaskService {
    /// Serves a pod.
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        Self { pod }
    }

    /// Counts a call and puts its error in containerd's terms.
    async fn ran<T>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<T, PodError>> + Send,
    ) -> ttrpc::Result<T> {
        let began = Instant::now();
        let outcome = work.await;
        let code = outcome.as_ref().map_or_else(|err| err.reason().name(), |_| "ok");
        self.pod.metrics().call(call, code, began.elapsed());
        if let Err(err) = &outcome {
            tracing::info!(call, code, error = chain(err), "a call has failed");
        }
        outcome.map_err(status)
    }
}

#[async_trait]
impl Task for TaskService {
    async fn create(&self, _: &TtrpcContext, req: CreateTaskRequest) -> ttrpc::Result<CreateTaskResponse> {
        if !req.checkpoint.is_empty() || !req.parent_checkpoint.is_empty() {
            return Err(get_rpc_status(
                Code::UNIMPLEMENTED,
                "a container cannot be restored from a checkpoint",
            ));
        }
        let request = CreateRequest {
            bundle: req.bundle.into(),
            rootfs: req.rootfs.into_iter().map(rootfs_mount).collect(),
            stdio: stdio(req.stdin, req.stdout, req.stderr, req.terminal),
            config_path: req.options.as_ref().and_then(config_path),
            id: req.id,
        };
        let pid = self.ran("Create", self.pod.create(request)).await?;
        Ok(CreateTaskResponse { pid, ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, req: StartRequest) -> ttrpc::Result<StartResponse> {
        let pid = self.ran("Start", self.pod.start(ProcessKey::new(&req.id, &req.exec_id))).await?;
        Ok(StartResponse { pid, ..Default::default() })
    }

    async fn delete(&self, _: &TtrpcContext, req: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        let (pid, exit) = self.ran("Delete", self.pod.delete(ProcessKey::new(&req.id, &req.exec_id))).await?;
        Ok(DeleteResponse {
            pid,
            exit_status: exit.status,
            exited_at: exited_at(Some(exit)),
            ..Default::default()
        })
    }

    async fn exec(&self, _: &TtrpcContext, req: ExecProcessRequest) -> ttrpc::Result<Empty> {
        if req.exec_id.is_empty() {
            return Err(get_rpc_status(Code::INVALID_ARGUMENT, "an exec needs an id"));
        }
        let request = ExecRequest {
            id: req.id,
            exec: req.exec_id,
            process: req.spec.into_option().map(|any| any.value).unwrap_or_default(),
            stdio: stdio(req.stdin, req.stdout, req.stderr, req.terminal),
        };
        self.ran("Exec", self.pod.exec(request)).await.map(|()| Empty::new())
    }

    async fn resize_pty(&self, _: &TtrpcContext, req: ResizePtyRequest) -> ttrpc::Result<Empty> {
        let key = ProcessKey::new(&req.id, &req.exec_id);
        self.ran("ResizePty", self.pod.resize(&key, req.width, req.height)).await.map(|()| Empty::new())
    }

    async fn state(&self, _: &TtrpcContext, req: StateRequest) -> ttrpc::Result<StateResponse> {
        let view = self.pod.state(&ProcessKey::new(&req.id, &req.exec_id)).map_err(status)?;
        Ok(state_response(req, view))
    }

    async fn pause(&self, _: &TtrpcContext, req: PauseRequest) -> ttrpc::Result<Empty> {
        self.ran("Pause", self.pod.pause(&req.id)).await.map(|()| Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, req: ResumeRequest) -> ttrpc::Result<Empty> {
        self.ran("Resume", self.pod.resume(&req.id)).await.map(|()| Empty::new())
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        Err(get_rpc_status(Code::UNIMPLEMENTED, "a container in a virtual machine cannot be checkpointed"))
    }

    async fn kill(&self, _: &TtrpcContext, req: KillRequest) -> ttrpc::Result<Empty> {
        let key = ProcessKey::new(&req.id, &req.exec_id);
        self.ran("Kill", self.pod.kill(key, req.signal, req.all)).await.map(|()| Empty::new())
    }

    async fn pids(&self, _: &TtrpcContext, req: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let pids = self.pod.pids(&req.id).map_err(status)?;
        let processes = pids.into_iter().map(|pid| ProcessInfo { pid, ..Default::default() }).collect();
        Ok(PidsResponse { processes, ..Default::default() })
    }

    async fn close_io(&self, _: &TtrpcContext, req: CloseIORequest) -> ttrpc::Result<Empty> {
        let key = ProcessKey::new(&req.id, &req.exec_id);
        if req.stdin {
            self.pod.close_input(&key).map_err(status)?;
        } else {
            self.pod.state(&key).map_err(status)?;
        }
        Ok(Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, req: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let resources = req.resources.into_option().map(|any| any.value).unwrap_or_default();
        self.ran("Update", self.pod.update(&req.id, &resources)).await.map(|()| Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, req: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let exit = self.ran("Wait", self.pod.wait(&ProcessKey::new(&req.id, &req.exec_id))).await?;
        Ok(WaitResponse { exit_status: exit.status, exited_at: exited_at(Some(exit)), ..Default::default() })
    }

    async fn stats(&self, _: &TtrpcContext, req: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let stats = self.ran("Stats", self.pod.stats(&req.id)).await?;
        let any = stats::metrics(stats).map_err(|err| get_rpc_status(Code::INTERNAL, err))?;
        Ok(StatsResponse { stats: MessageField::some(any), ..Default::default() })
    }

    async fn connect(&self, _: &TtrpcContext, req: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: self.pod.task_pid(&req.id),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        self.pod.shut_down().await;
        Ok(Empty::new())
    }
}

fn rootfs_mount(mount: containerd_shim_protos::api::Mount) -> RootfsMount {
    RootfsMount { fs_type: mount.type_, source: mount.source, options: mount.options }
}

fn stdio(stdin: String, stdout: String, stderr: String, terminal: bool) -> StdioPaths {
    let stderr = if terminal { String::new() } else { stderr };
    StdioPaths { stdin, stdout, stderr, terminal }
}

fn state_response(req: StateRequest, view: View) -> StateResponse {
    let exit = view.state.exit();
    StateResponse {
        id: req.id,
        exec_id: req.exec_id,
        bundle: view.bundle.display().to_string(),
        pid: view.pid,
        status: task_status(view.state).into(),
        stdin: view.stdio.stdin,
        stdout: view.stdio.stdout,
        stderr: view.stdio.stderr,
        terminal: view.stdio.terminal,
        exit_status: exit.map(|exit| exit.status).unwrap_or_default(),
        exited_at: exited_at(exit),
        ..Default::default()
    }
}

fn task_status(state: Process) -> Status {
    match state {
        Process::Creating | Process::Created | Process::Starting => Status::CREATED,
        Process::Running => Status::RUNNING,
        Process::Paused => Status::PAUSED,
        Process::EndedEarly(_) | Process::Stopped(_) => Status::STOPPED,
    }
}

fn exited_at(exit: Option<Exit>) -> MessageField<Timestamp> {
    exit.map(|exit| Timestamp::from(exit.at)).into()
}

/// An error in containerd's terms: a code that it acts on, and the whole chain of causes for people.
fn status(error: PodError) -> ttrpc::Error {
    let code = match error.reason() {
        Reason::NotFound => Code::NOT_FOUND,
        Reason::AlreadyExists => Code::ALREADY_EXISTS,
        Reason::FailedPrecondition => Code::FAILED_PRECONDITION,
        Reason::InvalidArgument => Code::INVALID_ARGUMENT,
        Reason::Unimplemented => Code::UNIMPLEMENTED,
        Reason::DeadlineExceeded => Code::DEADLINE_EXCEEDED,
        Reason::Unavailable => Code::UNAVAILABLE,
        Reason::PermissionDenied => Code::PERMISSION_DENIED,
        Reason::Cancelled => Code::CANCELLED,
        Reason::Unknown => Code::UNKNOWN,
    };
    get_rpc_status(code, chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::PodSetup;
    use crate::publisher::Publisher;

    /// The service of a pod that has nothing yet.
    fn service() -> TaskService {
        let setup = PodSetup {
            namespace: "n".to_owned(),
            pod: "p".to_owned(),
            address: String::new(),
            containerd: String::new(),
            trace_id: String::new(),
            config_path: None,
        };
        let (publisher, _delivery) = Publisher::new("n", None);
        TaskService::new(Pod::new(setup, publisher))
    }

    fn code<T>(outcome: ttrpc::Result<T>) -> Code {
        match outcome {
            Ok(_) => Code::OK,
            Err(ttrpc::Error::RpcStatus(status)) => status.code(),
            Err(_) => Code::UNKNOWN,
        }
    }

    fn id() -> String {
        "nobody".to_owned()
    }

    #[tokio::test]
    async fn every_call_on_an_unknown_container_is_not_found() {
        let (service, ctx) = (service(), TtrpcContext::default());
        let codes = [
            code(service.state(&ctx, StateRequest { id: id(), ..Default::default() }).await),
            code(service.start(&ctx, StartRequest { id: id(), ..Default::default() }).await),
            code(service.delete(&ctx, DeleteRequest { id: id(), ..Default::default() }).await),
            code(service.pids(&ctx, PidsRequest { id: id(), ..Default::default() }).await),
            code(service.pause(&ctx, PauseRequest { id: id(), ..Default::default() }).await),
            code(service.resume(&ctx, ResumeRequest { id: id(), ..Default::default() }).await),
            code(service.kill(&ctx, KillRequest { id: id(), signal: 9, ..Default::default() }).await),
            code(
                service
                    .exec(&ctx, ExecProcessRequest { id: id(), exec_id: id(), ..Default::default() })
                    .await,
            ),
            code(service.resize_pty(&ctx, ResizePtyRequest { id: id(), ..Default::default() }).await),
            code(
                service.close_io(&ctx, CloseIORequest { id: id(), stdin: true, ..Default::default() }).await,
            ),
            code(service.update(&ctx, UpdateTaskRequest { id: id(), ..Default::default() }).await),
            code(service.wait(&ctx, WaitRequest { id: id(), ..Default::default() }).await),
            code(service.stats(&ctx, StatsRequest { id: id(), ..Default::default() }).await),
        ];
        assert_eq!(codes, [Code::NOT_FOUND; 13]);
    }

    #[tokio::test]
    async fn a_checkpoint_is_unimplemented() {
        let outcome = service().checkpoint(&TtrpcContext::default(), CheckpointTaskRequest::default()).await;
        assert_eq!(code(outcome), Code::UNIMPLEMENTED);
    }

    #[tokio::test]
    async fn connecting_tells_the_shims_pid_though_there_is_no_container() {
        let request = ConnectRequest { id: id(), ..Default::default() };
        let response = service().connect(&TtrpcContext::default(), request).await.unwrap();
        assert_eq!((response.shim_pid, response.task_pid), (std::process::id(), 0));
    }

    #[tokio::test]
    async fn a_bundle_without_a_specification_is_an_invalid_argument() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().display().to_string();
        let request = CreateTaskRequest { id: "p".to_owned(), bundle, ..Default::default() };
        assert_eq!(code(service().create(&TtrpcContext::default(), request).await), Code::INVALID_ARGUMENT);
    }

    #[tokio::test]
    async fn a_container_of_another_pod_is_an_invalid_argument() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        let bundle = dir.path().display().to_string();
        let request = CreateTaskRequest { id: "other".to_owned(), bundle, ..Default::default() };
        assert_eq!(code(service().create(&TtrpcContext::default(), request).await), Code::INVALID_ARGUMENT);
    }

    #[tokio::test]
    async fn shutting_an_empty_pod_down_ends_the_shim() {
        let service = service();
        service.shutdown(&TtrpcContext::default(), ShutdownRequest::default()).await.unwrap();
        service.pod.left().await;
    }
}
