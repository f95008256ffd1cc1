//! Events to containerd: an unbounded, ordered queue over ttrpc, kept through containerd's absence.
//!
//! ```text
//! publish() ── queue ── Forward(Envelope) ── acknowledged ── next
//!                          │ socket gone ── reconnect, the same event again, for as long as it takes
//!                          └ refused     ── five tries, then it is dropped and logged
//! ```
//! Publishing never waits, and nothing else waits for it but the end of the process, for a bounded time.

use std::path::Path;
use std::time::Duration;

use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::events::container::ContainerUpdate;
use containerd_shim_protos::events::task as event;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use containerd_shim_protos::topics;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message, MessageField};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::event::{Event, Exit, ProcessKey};
use crate::stdio::StdioPaths;

/// How long containerd may take to acknowledge one event.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The topic of [`Event::CreateFailed`], which containerd has no topic for.
const CREATE_FAILED: &str = "/coffer/create-failed";

/// The topic of [`Event::MachineEnded`].
const MACHINE_ENDED: &str = "/coffer/machine-ended";

/// The longest text of an event, in characters.
const MAX_TEXT: usize = 2000;

/// Tries for an event that containerd answers with an error.
const MAX_REFUSALS: u32 = 5;

/// Where events are put; clones share the queue.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    queue: mpsc::UnboundedSender<Queued>,
    namespace: String,
}

/// The queue's other end, which [`Delivery::run`] empties.
pub(crate) struct Delivery {
    queue: mpsc::UnboundedReceiver<Queued>,
    address: Option<String>,
    client: Option<EventsClient>,
}

#[derive(Debug)]
enum Queued {
    Event(Box<Envelope>),
    /// Answered when everything before it is delivered.
    Flush(tokio::sync::oneshot::Sender<()>),
}

impl Publisher {
    /// A publisher for `namespace` to containerd's ttrpc socket `address`; without one, events are dropped.
    pub(crate) fn new(namespace: &str, address: Option<String>) -> (Self, Delivery) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let address = address
            .filter(|a| !a.is_empty())
            .map(|a| if a.starts_with("unix://") { a } else { format!("unix://{a}") });
        let publisher = Self { queue: sender, namespace: namespace.to_owned() };
        (publisher, Delivery { queue: receiver, address, client: None })
    }

    /// Queues an event.
    pub(crate) fn publish(&self, event: Event) {
        match encode(event) {
            Ok((topic, body)) => {
                let envelope = Envelope {
                    timestamp: MessageField::some(Timestamp::now()),
                    namespace: self.namespace.clone(),
                    topic: topic.to_owned(),
                    event: MessageField::some(body),
                    ..Default::default()
                };
                // The receiver is gone only when the process ends.
                let _ = self.queue.send(Queued::Event(Box::new(envelope)));
            }
            Err(err) => tracing::error!(error = %err, "an event cannot be encoded"),
        }
    }

    /// Waits until everything queued so far is delivered, at most for `limit`.
    pub(crate) async fn flush(&self, limit: Duration) -> bool {
        let (done, wait) = tokio::sync::oneshot::channel();
        if self.queue.send(Queued::Flush(done)).is_err() {
            return false;
        }
        matches!(timeout(limit, wait).await, Ok(Ok(())))
    }
}

impl Delivery {
    /// Delivers events until every publisher is gone.
    pub(crate) async fn run(mut self) {
        while let Some(queued) = self.queue.recv().await {
            match queued {
                Queued::Event(envelope) => self.deliver(*envelope).await,
                Queued::Flush(done) => {
                    let _ = done.send(());
                }
            }
        }
    }

