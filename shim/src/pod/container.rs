//! A container in a guest that runs: its layers, volumes, descriptors and init process, made and unmade.

use std::sync::Arc;

use coffer_node::layers::{Layer, LayerStore, RootfsMount};
use coffer_node::record::PodRecord;
use coffer_protocol::agent::CreateContainerRequest;
use coffer_protocol::{StreamHeader, StreamKind};

use super::agent;
use super::error::PodError;
use super::guest::Guest;
use super::image::{self, First};
use super::quota::{Change, quota};
use super::spec::HostSpec;
use super::{CreateRequest, ProcessKey};
use crate::event::Exit;
use crate::stdio::{GuestEnds, HostEnds, LoggerFor, StdioPaths, Streams};

/// What a container has in the shim.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// The copies of its init process's descriptors.
    pub(super) streams: Option<Streams>,
}

/// Makes a container whose init process waits for Start; `first` is what the machine was booted with for it.
pub(super) async fn make(
    guest: &Arc<Guest>,
    request: &CreateRequest,
    spec: &HostSpec,
    first: Option<First>,
) -> Result<Made, PodError> {
    let key = ProcessKey::init(&request.id);
    let host = open_host_ends(guest, &request.stdio, &request.id).await?;
    let layers = image::layers(guest, request, spec, first).await?;
    let plan = spec.plan_volumes()?;
    guest.prepare_volumes(&request.id, &plan).await?;
    let message = CreateContainerRequest {
        container_id: request.id.clone(),
        spec: spec.for_guest(&plan)?,
        layers,
        streams: agent::streams(host.present(), request.stdio.terminal),
        ..Default::default()
    };
    guest.cpu_time().set(&request.id, Change::Limit(quota(spec.limits())));
    guest.create_container(&message).await?;
    let ends = open_guest_ends(guest, &key, host.present()).await?;
    Ok(Made { streams: Some(Streams::start(host, ends)) })
}

/// Undoes what a failed [`make`] may have done.
pub(super) async fn unmake(guest: &Arc<Guest>, id: &str) {
    forget(guest, &ProcessKey::init(id), false).await;
}

/// Forgets a process in the guest, and with an init process what its container used; `last` says that the machine
/// goes with it. Answers how it had ended.
pub(super) async fn forget(guest: &Arc<Guest>, key: &ProcessKey, last: bool) -> Option<Exit> {
    let ended = match guest.agent().delete(key).await {
        Ok(ended) => Some(ended.exit),
        Err(err) => {
            tracing::debug!(process = %key, error = %err, "the agent does not delete the process");
            None
        }
    };
    if key.exec.is_none() {
        guest.release(&key.container, last).await;
    }
    ended
}

/// The layers of a root file system, each as a disk; converting one may take long.
pub(super) async fn resolve_layers(
    layers_dir: std::path::PathBuf,
    rootfs: Vec<RootfsMount>,
    record: PodRecord,
) -> Result<Vec<Layer>, PodError> {
    let resolved = tokio::task::spawn_blocking(move || {
        let mut log = |progress| tracing::debug!(?progress, "layers");
        LayerStore::open(&layers_dir)?.layers(&rootfs, &record, &mut log)
    });
    let doing = "prepare the root file system";
    resolved.await.map_err(|err| PodError::host(doing, err))?.map_err(|err| PodError::host(doing, err))
}

/// Opens what containerd named for a process's descriptors.
pub(super) async fn open_host_ends(
    guest: &Guest,
    stdio: &StdioPaths,
    id: &str,
) -> Result<HostEnds, PodError> {
    let logger = LoggerFor { namespace: guest.namespace().to_owned(), container: id.to_owned() };
    HostEnds::open(stdio, &logger)
        .await
        .map_err(|err| PodError::host("open the process's standard streams", err))
}

/// Opens the guest's end of each descriptor that the host has.
pub(super) async fn open_guest_ends(
    guest: &Guest,
    key: &ProcessKey,
    present: (bool, bool, bool),
) -> Result<GuestEnds, PodError> {
    let open = async |wanted: bool, kind: StreamKind| -> Result<_, PodError> {
        if !wanted {
            return Ok(None);
        }
        let header = StreamHeader::Stdio { container: key.container.clone(), exec: key.exec.clone(), kind };
        guest.stream(&header).await.map(Some)
    };
    let (stdin, stdout, stderr) = tokio::try_join!(
        open(present.0, StreamKind::Stdin),
        open(present.1, StreamKind::Stdout),
        open(present.2, StreamKind::Stderr),
    )?;
    Ok(GuestEnds { stdin, stdout, stderr })
}
