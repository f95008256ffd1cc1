//! From a record to the steps that undo it.

use std::path::PathBuf;

use crate::process::ProcessId;
use crate::record::{Netns, Record};

/// One thing to undo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Kill and await a process.
    Kill(ProcessId, String),
    /// Kill everything in a cgroup and remove it.
    Cgroup(PathBuf),
    /// Kill what runs as the pod's user.
    KillUser(u32),
    /// Remove a tap, and the redirection on its link.
    Tap(Netns, String, String),
    /// Remove an nftables table.
    NftTable(Netns, String),
    /// Detach all mounts at and below a path.
    Unmount(PathBuf),
    /// Remove a file or socket.
    File(PathBuf),
    /// Remove a directory with its contents.
    Directory(PathBuf),
    /// Give a user back.
    Uid(PathBuf),
}

/// The steps that undo a record, in order.
pub fn plan(record: &Record, boot_id: &str) -> Vec<Step> {
    let _ = (record, boot_id);
    Vec::new()
}
