//! Which call is allowed on a process in which state, and what containerd is told when it is not.
//!
//! containerd decides by these codes whether a container is gone, so they are a table with a test per cell.

use super::state::Process;

/// A call on a container or one of its processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    /// Let the process go.
    Start,
    /// Forget the process.
    Delete,
    /// Add a further process; the state is the init process's.
    Exec,
    /// Change the terminal's size.
    Resize,
    /// Freeze the container.
    Pause,
    /// Thaw the container.
    Resume,
    /// Send a signal.
    Kill,
    /// Close standard input.
    CloseIo,
    /// Change resource limits.
    Update,
    /// Anything that only looks: State, Wait, Pids, Stats.
    Look,
}

/// What plays behind a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// The pause container, which the shim plays.
    Pause,
    /// A container's first process.
    Init,
    /// A further process.
    Exec,
}

/// Why a call is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The process has ended: NotFound, by which containerd knows that a kill has nothing left to do.
    Finished,
    /// Not in this state: FailedPrecondition.
    NotNow,
    /// Never for this kind of process: FailedPrecondition, with a message that says so.
    NotForPause,
}

/// Whether `call` may be made.
pub(crate) fn admit(call: Call, state: Process, role: Role) -> Result<(), Refusal> {
    use Process::{Created, Creating, EndedEarly, Paused, Running, Starting, Stopped};
    if role == Role::Pause && matches!(call, Call::Exec | Call::Pause | Call::Resume | Call::Resize) {
        return Err(Refusal::NotForPause);
    }
    match (call, state) {
        (Call::Look, _) => Ok(()),
        (Call::Start, Created) => Ok(()),
        // Deleting what is being created cancels the creation.
        (Call::Delete, Creating | Created | Stopped(_)) => Ok(()),
        (Call::Exec, Created | Starting | Running) => Ok(()),
        (Call::Resize, Created | Starting | Running | Paused) => Ok(()),
        (Call::Pause, Running) => Ok(()),
        (Call::Resume, Paused) => Ok(()),
        (Call::Kill, Stopped(_) | EndedEarly(_)) => Err(Refusal::Finished),
        (Call::Kill, Created | Starting | Running | Paused) => Ok(()),
        // Closing what is closed already is no error.
        (Call::CloseIo, _) => Ok(()),
        (Call::Update, Created | Starting | Running | Paused) => Ok(()),
        _ => Err(Refusal::NotNow),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Exit;
    use std::time::SystemTime;

    fn row(call: Call) -> String {
        let exit = Exit { status: 0, at: SystemTime::UNIX_EPOCH };
        let states = [
            Process::Creating,
            Process::Created,
            Process::Starting,
            Process::EndedEarly(exit),
            Process::Running,
            Process::Paused,
            Process::Stopped(exit),
        ];
        let cell = |state: &Process| match admit(call, *state, Role::Init) {
            Ok(()) => "+",
            Err(Refusal::NotNow) => "p",
            Err(Refusal::Finished) => "n",
            Err(Refusal::NotForPause) => "!",
        };
        states.iter().map(cell).collect()
    }

    // Columns: Creating Created Starting EndedEarly Running Paused Stopped.
    // + allowed, p FailedPrecondition, n NotFound.

    #[test]
    fn only_a_created_process_starts() {
        assert_eq!(row(Call::Start), "p+ppppp");
    }

    #[test]
    fn a_running_process_is_not_deleted() {
        assert_eq!(row(Call::Delete), "++pppp+");
    }

    #[test]
    fn a_process_is_added_to_a_container_that_is_alive_and_not_frozen() {
        assert_eq!(row(Call::Exec), "p++p+pp");
    }

    #[test]
    fn a_terminal_is_resized_from_creation_on() {
        assert_eq!(row(Call::Resize), "p++p++p");
    }

    #[test]
    fn only_a_running_container_is_paused() {
        assert_eq!(row(Call::Pause), "pppp+pp");
    }

    #[test]
    fn only_a_paused_container_is_resumed() {
        assert_eq!(row(Call::Resume), "ppppp+p");
    }

    #[test]
    fn killing_an_ended_process_is_not_found() {
        assert_eq!(row(Call::Kill), "p++n++n");
    }

    #[test]
    fn closing_standard_input_is_never_an_error() {
        assert_eq!(row(Call::CloseIo), "+++++++");
    }

    #[test]
    fn limits_change_while_the_container_lives() {
        assert_eq!(row(Call::Update), "p++p++p");
    }

    #[test]
    fn looking_is_always_allowed() {
        assert_eq!(row(Call::Look), "+++++++");
    }

    #[test]
    fn nothing_is_executed_in_the_pause_container() {
        assert_eq!(admit(Call::Exec, Process::Running, Role::Pause), Err(Refusal::NotForPause));
    }

    #[test]
    fn the_pause_container_is_killed_like_any_other() {
        assert_eq!(admit(Call::Kill, Process::Running, Role::Pause), Ok(()));
    }
}
