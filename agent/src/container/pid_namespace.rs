//! A pid namespace that several containers share.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::error::ContainerError;
use super::launch::{Launch, Launcher, Made};
use super::messages::Instructions;
use super::sys;

/// A pid namespace with a first process that only reaps. It ends with the last clone of this handle.
#[derive(Debug, Clone)]
pub(crate) struct SharedPidNamespace(Arc<SharedInner>);

#[derive(Debug)]
struct SharedInner {
    namespace: OwnedFd,
    first: Made,
}

impl SharedPidNamespace {
    pub(super) async fn make(launcher: &Launcher) -> Result<Self, ContainerError> {
        let launch = Launch {
            id: "pod",
            instructions: Instructions::PidNamespace,
            descriptors: Vec::new(),
            mappings: None,
        };
        let launched = launcher.launch(launch).await?;
        let path = format!("/proc/{}/ns/pid", launched.process.pid);
        let namespace = std::fs::File::open(path)
            .map_err(|source| ContainerError::Agent { action: "open the pod's pid namespace", source })?;
        let inner = SharedInner { namespace: namespace.into(), first: launched.process };
        let shared = SharedPidNamespace(Arc::new(inner));
        launched.channel.start("pod").await?;
        Ok(shared)
    }

    pub(super) fn descriptor(&self) -> &OwnedFd {
        &self.0.namespace
    }
}

impl Drop for SharedInner {
    fn drop(&mut self) {
        // It fails only when the process is gone already.
        let _ = sys::pidfd_signal(self.first.pidfd.as_fd(), libc::SIGKILL);
    }
}
