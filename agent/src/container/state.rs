//! Where a process is in its life.
//!
//! ```text
//! Created ── start ──► Running ◄── pause, resume ──► Paused
//!    └────────────────────┴── exit published ──► Stopped
//! ```

use std::fmt;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcessState {
    /// Set up, not yet executing its program.
    Created,
    /// Executing.
    Running,
    /// Frozen with its container.
    Paused,
    /// Gone; its exit is known.
    Stopped,
}

impl fmt::Display for ProcessState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProcessState::Created => "created",
            ProcessState::Running => "running",
            ProcessState::Paused => "paused",
            ProcessState::Stopped => "stopped",
        })
    }
}
