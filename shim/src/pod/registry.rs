//! The pod's containers and their processes: who is in which state, who waits, and what is told in which order.
//!
//! An init process's exit is published after those of the container's other processes, because containerd forgets
//! the container with it; whoever waits for it is answered at once all the same. Nothing here waits.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use super::error::PodError;
use super::guest::Guest;
use super::rules::{Call, Role, admit};
use super::state::{Process, ProcessAction, ProcessEvent, Sandbox};
use super::{Event, ProcessKey};
use crate::event::Exit;
use crate::stdio::{StdioPaths, Streams};

/// Everything that a pod knows, behind one lock that is never held across a wait.
#[derive(Default)]
pub(super) struct Registry {
    /// The machine.
    pub(super) sandbox: Sandbox,
    /// The guest, while it is up.
    pub(super) guest: Option<Arc<Guest>>,
    /// The containers.
    pub(super) containers: BTreeMap<String, Container>,
}

/// A container.
pub(super) struct Container {
    /// Its bundle.
    pub(super) bundle: PathBuf,
    /// What plays behind its init process.
    pub(super) role: Role,
    /// Its init process.
    pub(super) init: Entry,
    /// Its further processes.
    pub(super) execs: BTreeMap<String, Entry>,
    /// Becomes true when containerd deletes the container while it is being made.
    pub(super) cancel: watch::Sender<bool>,
    /// Whether an out-of-memory event was published.
    pub(super) oom_told: bool,
    /// The init process's exit, held back until the other processes' are out.
    late_exit: Option<Exit>,
}

/// A process.
pub(super) struct Entry {
    /// Its state.
    pub(super) state: Process,
    /// Its host pid.
    pub(super) pid: u32,
    /// Its descriptors, as containerd named them.
    pub(super) stdio: StdioPaths,
    /// Their copies.
    pub(super) streams: Option<Streams>,
    /// How it ended; whoever waits subscribes.
    pub(super) exit: watch::Sender<Option<Exit>>,
}

impl Entry {
    /// A process that is being made.
    pub(super) fn new(stdio: StdioPaths, pid: u32) -> Self {
        Self { state: Process::Creating, pid, stdio, streams: None, exit: watch::Sender::new(None) }
    }

    /// Whether an exit is still to come.
    fn is_live(&self) -> bool {
        !matches!(self.state, Process::Creating | Process::Created | Process::Stopped(_))
    }
}

impl Container {
    /// A container that is being made.
    pub(super) fn new(bundle: PathBuf, role: Role, stdio: StdioPaths) -> Self {
        Self {
            bundle,
            role,
            init: Entry::new(stdio, 0),
            execs: BTreeMap::new(),
            cancel: watch::Sender::new(false),
            oom_told: false,
            late_exit: None,
        }
    }

    /// What plays behind one of its processes.
    pub(super) fn role(&self, key: &ProcessKey) -> Role {
        if key.exec.is_some() { Role::Exec } else { self.role }
    }

    fn entry(&self, key: &ProcessKey) -> Option<&Entry> {
        match &key.exec {
            None => Some(&self.init),
            Some(exec) => self.execs.get(exec),
        }
    }

    fn entry_mut(&mut self, key: &ProcessKey) -> Option<&mut Entry> {
        match &key.exec {
            None => Some(&mut self.init),
            Some(exec) => self.execs.get_mut(exec),
        }
    }

    /// What to publish about an exit now.
    fn tell_exit(&mut self, key: &ProcessKey, pid: u32, exit: Exit) -> Vec<Event> {
        let mut events = Vec::new();
        match key.exec {
            Some(_) => events.push(Event::Exit { process: key.clone(), pid, exit }),
            None => self.late_exit = Some(exit),
        }
        if !self.execs.values().any(Entry::is_live)
            && let Some(exit) = self.late_exit.take()
        {
            events.push(Event::Exit { process: ProcessKey::init(&key.container), pid: self.init.pid, exit });
        }
        events
    }
}

impl Registry {
    /// A container.
    pub(super) fn container(&self, id: &str) -> Result<&Container, PodError> {
        self.containers.get(id).ok_or_else(|| PodError::Unknown { key: ProcessKey::init(id) })
    }

    /// A container, to change it.
    pub(super) fn container_mut(&mut self, id: &str) -> Result<&mut Container, PodError> {
        self.containers.get_mut(id).ok_or_else(|| PodError::Unknown { key: ProcessKey::init(id) })
    }

