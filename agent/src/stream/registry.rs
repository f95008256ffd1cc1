//! Which process streams exist, and who has taken them.
//!
//! ```text
//! announce ── Waiting ── attach ── Taken          close_stdin: Waiting → Taken (dropped)
//! forget: all gone, copies that still run are told to end
//! ```

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use coffer_protocol::StreamKind;
use tokio::sync::watch;

use crate::container::Stdio;
use crate::descriptor::Descriptor;

/// Why a stream cannot be attached.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum AttachError {
    /// No such process.
    #[error("process {exec} of container {container} is not known")]
    NoProcess {
        /// Container id.
        container: String,
        /// Exec id, or "-".
        exec: String,
    },
    /// The process has no such stream.
    #[error("the process has no {kind:?}")]
    NoStream {
        /// Which.
        kind: StreamKind,
    },
    /// Somebody else has it.
    #[error("{kind:?} is attached already, or closed")]
    Taken {
        /// Which.
        kind: StreamKind,
    },
}

/// A stream that was attached.
#[derive(Debug)]
pub(super) struct Attached {
    /// The agent's end.
    pub(super) end: Arc<Descriptor>,
    /// Ends when the process is forgotten.
    pub(super) forgotten: watch::Receiver<()>,
}

/// The streams of all processes. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registry {
    processes: Arc<Mutex<HashMap<(String, String), Process>>>,
}

#[derive(Debug)]
struct Process {
    stdin: Slot,
    stdout: Slot,
    stderr: Slot,
    /// Dropped with the process: that is the sign.
    forget: watch::Sender<()>,
}

#[derive(Debug)]
enum Slot {
    Absent,
    Waiting(Arc<Descriptor>),
    Taken,
}

impl Registry {
    /// Makes a process's streams attachable; `exec` is empty for an init process.
    pub(crate) fn announce(&self, container: &str, exec: &str, stdio: Stdio) -> io::Result<()> {
        let slot = |fd: Option<OwnedFd>| -> io::Result<Slot> {
            fd.map_or(Ok(Slot::Absent), |fd| Ok(Slot::Waiting(Arc::new(Descriptor::new(fd)?))))
        };
        let (stdin, stdout, stderr) = match stdio {
            Stdio::Pipes { stdin, stdout, stderr } => (slot(stdin)?, slot(stdout)?, slot(stderr)?),
            Stdio::Terminal(fd) => {
                let terminal = Arc::new(Descriptor::new(fd)?);
                (Slot::Waiting(terminal.clone()), Slot::Waiting(terminal), Slot::Absent)
            }
        };
        let process = Process { stdin, stdout, stderr, forget: watch::Sender::new(()) };
        self.lock().insert((container.to_owned(), exec.to_owned()), process);
        Ok(())
    }

    /// Hands a stream out, once.
    pub(super) fn attach(
        &self,
        container: &str,
        exec: &str,
        kind: StreamKind,
    ) -> Result<Attached, AttachError> {
        let mut processes = self.lock();
        let Some(process) = processes.get_mut(&(container.to_owned(), exec.to_owned())) else {
            let exec = if exec.is_empty() { "-" } else { exec };
            return Err(AttachError::NoProcess { container: container.to_owned(), exec: exec.to_owned() });
        };
        let slot = match kind {
            StreamKind::Stdin => &mut process.stdin,
            StreamKind::Stdout => &mut process.stdout,
            StreamKind::Stderr => &mut process.stderr,
        };
        match std::mem::replace(slot, Slot::Taken) {
            Slot::Waiting(end) => Ok(Attached { end, forgotten: process.forget.subscribe() }),
            Slot::Taken => Err(AttachError::Taken { kind }),
            Slot::Absent => {
                *slot = Slot::Absent;
                Err(AttachError::NoStream { kind })
            }
        }
    }

    /// Closes a stdin that nobody attached. An attached one ends with its stream, after the bytes that are on it.
    pub(crate) fn close_stdin(&self, container: &str, exec: &str) {
        if let Some(process) = self.lock().get_mut(&(container.to_owned(), exec.to_owned()))
            && matches!(process.stdin, Slot::Waiting(_))
        {
            process.stdin = Slot::Taken;
        }
    }

    /// Closes what a process still has open, and ends its copies.
    pub(crate) fn forget(&self, container: &str, exec: &str) {
        self.lock().remove(&(container.to_owned(), exec.to_owned()));
    }

    /// Forgets all processes of a container.
    pub(crate) fn forget_all(&self, container: &str) {
        self.lock().retain(|(of, _), _| of != container);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Process>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A registry with one process that has stdin and stdout, and the process's ends of both.
    fn registry() -> (Registry, OwnedFd, OwnedFd) {
        let (their_stdin, stdin) = nix::unistd::pipe().unwrap();
        let (stdout, their_stdout) = nix::unistd::pipe().unwrap();
        let registry = Registry::default();
        let stdio = Stdio::Pipes { stdin: Some(stdin), stdout: Some(stdout), stderr: None };
        registry.announce("c", "", stdio).unwrap();
        (registry, their_stdin, their_stdout)
    }

    #[tokio::test]
    async fn a_stream_is_attached_once() {
        let (registry, _in, _out) = registry();
        assert!(registry.attach("c", "", StreamKind::Stdout).is_ok());
        let again = registry.attach("c", "", StreamKind::Stdout).unwrap_err();
        assert_eq!(again, AttachError::Taken { kind: StreamKind::Stdout });
    }

    #[tokio::test]
    async fn a_stream_that_was_not_asked_for_cannot_be_attached() {
        let (registry, _in, _out) = registry();
        let error = registry.attach("c", "", StreamKind::Stderr).unwrap_err();
        assert_eq!(error, AttachError::NoStream { kind: StreamKind::Stderr });
    }

    #[tokio::test]
    async fn a_stream_of_an_unknown_process_cannot_be_attached() {
        let (registry, _in, _out) = registry();
        let error = registry.attach("c", "e", StreamKind::Stdout).unwrap_err();
        assert_eq!(error, AttachError::NoProcess { container: "c".to_owned(), exec: "e".to_owned() });
    }

    #[tokio::test]
    async fn closing_an_unattached_stdin_is_seen_by_the_process() {
        let (registry, their_stdin, _out) = registry();
        registry.close_stdin("c", "");
        let mut buffer = [0; 1];
        assert_eq!(nix::unistd::read(&their_stdin, &mut buffer), Ok(0));
    }

    #[tokio::test]
    async fn closing_an_attached_stdin_leaves_it_to_its_stream() {
        let (registry, their_stdin, _out) = registry();
        let attached = registry.attach("c", "", StreamKind::Stdin).unwrap();
        registry.close_stdin("c", "");
        attached.end.write_all(b"x").await.unwrap();
        let mut buffer = [0; 1];
        assert_eq!(nix::unistd::read(&their_stdin, &mut buffer), Ok(1));
    }

    #[tokio::test]
    async fn forgetting_a_process_tells_its_copies() {
        let (registry, _in, _out) = registry();
        let mut attached = registry.attach("c", "", StreamKind::Stdout).unwrap();
        registry.forget("c", "");
        assert!(attached.forgotten.changed().await.is_err());
    }
}
