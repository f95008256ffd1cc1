//! Which state follows which, as pure tables: the pod's virtual machine, and each process in it.
//!
//! ```text
//! Sandbox   Empty ─Create→ Booting ─Booted→ Ready ─GuestGone | Stop→ Stopping ─TornDown→ Gone
//!                             └─BootFailed───────────────────────────↗
//! Process   Creating ─Made→ Created ─StartAsked→ Starting ─Started→ Running ⇄ Paused
//!                              │                    ├─Exited→ EndedEarly ─Started→ ┐
//!                              └──────Exited────────┴──────────Exited──────────────┴→ Stopped
//! ```
//! Never here: clocks, locks, sockets.

use crate::event::Exit;

/// The pod's virtual machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Sandbox {
    /// Nothing was made yet.
    #[default]
    Empty,
    /// The machine is being made.
    Booting,
    /// The agent answers.
    Ready,
    /// The machine is dead or dying, and what it used is being removed.
    Stopping,
    /// Nothing is left.
    Gone,
}

/// What happens to a pod's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SandboxEvent {
    /// containerd creates the pod's first container.
    Create,
    /// The agent answers.
    Booted,
    /// The machine could not be made or never answered.
    BootFailed,
    /// The machine's process ended, or the agent hung up.
    GuestGone,
    /// Nothing needs the machine any more.
    Stop,
    /// Everything that the pod's record names is removed.
    TornDown,
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SandboxAction {
    /// Make the machine.
    Boot,
    /// Every process that still counts as running has ended.
    EndProcesses,
    /// Ask the guest to sync and power off, for a short while.
    PowerOff,
    /// Kill the machine and remove everything in the record.
    TearDown,
}

/// A process of a container, or the sandbox's pause container that the shim plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Process {
    /// Its container is being made.
    Creating,
    /// It waits for Start.
    Created,
    /// Start is under way.
    Starting,
    /// It ended before Start was answered.
    EndedEarly(Exit),
    /// It runs.
    Running,
    /// It is frozen.
    Paused,
    /// It ended.
    Stopped(Exit),
}

/// What happens to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcessEvent {
    /// It exists and waits.
    Made,
    /// containerd starts it.
    StartAsked,
    /// The agent let it go.
    Started,
    /// The agent could not start it.
    StartFailed,
    /// Its container was frozen.
    Paused,
    /// Its container was thawed.
    Resumed,
    /// It ended, or its guest did.
    Exited(Exit),
}

/// What is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcessAction {
    /// Publish that it was created (an exec: added).
    Create,
    /// Publish that it was started.
    Start,
    /// Publish that it was paused.
    Pause,
    /// Publish that it was resumed.
    Resume,
    /// Answer every Wait, then publish the exit.
    Exit(Exit),
}

/// An event that cannot happen in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OutOfTurn {
    /// Of a machine.
    #[error("a machine that is {state:?} cannot take {event:?}")]
    Sandbox {
        /// The state.
        state: Sandbox,
        /// The event.
        event: SandboxEvent,
    },
    /// Of a process.
    #[error("a process that is {state:?} cannot take {event:?}")]
    Process {
        /// The state.
        state: Process,
        /// The event.
        event: ProcessEvent,
    },
}

impl Sandbox {
    /// The next state, and what to do.
    pub(crate) fn on(self, event: SandboxEvent) -> Result<(Self, &'static [SandboxAction]), OutOfTurn> {
        use SandboxAction::{Boot, EndProcesses, PowerOff, TearDown};
        Ok(match (self, event) {
            (Sandbox::Empty, SandboxEvent::Create) => (Sandbox::Booting, &[Boot]),
            (Sandbox::Empty, SandboxEvent::Stop) => (Sandbox::Gone, &[]),
            (Sandbox::Booting, SandboxEvent::Booted) => (Sandbox::Ready, &[]),
            (Sandbox::Booting, SandboxEvent::BootFailed) => (Sandbox::Stopping, &[TearDown]),
            // The boot itself sees that its guest is gone or not wanted any more, and fails.
            (Sandbox::Booting, SandboxEvent::GuestGone | SandboxEvent::Stop) => (Sandbox::Booting, &[]),
            (Sandbox::Ready, SandboxEvent::GuestGone) => (Sandbox::Stopping, &[EndProcesses, TearDown]),
            (Sandbox::Ready, SandboxEvent::Stop) => (Sandbox::Stopping, &[EndProcesses, PowerOff, TearDown]),
            (Sandbox::Stopping, SandboxEvent::TornDown) => (Sandbox::Gone, &[]),
            (Sandbox::Stopping | Sandbox::Gone, SandboxEvent::GuestGone | SandboxEvent::Stop) => (self, &[]),
            (state, event) => return Err(OutOfTurn::Sandbox { state, event }),
        })
    }
}

