//! What happens by itself: processes end, the kernel kills for memory, the machine dies.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use coffer_protocol::agent::event::Kind;

use super::agent::Ended;
use super::driver::Pod;
use super::error::PodError;
use super::guest::Guest;
use super::state::{ProcessEvent, Sandbox, SandboxEvent};
use super::{Event, ProcessKey};
use crate::event::Exit;

/// Exit status when nobody knows how a process ended.
pub(super) const UNKNOWN_STATUS: u32 = 255;

/// 128 + SIGKILL.
pub(super) const KILLED_STATUS: u32 = 137;

/// How long one question for events stays open.
const EVENTS_WAIT: Duration = Duration::from_secs(600);

/// After an init process's end: how long its container's other processes may take to tell theirs.
const LATE_EXECS: Duration = Duration::from_secs(2);

/// Pause before events are asked for again after a failure.
const EVENTS_PAUSE: Duration = Duration::from_secs(1);

impl Pod {
    /// Follows a process to its end.
    pub(super) fn watch_process(self: &Arc<Self>, guest: Arc<Guest>, key: ProcessKey) {
        let pod = self.clone();
        tokio::spawn(async move {
            match guest.agent().wait(&key).await {
                Ok(ended) => {
                    if key.exec.is_none() {
                        guest.read_back(&key.container).await;
                    }
                    pod.ended(&key, ended);
                }
                // The guest's own watch ends every process.
                Err(PodError::GuestGone { .. }) => guest.report_lost(),
                Err(err) => {
                    tracing::warn!(process = %key, error = %err, "the agent does not tell how a process ended");
                    let exit = Exit { status: UNKNOWN_STATUS, at: SystemTime::now() };
                    pod.ended(&key, Ended { exit, oom: false });
                }
            }
        });
    }

    fn ended(self: &Arc<Self>, key: &ProcessKey, ended: Ended) {
        tracing::info!(process = %key, status = ended.exit.status, oom = ended.oom, "a process has ended");
        if ended.oom {
            self.tell_oom(&key.container, false);
        }
        // An error means that the process was deleted meanwhile.
        let _ = self.apply(key, ProcessEvent::Exited(ended.exit));
        if key.exec.is_none() {
            self.end_late_execs(key.container.clone());
        }
    }

    /// The processes of a container do not outlive its init process; one whose end is not told in time counts as
    /// killed.
    fn end_late_execs(self: &Arc<Self>, id: String) {
        let pod = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LATE_EXECS).await;
            let mut registry = pod.lock();
            let events = registry.end_execs(&id, Exit { status: KILLED_STATUS, at: SystemTime::now() });
            pod.publish(events);
        });
    }

    fn tell_oom(&self, id: &str, again: bool) {
        let mut registry = self.lock();
        if let Ok(container) = registry.container_mut(id)
            && (again || !container.oom_told)
        {
            container.oom_told = true;
            self.publish([Event::Oom { container: id.to_owned() }]);
        }
    }

    /// Follows the machine to its end, and the guest's events until then.
    pub(super) fn watch_guest(self: &Arc<Self>, guest: Arc<Guest>) {
        let pod = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = guest.gone() => {}
                () = pod.follow_events(&guest) => {}
            }
            if pod.lock().sandbox == Sandbox::Ready {
                let console = guest.console();
                tracing::warn!(console, "the virtual machine is gone");
                guest.trace_end();
                pod.publish([Event::MachineEnded { pod: guest.record().key().pod().to_owned(), console }]);
            }
            pod.on_sandbox(SandboxEvent::GuestGone);
        });
    }

    /// Never returns while the guest lives.
    async fn follow_events(&self, guest: &Guest) {
        let mut after = 0;
        loop {
            match guest.agent().events(after, EVENTS_WAIT).await {
                Ok(events) => {
                    for event in events {
                        after = after.max(event.sequence);
                        if let Some(Kind::Oom(oom)) = event.kind {
                            self.tell_oom(&oom.container_id, true);
                        }
                    }
                }
                Err(PodError::GuestGone { .. }) => guest.gone().await,
                Err(_) => tokio::time::sleep(EVENTS_PAUSE).await,
            }
        }
    }
}
