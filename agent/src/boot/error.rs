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
}
