//! Secrets of the pod's verifier for its containers.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

use super::{Pod, PodError, ProcessId};
use crate::attest::{AttestError, Attested, Launched};
use crate::chain::Chain;
use crate::container::{ContainerError, ContainerSpec, ProcessSpec};
use crate::local::{Door, INSIDE};
use crate::sandbox::SandboxError;

impl Pod {
    /// Holds what the host says of the launch against the processor's word, and fetches what the pod asks for at its start.
    /// Answers with the policy for images that the processor vouches for, if there is one.
    pub(super) async fn attest(&self, launched: Launched) -> Result<Option<String>, PodError> {
        let begun = Attested::begin(launched, self.shared.admissions.shown.clone()).await;
        let begun = begun.map_err(|source| PodError::sandbox(SandboxError::Attestation { source }))?;
        // A sandbox is prepared once.
        let _ = self.shared.attested.set(Arc::new(begun.attested));
        tokio::spawn(self.clone().end_those_who_know(begun.end));
        Ok(begun.image_policy)
    }

    /// Gives a container the files of secrets and a socket to ask for others, if it may, and fills its environment.
    pub(super) async fn give_secrets(
        &self,
        id: &str,
        spec: &mut ContainerSpec,
    ) -> Result<Option<Door>, PodError> {
        let Some(attested) = self.shared.attested.get() else { return Ok(None) };
        attested.confirm().await.map_err(|error| PodError::container(id)(not_given(&error)))?;
        if let Some(files) = attested.files() {
            spec.show_read_only(PathBuf::from(files.source), files.destination.to_owned());
        }
        let grant = spec.name.as_deref().and_then(|name| attested.grant(name));
        let door = grant.map(|grant| Door::open(grant, attested.clone())).transpose();
        let refused =
            |source| ContainerError::Agent { action: "make the socket where it asks for secrets", source };
        let door = door.map_err(|source| PodError::container(id)(refused(source)))?;
        if let Some(door) = &door {
            spec.show_read_only(door.directory().to_owned(), INSIDE.into());
        }
        self.unseal(id, &mut spec.process).await?;
        Ok(door)
    }

    /// Fills the environment of a process of the container `id`.
    pub(super) async fn unseal(&self, id: &str, process: &mut ProcessSpec) -> Result<(), PodError> {
        let Some(attested) = self.shared.attested.get() else { return Ok(()) };
        let given = attested.unseal(id, process.environment_mut()).await;
        given.map_err(|error| PodError::container(id)(not_given(&error)))
    }

    /// Refuses a container that has a secret in its environment which was taken back.
    pub(super) fn check_secrets(&self, id: &str) -> Result<(), PodError> {
        let Some(attested) = self.shared.attested.get() else { return Ok(()) };
        attested.check_container(id).map_err(|error| PodError::container(id)(not_given(&error)))
    }

    /// The container is gone, or could not be made.
    pub(super) fn forget_secrets(&self, id: &str) {
        if let Some(attested) = self.shared.attested.get() {
            attested.forget_container(id);
        }
    }

    /// Ends every container that has a secret in its environment which was taken back: nobody else takes it from there.
    async fn end_those_who_know(self, mut ended: UnboundedReceiver<BTreeSet<String>>) {
        while let Some(containers) = ended.recv().await {
            for container in containers {
                let id = ProcessId { container, exec: String::new() };
                // It may be gone already, which is as good.
                match self.signal(&id, libc::SIGKILL, true) {
                    Ok(()) => tracing::warn!(
                        container = id.container,
                        "ended: a secret in its environment was taken back"
                    ),
                    Err(error) => tracing::debug!(container = id.container, %error, "not ended"),
                }
            }
        }
    }
}

fn not_given(error: &AttestError) -> ContainerError {
    let source = io::Error::other(Chain(error).to_string());
    ContainerError::Agent { action: "give it its secrets", source }
}
