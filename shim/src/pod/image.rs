//! How a container's root file system comes into a guest that judges images: the question first, then bytes in the way that its
//! answer asks for.
//!
//! ```text
//! containerd ── Said ── AdmitImage ── refused: told, recorded, the container is not made
//!                            ├─ sealed: the image's files are plugged     ├─ not judged: disks as everywhere
//!                            └─ wanted: blobs are streamed, no disk
//! ```

use std::sync::Arc;
use std::time::Instant;

use coffer_node::images::{Outcome, ToldImage};
use coffer_node::layers::{self, Layer, RootfsMount};
use coffer_protocol::agent::{AdmitImageRequest, AdmitImageResponse, LayerDisk};

use super::CreateRequest;
use super::container::resolve_layers;
use super::error::{PodError, Reason, chain};
use super::guest::Guest;
use super::spec::HostSpec;
use crate::images::{Gate, ImageError, Said, SendError, Way, answered};

/// What a container that is a pod of its own was booted with.
#[derive(Default)]
pub(super) struct First {
    /// Its layers' disks.
    pub(super) layers: Vec<LayerDisk>,
    /// What containerd said of its image, if somebody judges it.
    pub(super) said: Option<Said>,
}

/// The disks of a container's root file system; none if its image went as blobs. `first`: the machine was booted for it.
pub(super) async fn layers(
    guest: &Arc<Guest>,
    request: &CreateRequest,
    spec: &HostSpec,
    first: Option<First>,
) -> Result<Vec<LayerDisk>, PodError> {
    let mounts = spec.rootfs(&request.rootfs, &request.bundle);
    let Some(gate) = guest.gate().cloned() else {
        return match first {
            Some(first) => Ok(first.layers),
            None => plug_snapshots(guest, &request.id, mounts).await,
        };
    };
    let First { layers: booted, said } = first.unwrap_or_default();
    let (said, way) = way(guest, &gate, request, spec, said).await?;
    let began = Instant::now();
    let disks = match (way, said) {
        (Way::Sealed | Way::Snapshots, _) if !booted.is_empty() => return Ok(booted),
        (Way::Sealed, Some(said)) => {
            let layers = sealed_layers(mounts, &said).await?;
            guest.attach_layers(&request.id, layers).await?
        }
        (Way::Blobs(wanted), Some(said)) => {
            if let Err(err) = gate.send(&request.id, &said, &wanted, &**guest).await {
                let err = unsent(guest, err).await;
                refused(guest, &request.id, &said, &err, began);
                return Err(err);
            }
            Vec::new()
        }
        (Way::Snapshots, _) | (_, None) => plug_snapshots(guest, &request.id, mounts).await?,
    };
    guest.trace_layers(&request.id, began);
    Ok(disks)
}

/// What containerd says of the image, and the way that the guest wants; `None` in a rehearsal where containerd has no answer.
async fn way(
    guest: &Arc<Guest>,
    gate: &Arc<Gate>,
    request: &CreateRequest,
    spec: &HostSpec,
    said: Option<Said>,
) -> Result<(Option<Said>, Way), PodError> {
    let asked = match said {
        Some(said) => Ok(said),
        None => gate.ask(&request.id, &spec.annotations()).await.map_err(failed),
    };
    let said = match asked {
        Ok(said) => said,
        Err(err) if gate.is_rehearsal() => {
            untold(&request.id, &err);
            return Ok((None, Way::Snapshots));
        }
        Err(err) => return Err(err),
    };
    let way = match judged(guest, gate.clone(), &request.id, &said, Instant::now()).await {
        Ok(answer) => answered(&answer, &said, gate.is_rehearsal()).map_err(failed)?,
        Err(err)
            if gate.is_rehearsal()
                && !matches!(err, PodError::GuestGone { .. })
                && said.encrypted().is_empty() =>
        {
            untold(&request.id, &err);
            if said.is_sealed() { Way::Sealed } else { Way::Snapshots }
        }
        Err(err) => return Err(err),
    };
    tracing::info!(
        container = request.id,
        image = said.reference(),
        ?way,
        "how the image's bytes go to the guest"
    );
    Ok((Some(said), way))
}

