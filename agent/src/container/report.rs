//! A helper's side of the conversation with the agent, and the results of its steps.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::error::SetupError;
use super::messages::{self, Instructions, Order, Report};

/// The result of one step.
pub(super) type Step<T> = Result<T, SetupError>;

/// The agent, seen from a helper or from the process it made.
#[derive(Debug)]
pub(super) struct Agent {
    socket: OwnedFd,
}

impl Agent {
    pub(super) fn on(socket: OwnedFd) -> Self {
        Agent { socket }
    }

    /// Receives the first packet.
    pub(super) fn instructions(&self) -> Step<(Instructions, Descriptors)> {
        let (_, descriptors) = messages::receive(self.socket.as_fd()).map_err(lost)?;
        let mut descriptors = Descriptors(descriptors.into_iter());
        Ok((messages::read_instructions(descriptors.take()?).map_err(lost)?, descriptors))
    }

    pub(super) fn report(&self, report: &Report, descriptors: &[BorrowedFd<'_>]) -> Step<()> {
        messages::send_report(self.socket.as_fd(), report, descriptors).map_err(lost)
    }

    pub(super) fn warn(&self, warning: String) {
        // A warning that cannot be sent is lost with the agent that would have read it.
        let _ = self.report(&Report::Warning(warning), &[]);
    }

    /// Waits for an order. `read`, because a seccomp filter that is loaded already allows that if anything.
    pub(super) fn wait_for(&self, order: Order) -> Step<()> {
        let mut byte = [0];
        let length = rustix::io::retry_on_intr(|| rustix::io::read(&self.socket, &mut byte));
        match length.map_err(|errno| lost(errno.into()))? {
            1 if byte == [order.byte()] => Ok(()),
            _ => Err(SetupError::Instructions { problem: "an order is missing".to_owned() }),
        }
    }

    /// Ends the conversation without executing anything.
    pub(super) fn hang_up(&self) {
        // It fails only when the agent has hung up before.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }

    /// Reports a failure, by `write` for the same reason.
    pub(super) fn failed(&self, error: SetupError) {
        let json = serde_json::to_vec(&Report::Failed(error)).unwrap_or_default();
        let _ = rustix::io::write(&self.socket, &json);
    }
}

/// Descriptors in the order in which the agent sends them.
#[derive(Debug)]
pub(super) struct Descriptors(std::vec::IntoIter<OwnedFd>);

impl Descriptors {
    pub(super) fn take(&mut self) -> Step<OwnedFd> {
        self.0
            .next()
            .ok_or_else(|| SetupError::Instructions { problem: "a descriptor is missing".to_owned() })
    }
}

/// Writes an existing file at once.
pub(super) fn write_file(path: &str, text: &str) -> Result<(), std::io::Error> {
    fs::OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

/// Turns the kernel's answer into the error of a step about the process.
pub(super) fn process<E: Into<super::error::Errno>>(action: &str) -> impl FnOnce(E) -> SetupError {
    move |errno| SetupError::Process { action: action.to_owned(), errno: errno.into() }
}

fn lost(error: std::io::Error) -> SetupError {
    match error.raw_os_error() {
        Some(number) => SetupError::Instructions { problem: Errno::from_raw(number).desc().to_lowercase() },
        None => SetupError::Instructions { problem: error.to_string() },
    }
}
