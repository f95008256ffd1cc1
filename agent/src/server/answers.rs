//! From the agent's own types to the wire's messages and status codes.

use std::time::UNIX_EPOCH;

use coffer_protocol::agent::{
    self, AdmitImageResponse, AgentStatsResponse, Oom, ProcessStatus, event, process_status,
};
use ttrpc::{Code, get_status};

use crate::chain::Chain;
use crate::container::ProcessState;
use crate::pod::{Admitted, Class, Event, PodError, Status, Usage};

impl From<PodError> for ttrpc::Error {
    fn from(error: PodError) -> Self {
        let code = match error.class() {
            Class::InvalidArgument => Code::INVALID_ARGUMENT,
            Class::NotFound => Code::NOT_FOUND,
            Class::AlreadyExists => Code::ALREADY_EXISTS,
            Class::FailedPrecondition => Code::FAILED_PRECONDITION,
            Class::PermissionDenied => Code::PERMISSION_DENIED,
            Class::DeadlineExceeded => Code::DEADLINE_EXCEEDED,
            Class::Internal => Code::INTERNAL,
        };
        ttrpc::Error::RpcStatus(get_status(code, Chain(&error).to_string()))
    }
}

/// How a process is.
pub(super) fn status(status: Status) -> ProcessStatus {
    let state = match status.state {
        ProcessState::Created => process_status::State::CREATED,
        ProcessState::Running => process_status::State::RUNNING,
        ProcessState::Paused => process_status::State::PAUSED,
        ProcessState::Stopped => process_status::State::STOPPED,
    };
    let exit = status.exit;
    let at = exit.and_then(|exit| exit.at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    ProcessStatus {
        state: state.into(),
        pid: status.pid,
        exit_status: exit.map_or(0, |exit| exit.status),
        exited_unix_nanos: u64::try_from(at.as_nanos()).unwrap_or(u64::MAX),
        oom_killed: exit.is_some_and(|exit| exit.oom_killed),
        ..Default::default()
    }
}

/// What became of a claim.
pub(super) fn admitted(admitted: Admitted) -> AdmitImageResponse {
    let judged = AdmitImageResponse { judged: true, ..Default::default() };
    match admitted {
        Admitted::Unjudged => AdmitImageResponse::new(),
        Admitted::Rehearsed { reason, judgement } => {
            AdmitImageResponse { judgement, would_refuse: reason, ..judged }
        }
        Admitted::Sealed { judgement } => AdmitImageResponse { sealed: true, judgement, ..judged },
        Admitted::Wanted { digests, judgement } => {
            let wanted = digests.iter().map(ToString::to_string).collect();
            AdmitImageResponse { wanted, judgement, ..judged }
        }
    }
}

/// One event.
pub(super) fn event(event: Event) -> agent::Event {
    let oom = Oom { container_id: event.oom, ..Default::default() };
    agent::Event { sequence: event.sequence, kind: Some(event::Kind::Oom(oom)), ..Default::default() }
}

/// The agent's own counts.
pub(super) fn usage(usage: Usage) -> AgentStatsResponse {
    AgentStatsResponse {
        open_files: usage.open_files,
        threads: usage.threads,
        processes: usage.processes,
        resident_bytes: usage.resident_bytes,
        mounts: usage.mounts,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::ContainerError;
    use crate::image::ImageError;

    fn code(error: PodError) -> Code {
        match ttrpc::Error::from(error) {
            ttrpc::Error::RpcStatus(status) => status.code(),
            other => panic!("{other} is no status"),
        }
    }

    fn of_runtime(source: ContainerError) -> PodError {
        PodError::Container { id: "c".to_owned(), source: Box::new(source) }
    }

    #[test]
    fn what_is_unknown_is_not_found() {
        assert_eq!(code(PodError::NoContainer { id: "c".to_owned() }), Code::NOT_FOUND);
        assert_eq!(code(PodError::NoProcess { id: "c".to_owned(), exec: "e".to_owned() }), Code::NOT_FOUND);
        assert_eq!(
            code(of_runtime(ContainerError::Finished { id: "c".to_owned(), pid: 7 })),
            Code::NOT_FOUND
        );
    }

    #[test]
    fn what_is_there_already_exists() {
        assert_eq!(code(PodError::ContainerExists { id: "c".to_owned() }), Code::ALREADY_EXISTS);
        assert_eq!(code(PodError::SandboxExists), Code::ALREADY_EXISTS);
    }

    #[test]
    fn what_comes_too_early_fails_its_precondition() {
        let running = PodError::StillRunning { id: "c".to_owned(), exec: String::new() };
        assert_eq!(code(running), Code::FAILED_PRECONDITION);
        assert_eq!(code(PodError::NoSandbox), Code::FAILED_PRECONDITION);
    }

    #[test]
    fn what_can_never_work_is_an_invalid_argument() {
        let image = PodError::Image { id: "c".to_owned(), source: Box::new(ImageError::NoLayer) };
        assert_eq!(code(image), Code::INVALID_ARGUMENT);
        assert_eq!(code(of_runtime(ContainerError::Id { id: "/".to_owned() })), Code::INVALID_ARGUMENT);
    }

    #[test]
    fn a_status_carries_the_whole_chain_of_causes() {
        let error = PodError::Image { id: "c".to_owned(), source: Box::new(ImageError::NoLayer) };
        let ttrpc::Error::RpcStatus(status) = error.into() else { panic!("no status") };
        assert_eq!(status.message(), "root file system of container c: the container has no layer");
    }
}
