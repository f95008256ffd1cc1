//! Why a boot ends early.

use std::io;
use std::path::PathBuf;

/// Why the guest could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// A file system that nothing works without could not be mounted.
    #[error("mounting {fs_type} on {target}; does the guest kernel have it built in?")]
    Mount {
        /// Kernel name of the file system.
        fs_type: &'static str,
        /// Where.
        target: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The tmpfs could not be put over the initramfs.
    #[error("making a root that can be pivoted, at {step}")]
    Root {
        /// Which system call.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The agent is PID 1 of something that is no guest of ours.
    #[error(
        "the root file system (type {magic:#x}) is no initramfs; start the agent in a guest, as its init"
    )]
    NotInitramfs {
        /// Its magic number.
        magic: rustix::fs::FsWord,
    },
}
