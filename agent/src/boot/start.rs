//! The order of the boot.

use std::io;
use std::path::PathBuf;

use super::{limits, modules, mounts, root};
use crate::network;

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

/// Sets the guest up. Call once, as PID 1, before the runtime starts.
pub(crate) fn start() -> Result<(), BootError> {
    modules::load_listed();
    root::enter()?;
    mounts::mount_all()?;
    limits::apply();
    if let Err(error) = network::loopback_up() {
        tracing::error!(%error, "loopback stays down");
    }
    Ok(())
}
