//! Standard input, output and error of a process: from containerd's fifos to one guest stream per descriptor.
//!
//! ```text
//! client ⇄ fifo ⇄ copy (one task per descriptor) ⇄ vsock stream ⇄ agent ⇄ process
//! ```
//! Each descriptor has its own stream and its own task, so a reader that stops holds back nothing but its own
//! writer. A copy never decides when a process has ended: after the exit, output that is on its way is delivered, and
//! a stream on which nothing more comes is closed. A fifo is closed only after somebody has opened it for reading, or not within
//! seconds: containerd opens its end beside the calls that it makes, and may come after a short process's end.

mod copy;
mod host;
mod logger;
mod uri;

pub(crate) use copy::{GuestEnds, Streams};
pub(crate) use host::HostEnds;
pub(crate) use logger::LoggerFor;

/// Where a process's descriptors go, as containerd names them; an empty string means nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StdioPaths {
    /// Standard input.
    pub(crate) stdin: String,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error; always empty with a terminal.
    pub(crate) stderr: String,
    /// Whether the process has a terminal.
    pub(crate) terminal: bool,
}

impl StdioPaths {
    /// Which descriptors there are: standard input, output, error. A logging program takes both outputs.
    pub(crate) fn present(&self) -> (bool, bool, bool) {
        let logger = self.stdout.starts_with("binary://");
        let stderr = !self.terminal && (logger || !self.stderr.is_empty());
        (!self.stdin.is_empty(), !self.stdout.is_empty(), stderr)
    }
}