/// A stream that breaks is often the first that is seen of a machine's end.
async fn unsent(guest: &Guest, error: ImageError) -> PodError {
    let broken = matches!(&error, ImageError::Send { source: SendError::Broken(_) | SendError::Open(_), .. });
    if broken && guest.ends_now().await {
        let doing = "taking the image's layers";
        return guest.explain(PodError::GuestGone { doing, console: String::new() }).await;
    }
    failed(error)
}

/// A dry run that comes to no verdict stops nothing either.
pub(super) fn untold(id: &str, error: &PodError) {
    tracing::warn!(
        container = id,
        error = chain(error),
        "a dry run: the image could not be judged and would be refused"
    );
}

/// Asks the guest, and notes what it says.
async fn judged(
    guest: &Arc<Guest>,
    gate: Arc<Gate>,
    id: &str,
    said: &Said,
    began: Instant,
) -> Result<AdmitImageResponse, PodError> {
    let question = question(gate, id.to_owned(), said.clone()).await?;
    let answer = guest.admit(&question).await.inspect_err(|err| refused(guest, id, said, err, began))?;
    let would = Some(answer.would_refuse.clone()).filter(|reason| !reason.is_empty());
    let outcome = match (answer.judged, &would) {
        (false, _) => Outcome::NotJudged,
        (true, None) => Outcome::Admitted,
        (true, Some(reason)) => {
            tracing::warn!(
                container = id,
                image = said.reference(),
                reason,
                "a dry run: the image would be refused"
            );
            Outcome::WouldBeRefused
        }
    };
    guest.tell_image(told(id, said, outcome, would).with(&answer.judgement), began);
    Ok(answer)
}

/// Notes an image that may not run; another failure is no verdict.
fn refused(guest: &Guest, id: &str, said: &Said, error: &PodError, began: Instant) {
    if error.reason() != Reason::PermissionDenied {
        return;
    }
    let reason = chain(error);
    tracing::warn!(container = id, image = said.reference(), reason, "the image is refused");
    guest.tell_image(told(id, said, Outcome::Refused, Some(reason)).with(&[]), began);
}

fn told(id: &str, said: &Said, outcome: Outcome, reason: Option<String>) -> ToldImage {
    ToldImage {
        container: id.to_owned(),
        image: said.reference().to_owned(),
        digest: said.digest().map(ToString::to_string),
        encrypted: said.encrypted(),
        outcome,
        reason,
        judgement: None,
    }
}

/// Signature objects are files of this node.
async fn question(gate: Arc<Gate>, id: String, said: Said) -> Result<AdmitImageRequest, PodError> {
    let asked = tokio::task::spawn_blocking(move || gate.question(&id, &said));
    asked.await.map_err(|err| PodError::host(SHOWING, err))?.map_err(failed)
}

/// The files of a sealed image, opened.
pub(super) async fn sealed_layers(mounts: Vec<RootfsMount>, said: &Said) -> Result<Vec<Layer>, PodError> {
    let roots = said.sealed_roots().map_err(failed)?;
    let doing = "open the files of the sealed image";
    let opened = tokio::task::spawn_blocking(move || layers::sealed(&mounts, &roots));
    opened.await.map_err(|err| PodError::host(doing, err))?.map_err(|err| PodError::host(doing, err))
}

async fn plug_snapshots(
    guest: &Arc<Guest>,
    id: &str,
    mounts: Vec<RootfsMount>,
) -> Result<Vec<LayerDisk>, PodError> {
    let layers = resolve_layers(guest.layers_dir().to_owned(), mounts, guest.record().clone()).await?;
    guest.attach_layers(id, layers).await
}

const SHOWING: &str = "show the container's image to the guest";

/// What the guest refuses is refused; what a container cannot be is the caller's; the rest is the host's.
pub(super) fn failed(error: ImageError) -> PodError {
    match &error {
        ImageError::Send { source: SendError::Refused(_), .. } => PodError::Agent {
            doing: "taking the image's layers",
            reason: Reason::PermissionDenied,
            message: chain(&error),
        },
        ImageError::None { .. } => PodError::Refused { what: chain(&error) },
        _ => PodError::host(SHOWING, error),
    }
}