    async fn deliver(&mut self, envelope: Envelope) {
        let topic = envelope.topic.clone();
        let request = ForwardRequest { envelope: MessageField::some(envelope), ..Default::default() };
        let (mut refusals, mut pause) = (0, Duration::from_millis(100));
        loop {
            match self.forward(&request).await {
                Ok(()) => return,
                Err(Failure::NoAddress) => return,
                Err(Failure::Refused(status)) => {
                    refusals += 1;
                    if refusals == MAX_REFUSALS {
                        tracing::warn!(topic, status, "containerd refuses an event, it is dropped");
                        return;
                    }
                }
                Err(Failure::Unreachable(reason)) => {
                    tracing::debug!(topic, reason, "containerd cannot be reached, the event is kept");
                    self.client = None;
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    async fn forward(&mut self, request: &ForwardRequest) -> Result<(), Failure> {
        let client = self.connected().await?;
        let nanos = i64::try_from(FORWARD_TIMEOUT.as_nanos()).unwrap_or(i64::MAX);
        match client.forward(ttrpc::context::with_timeout(nanos), request).await {
            Ok(_) => Ok(()),
            Err(ttrpc::Error::RpcStatus(status)) if status.code() != ttrpc::Code::DEADLINE_EXCEEDED => {
                Err(Failure::Refused(status.message().to_owned()))
            }
            Err(err) => Err(Failure::Unreachable(err.to_string())),
        }
    }

    async fn connected(&mut self) -> Result<EventsClient, Failure> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let address = self.address.as_deref().ok_or(Failure::NoAddress)?;
        let client = Client::connect(address).await.map_err(|err| Failure::Unreachable(err.to_string()))?;
        let client = EventsClient::new(client);
        self.client = Some(client.clone());
        Ok(client)
    }
}

enum Failure {
    NoAddress,
    Refused(String),
    Unreachable(String),
}

/// The topic and the body of an event in containerd's types.
fn encode(event: Event) -> Result<(&'static str, Any), protobuf::Error> {
    Ok(match event {
        Event::Create { container, bundle, stdio, pid } => {
            (topics::TASK_CREATE_EVENT_TOPIC, any(&created(container, &bundle, stdio, pid))?)
        }
        Event::Start { container, pid } => {
            let body = event::TaskStart { container_id: container, pid, ..Default::default() };
            (topics::TASK_START_EVENT_TOPIC, any(&body)?)
        }
        Event::ExecAdded { container, exec } => {
            let body = event::TaskExecAdded { container_id: container, exec_id: exec, ..Default::default() };
            (topics::TASK_EXEC_ADDED_EVENT_TOPIC, any(&body)?)
        }
        Event::ExecStarted { container, exec, pid } => {
            let body =
                event::TaskExecStarted { container_id: container, exec_id: exec, pid, ..Default::default() };
            (topics::TASK_EXEC_STARTED_EVENT_TOPIC, any(&body)?)
        }
        Event::Exit { process, pid, exit } => {
            (topics::TASK_EXIT_EVENT_TOPIC, any(&exited(process, pid, exit))?)
        }
        Event::Delete { process, pid, exit } => {
            (topics::TASK_DELETE_EVENT_TOPIC, any(&deleted(process, pid, exit))?)
        }
        Event::Oom { container } => {
            let body = event::TaskOOM { container_id: container, ..Default::default() };
            (topics::TASK_OOM_EVENT_TOPIC, any(&body)?)
        }
        Event::CreateFailed { container, class, reason } => {
            let texts = [("class", class.to_owned()), ("reason", reason)];
            (CREATE_FAILED, any(&labelled(container, texts))?)
        }
        Event::MachineEnded { pod, console } => (MACHINE_ENDED, any(&labelled(pod, [("console", console)]))?),
        Event::Paused { container } => {
            let body = event::TaskPaused { container_id: container, ..Default::default() };
            (topics::TASK_PAUSED_EVENT_TOPIC, any(&body)?)
        }
        Event::Resumed { container } => {
            let body = event::TaskResumed { container_id: container, ..Default::default() };
            (topics::TASK_RESUMED_EVENT_TOPIC, any(&body)?)
        }
    })
}

fn created(container_id: String, bundle: &Path, stdio: StdioPaths, pid: u32) -> event::TaskCreate {
    let io = event::TaskIO {
        stdin: stdio.stdin,
        stdout: stdio.stdout,
        stderr: stdio.stderr,
        terminal: stdio.terminal,
        ..Default::default()
    };
    let bundle = bundle.display().to_string();
    event::TaskCreate { container_id, bundle, io: MessageField::some(io), pid, ..Default::default() }
}

/// An init process goes by its container's id.
fn exited(process: ProcessKey, pid: u32, exit: Exit) -> event::TaskExit {
    event::TaskExit {
        id: process.exec.unwrap_or_else(|| process.container.clone()),
        container_id: process.container,
        pid,
        exit_status: exit.status,
        exited_at: MessageField::some(Timestamp::from(exit.at)),
        ..Default::default()
    }
}

/// Here an init process has no id of its own.
fn deleted(process: ProcessKey, pid: u32, exit: Exit) -> event::TaskDelete {
    event::TaskDelete {
        id: process.exec.unwrap_or_default(),
        container_id: process.container,
        pid,
        exit_status: exit.status,
        exited_at: MessageField::some(Timestamp::from(exit.at)),
        ..Default::default()
    }
}

/// Texts about a container, as its labels: no other type of containerd's has room for words, and `ctr events` and containerd's
/// clients show the types that they know and no others.
fn labelled<const N: usize>(id: String, texts: [(&str, String); N]) -> ContainerUpdate {
    let cut = |text: String| text.chars().take(MAX_TEXT).collect();
    let labels = texts.into_iter().map(|(name, text)| (name.to_owned(), cut(text))).collect();
    ContainerUpdate { id, labels, ..Default::default() }
}

/// containerd names types without a host part.
fn any<M: Message>(message: &M) -> Result<Any, protobuf::Error> {
    // Not by the message's descriptor, which would parse every descriptor of the file and keep it in memory.
    let type_url = format!("containerd.events.{}", M::NAME);
    Ok(Any { type_url, value: message.write_to_bytes()?, ..Default::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    fn exit() -> Exit {
        Exit { status: 3, at: SystemTime::UNIX_EPOCH }
    }

    #[test]
    fn an_exit_of_an_init_process_goes_by_its_containers_id() {
        let (topic, body) =
            encode(Event::Exit { process: ProcessKey::init("c"), pid: 1, exit: exit() }).unwrap();
        let body = event::TaskExit::parse_from_bytes(&body.value).unwrap();
        assert_eq!((topic, body.id.as_str(), body.exit_status), ("/tasks/exit", "c", 3));
    }

    #[test]
    fn a_creation_that_failed_says_why_within_bounds() {
        let reason = "é".repeat(MAX_TEXT + 1);
        let failed = Event::CreateFailed { container: "c".to_owned(), class: "permission_denied", reason };
        let (topic, body) = encode(failed).unwrap();
        let type_url = "containerd.events.ContainerUpdate";
        assert_eq!((topic, body.type_url.as_str()), ("/coffer/create-failed", type_url));
        let body = ContainerUpdate::parse_from_bytes(&body.value).unwrap();
        assert_eq!((body.id.as_str(), body.labels["class"].as_str()), ("c", "permission_denied"));
        assert_eq!(body.labels["reason"].chars().count(), MAX_TEXT);
    }

    #[test]
    fn a_deleted_init_process_has_no_id_of_its_own() {
        let (_, body) =
            encode(Event::Delete { process: ProcessKey::init("c"), pid: 1, exit: exit() }).unwrap();
        assert_eq!(body.type_url, "containerd.events.TaskDelete");
        assert_eq!(event::TaskDelete::parse_from_bytes(&body.value).unwrap().id, "");
    }
}