    /// A process.
    pub(super) fn entry(&self, key: &ProcessKey) -> Result<&Entry, PodError> {
        self.container(&key.container)?.entry(key).ok_or_else(|| PodError::Unknown { key: key.clone() })
    }

    /// A process, to change it.
    pub(super) fn entry_mut(&mut self, key: &ProcessKey) -> Result<&mut Entry, PodError> {
        let unknown = || PodError::Unknown { key: key.clone() };
        self.containers.get_mut(&key.container).and_then(|c| c.entry_mut(key)).ok_or_else(unknown)
    }

    /// Whether `call` may be made on a process now; answers what plays behind it.
    pub(super) fn admit(&self, call: Call, key: &ProcessKey) -> Result<Role, PodError> {
        let state = self.entry(key)?.state;
        let role = self.container(&key.container)?.role(key);
        admit(call, state, role).map_err(|refusal| PodError::refusal(refusal, call, key, state))?;
        Ok(role)
    }

    /// Takes a process whose creation the agent has answered, and returns what to publish. Refuses one whose machine is
    /// gone: every process was told its end when that was noticed, so nobody would tell this one's.
    pub(super) fn made(
        &mut self,
        key: &ProcessKey,
        pid: u32,
        streams: Option<Streams>,
    ) -> Result<Vec<Event>, PodError> {
        if self.sandbox != Sandbox::Ready {
            return Err(PodError::GuestGone { doing: "creating the process", console: String::new() });
        }
        let entry = self.entry_mut(key)?;
        entry.pid = pid;
        entry.streams = streams;
        self.apply(key, ProcessEvent::Made)
    }

    /// Takes an event of a process, answers whoever waits, and returns what to publish, in order.
    pub(super) fn apply(&mut self, key: &ProcessKey, event: ProcessEvent) -> Result<Vec<Event>, PodError> {
        let entry = self.entry_mut(key)?;
        let (next, actions) =
            entry.state.on(event).map_err(|err| PodError::host("follow the process's life", err))?;
        entry.state = next;
        let (pid, stdio) = (entry.pid, entry.stdio.clone());
        let mut events = Vec::new();
        for action in actions {
            match action {
                ProcessAction::Exit(exit) => {
                    let entry = self.entry_mut(key)?;
                    entry.exit.send_replace(Some(exit));
                    entry.streams.iter().for_each(Streams::exited);
                    events.extend(self.container_mut(&key.container)?.tell_exit(key, pid, exit));
                }
                told => events.extend(self.tell(key, pid, &stdio, told)?),
            }
        }
        Ok(events)
    }

    fn tell(
        &self,
        key: &ProcessKey,
        pid: u32,
        stdio: &StdioPaths,
        action: ProcessAction,
    ) -> Result<Option<Event>, PodError> {
        let container = key.container.clone();
        let bundle = || self.container(&key.container).map(|c| c.bundle.clone());
        Ok(Some(match (action, key.exec.clone()) {
            (ProcessAction::Create, None) => {
                Event::Create { container, bundle: bundle()?, stdio: stdio.clone(), pid }
            }
            (ProcessAction::Create, Some(exec)) => Event::ExecAdded { container, exec },
            (ProcessAction::Start, None) => Event::Start { container, pid },
            (ProcessAction::Start, Some(exec)) => Event::ExecStarted { container, exec, pid },
            (ProcessAction::Pause, _) => Event::Paused { container },
            (ProcessAction::Resume, _) => Event::Resumed { container },
            (ProcessAction::Exit(_), _) => return Ok(None),
        }))
    }

    /// Containers, and their processes that have not ended.
    pub(super) fn count(&self) -> (usize, usize) {
        let entries = self.containers.values().flat_map(|c| std::iter::once(&c.init).chain(c.execs.values()));
        let alive = entries.filter(|entry| entry.state.exit().is_none()).count();
        (self.containers.len(), alive)
    }

    /// The guest is gone: every process that still runs has ended with `exit`.
    pub(super) fn end_all(&mut self, exit: Exit) -> Vec<Event> {
        let ids: Vec<String> = self.containers.keys().cloned().collect();
        let mut events = Vec::new();
        for id in ids {
            events.extend(self.end_execs(&id, exit));
            events.extend(self.apply(&ProcessKey::init(&id), ProcessEvent::Exited(exit)).unwrap_or_default());
        }
        events
    }