impl Process {
    /// The next state, and what to tell.
    pub(crate) fn on(self, event: ProcessEvent) -> Result<(Self, Vec<ProcessAction>), OutOfTurn> {
        use ProcessAction::{Create, Exit, Pause, Resume, Start};
        Ok(match (self, event) {
            (Process::Creating, ProcessEvent::Made) => (Process::Created, vec![Create]),
            (Process::Created, ProcessEvent::StartAsked) => (Process::Starting, vec![]),
            (Process::Starting, ProcessEvent::Started) => (Process::Running, vec![Start]),
            (Process::Starting, ProcessEvent::StartFailed) => (Process::Created, vec![]),
            (Process::Starting, ProcessEvent::Exited(exit)) => (Process::EndedEarly(exit), vec![]),
            (Process::EndedEarly(exit), ProcessEvent::Started) => {
                (Process::Stopped(exit), vec![Start, Exit(exit)])
            }
            (Process::EndedEarly(exit), ProcessEvent::StartFailed) => {
                (Process::Stopped(exit), vec![Exit(exit)])
            }
            (Process::Running, ProcessEvent::Paused) => (Process::Paused, vec![Pause]),
            (Process::Paused, ProcessEvent::Resumed) => (Process::Running, vec![Resume]),
            (Process::Created | Process::Running | Process::Paused, ProcessEvent::Exited(exit)) => {
                (Process::Stopped(exit), vec![Exit(exit)])
            }
            // The first exit counts; a guest that goes down after it changes nothing. Creation fails by itself.
            (Process::Stopped(_) | Process::EndedEarly(_) | Process::Creating, ProcessEvent::Exited(_)) => {
                (self, vec![])
            }
            // It ended while it was being paused or resumed.
            (Process::Stopped(_), ProcessEvent::Paused | ProcessEvent::Resumed) => (self, vec![]),
            (state, event) => return Err(OutOfTurn::Process { state, event }),
        })
    }

    /// How it ended, if it has.
    pub(crate) fn exit(self) -> Option<Exit> {
        match self {
            Process::Stopped(exit) => Some(exit),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::SystemTime;

    fn exit() -> Exit {
        Exit { status: 3, at: SystemTime::UNIX_EPOCH }
    }

    #[test]
    fn a_process_that_ends_during_its_start_is_announced_as_started_first() {
        let (state, _) = Process::Starting.on(ProcessEvent::Exited(exit())).unwrap();
        let (state, actions) = state.on(ProcessEvent::Started).unwrap();
        assert_eq!(state, Process::Stopped(exit()));
        assert_eq!(actions, [ProcessAction::Start, ProcessAction::Exit(exit())]);
    }

    #[test]
    fn a_second_exit_is_not_announced() {
        let (_, actions) = Process::Stopped(exit()).on(ProcessEvent::Exited(exit())).unwrap();
        assert!(actions.is_empty());
    }

    #[test]
    fn a_process_cannot_start_twice() {
        assert!(Process::Running.on(ProcessEvent::StartAsked).is_err());
    }

    #[test]
    fn a_failed_start_leaves_the_process_created() {
        assert_eq!(Process::Starting.on(ProcessEvent::StartFailed).unwrap().0, Process::Created);
    }

    #[test]
    fn a_dead_guest_ends_its_processes_and_is_removed() {
        let (state, actions) = Sandbox::Ready.on(SandboxEvent::GuestGone).unwrap();
        assert_eq!(state, Sandbox::Stopping);
        assert_eq!(actions, [SandboxAction::EndProcesses, SandboxAction::TearDown]);
    }

    #[test]
    fn a_dead_guest_is_removed_once() {
        assert_eq!(Sandbox::Stopping.on(SandboxEvent::GuestGone).unwrap().1, []);
    }

    #[test]
    fn a_pod_cannot_be_created_again_after_its_end() {
        assert!(Sandbox::Gone.on(SandboxEvent::Create).is_err());
    }

    fn any_event() -> impl Strategy<Value = ProcessEvent> {
        prop_oneof![
            Just(ProcessEvent::Made),
            Just(ProcessEvent::StartAsked),
            Just(ProcessEvent::Started),
            Just(ProcessEvent::StartFailed),
            Just(ProcessEvent::Paused),
            Just(ProcessEvent::Resumed),
            Just(ProcessEvent::Exited(exit())),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_an_exit_is_announced_at_most_once_and_is_the_last_word(
            events in proptest::collection::vec(any_event(), 0..24)
        ) {
            let mut state = Process::Creating;
            let mut told = Vec::new();
            for event in events {
                if let Ok((next, actions)) = state.on(event) {
                    state = next;
                    told.extend(actions);
                }
            }
            let exits = told.iter().filter(|a| matches!(a, ProcessAction::Exit(_))).count();
            prop_assert!(exits <= 1);
            prop_assert_eq!(exits == 1, matches!(told.last(), Some(ProcessAction::Exit(_))));
            prop_assert_eq!(exits == 1, state.exit().is_some());
        }
    }
}