    /// The container is gone: every further process that still runs has ended with `exit`.
    pub(super) fn end_execs(&mut self, id: &str, exit: Exit) -> Vec<Event> {
        let execs: Vec<String> =
            self.containers.get(id).map(|c| c.execs.keys().cloned().collect()).unwrap_or_default();
        let keys = execs.into_iter().map(|exec| ProcessKey { container: id.to_owned(), exec: Some(exec) });
        keys.flat_map(|key| self.apply(&key, ProcessEvent::Exited(exit)).unwrap_or_default()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    fn exit(status: u32) -> Exit {
        Exit { status, at: SystemTime::UNIX_EPOCH }
    }

    fn exec(name: &str) -> ProcessKey {
        ProcessKey::new("c", name)
    }

    /// A running container `c` with a running exec `e`.
    fn running() -> Registry {
        let mut registry = Registry::default();
        let mut container = Container::new(PathBuf::from("/b"), Role::Init, StdioPaths::default());
        container.init.state = Process::Running;
        let mut entry = Entry::new(StdioPaths::default(), 7);
        entry.state = Process::Running;
        container.execs.insert("e".to_owned(), entry);
        registry.containers.insert("c".to_owned(), container);
        registry
    }

    fn exits(events: &[Event]) -> Vec<String> {
        let name = |event: &Event| match event {
            Event::Exit { process, .. } => Some(process.to_string()),
            _ => None,
        };
        events.iter().filter_map(name).collect()
    }

    #[test]
    fn an_init_exit_is_published_after_the_execs() {
        let mut registry = running();
        let first = registry.apply(&ProcessKey::init("c"), ProcessEvent::Exited(exit(0))).unwrap();
        assert!(exits(&first).is_empty());
        let second = registry.apply(&exec("e"), ProcessEvent::Exited(exit(137))).unwrap();
        assert_eq!(exits(&second), ["exec e of container c", "container c"]);
    }

    #[test]
    fn whoever_waits_for_init_is_answered_before_the_execs_end() {
        let mut registry = running();
        let waiter = registry.entry(&ProcessKey::init("c")).unwrap().exit.subscribe();
        registry.apply(&ProcessKey::init("c"), ProcessEvent::Exited(exit(4))).unwrap();
        assert_eq!(*waiter.borrow(), Some(exit(4)));
        assert_eq!(registry.entry(&ProcessKey::init("c")).unwrap().state, Process::Stopped(exit(4)));
    }

    #[test]
    fn a_dead_guest_ends_every_process_once() {
        let mut registry = running();
        assert_eq!(exits(&registry.end_all(exit(137))), ["exec e of container c", "container c"]);
        assert!(exits(&registry.end_all(exit(137))).is_empty());
    }

    /// A container `c` and its exec `e`, both of which are being made.
    fn in_the_making() -> Registry {
        let mut registry = running();
        registry.entry_mut(&ProcessKey::init("c")).unwrap().state = Process::Creating;
        registry.entry_mut(&exec("e")).unwrap().state = Process::Creating;
        registry.sandbox = Sandbox::Ready;
        registry
    }

    #[test]
    fn a_process_that_the_agent_has_made_waits_for_its_start() {
        let mut registry = in_the_making();
        assert_eq!(registry.made(&ProcessKey::init("c"), 7, None).unwrap().len(), 1);
        assert_eq!(registry.entry(&ProcessKey::init("c")).unwrap().state, Process::Created);
    }

    #[test]
    fn a_process_whose_machine_died_before_the_answer_was_taken_is_not_made() {
        for machine in [Sandbox::Stopping, Sandbox::Gone] {
            for key in [ProcessKey::init("c"), exec("e")] {
                let mut registry = in_the_making();
                assert!(registry.end_all(exit(137)).is_empty());
                registry.sandbox = machine;
                assert!(matches!(registry.made(&key, 7, None), Err(PodError::GuestGone { .. })));
            }
        }
    }

    #[test]
    fn an_exec_that_never_started_holds_nothing_back() {
        let mut registry = running();
        registry.entry_mut(&exec("e")).unwrap().state = Process::Created;
        let events = registry.apply(&ProcessKey::init("c"), ProcessEvent::Exited(exit(0))).unwrap();
        assert_eq!(exits(&events), ["container c"]);
    }

    #[test]
    fn an_unknown_exec_is_unknown() {
        assert!(matches!(running().admit(Call::Kill, &exec("x")), Err(PodError::Unknown { .. })));
    }
}
