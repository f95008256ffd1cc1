//! Images that were judged for containers that are still to be made.
//!
//! ```text
//! admit ── noted for the evidence ── waiting for its layers ── permit: CreateContainer takes it, once
//!                                └─ forgotten: another admit for the id, DeleteProcess, too many others since
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use coffer_attestation::handshake::{ImageRecord, ResourceName};
use coffer_image::UnixTime;
use coffer_protocol::Digest;

use super::{Pod, PodError};
use crate::attest::Shown;
use crate::chain::Chain;
use crate::gate::{Bytes, Claim, Gate, GateError, SealedImage, Verdict};
use crate::image::{Delivery, ImageError, Permit, Unpacking};

/// Admitted images that wait for their containers; of more the oldest is forgotten.
const MAX_WAITING: usize = 64;

/// What was judged.
#[derive(Debug, Default)]
pub(super) struct Admissions {
    waiting: Mutex<VecDeque<Waiting>>,
    /// Every image that was let run since the guest began, whether a container was made of it or not: its bytes may be on their
    /// way, or a key for them be asked for. None is forgotten.
    pub(super) shown: Arc<Shown>,
}

#[derive(Debug)]
struct Waiting {
    container: String,
    layers: Arrival,
}

#[derive(Debug)]
enum Arrival {
    Sealed(SealedImage),
    Sent(Arc<Delivery>),
}

/// What became of a claim.
#[derive(Debug)]
pub(crate) enum Admitted {
    /// No policy applies.
    Unjudged,
    /// Its disks are mounted as they are; with a reason it would be refused if the policy were enforced.
    Rehearsed { reason: String, judgement: Vec<u8> },
    /// Its layers come on disks.
    Sealed { judgement: Vec<u8> },
    /// These archives are to be sent.
    Wanted { digests: Vec<Digest>, judgement: Vec<u8> },
}

impl Pod {
    /// Judges the image of a container that is to be made.
    pub(crate) async fn admit(&self, container: &str, claim: Claim) -> Result<Admitted, PodError> {
        self.check_vacant(container)?;
        let gate = self.gate()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let judged = tokio::task::spawn_blocking(move || gate.judge(claim, UnixTime(now.as_secs()))).await;
        let judged = judged.map_err(|_| PodError::CutOff { what: "AdmitImage" })?;
        self.answer(container, judged.map_err(refused(container))?)
    }

    /// Keeps what was admitted, unless its container has been made while it was judged.
    pub(super) fn answer(&self, container: &str, verdict: Verdict) -> Result<Admitted, PodError> {
        self.check_vacant(container)?;
        match verdict {
            Verdict::Unjudged => Ok(Admitted::Unjudged),
            Verdict::Rehearsed { refusal, judgement } => {
                let reason = refusal.map(|refusal| Chain(&refusal).to_string()).unwrap_or_default();
                if !reason.is_empty() {
                    tracing::warn!(container, reason, "an enforced policy would refuse the image");
                }
                self.shared.admissions.forget(container);
                Ok(Admitted::Rehearsed { reason, judgement })
            }
            Verdict::Admitted { admission, judgement } => {
                let (record, bytes) = admission.into_parts();
                self.shared.admissions.note(record).map_err(refused(container))?;
                Ok(self.wait_for(container, bytes, judgement))
            }
        }
    }

    fn wait_for(&self, container: &str, bytes: Bytes, judgement: Vec<u8>) -> Admitted {
        let (layers, admitted) = match bytes {
            Bytes::Sealed(image) => (Arrival::Sealed(image), Admitted::Sealed { judgement }),
            Bytes::Blobs(blobs) => {
                let delivery = self.shared.images.await_layers(blobs);
                let digests = delivery.wanted();
                (Arrival::Sent(delivery), Admitted::Wanted { digests, judgement })
            }
        };
        self.shared.admissions.wait(Waiting { container: container.to_owned(), layers });
        admitted
    }

    /// Lets a layer's archive be sent for a container whose image was admitted, when it is its turn; the verifier is asked for the
    /// key of an encrypted one.
    pub(crate) async fn begin_layer(&self, container: &str, digest: Digest) -> Result<Unpacking, PodError> {
        let delivery = self.shared.admissions.delivery(container);
        let delivery = delivery.ok_or(GateError::NotJudged).map_err(refused(container))?;
        let refused = |error| PodError::image(container)(ImageError::Delivery(error));
        let unpacking = delivery.begin(digest).await.map_err(refused)?;
        let Some(key) = unpacking.locked() else { return Ok(unpacking) };
        let Some(attested) = self.shared.attested.get() else {
            return Err(refused(unpacking.unattested(&key)));
        };
        let ask = |key: ResourceName| async move { attested.layer_key(&key).await };
        unpacking.unlocked(&self.shared.admissions.shown, ask).await.map_err(refused)
    }

    /// What lets the root file system of a container be mounted. It is given once.
    pub(super) fn permit(&self, container: &str) -> Result<Permit, PodError> {
        let Some(waiting) = self.shared.admissions.forget(container) else {
            return self.gate()?.unjudged().map(Permit::Unjudged).map_err(refused(container));
        };
        Ok(match waiting.layers {
            Arrival::Sealed(image) => Permit::Sealed(image),
            Arrival::Sent(delivery) => Permit::Delivered(delivery),
        })
    }

    /// Forgets the admission of a container that will not be made.
    pub(super) fn forget_admission(&self, container: &str) {
        drop(self.shared.admissions.forget(container));
    }

    fn gate(&self) -> Result<Arc<Gate>, PodError> {
        self.ready()?;
        self.shared.gate.get().cloned().ok_or(PodError::NoSandbox)
    }
}

fn refused(container: &str) -> impl Fn(GateError) -> PodError {
    let refused = PodError::image(container);
    move |error| refused(ImageError::Gate(error))
}

impl Admissions {
    fn wait(&self, waiting: Waiting) {
        // Its layers may go with it, which is no work for under the lock.
        let _former = self.forget(&waiting.container);
        let mut queue = lock(&self.waiting);
        queue.push_back(waiting);
        let _oldest = if queue.len() > MAX_WAITING { queue.pop_front() } else { None };
        drop(queue);
    }

    /// Takes a container's admission out, if it has one.
    fn forget(&self, container: &str) -> Option<Waiting> {
        let mut queue = lock(&self.waiting);
        let place = queue.iter().position(|waiting| waiting.container == container)?;
        queue.remove(place)
    }

    fn delivery(&self, container: &str) -> Option<Arc<Delivery>> {
        let queue = lock(&self.waiting);
        match &queue.iter().find(|waiting| waiting.container == container)?.layers {
            Arrival::Sent(delivery) => Some(delivery.clone()),
            Arrival::Sealed(_) => None,
        }
    }

    fn note(&self, record: ImageRecord) -> Result<(), GateError> {
        let ImageRecord { image, digest, rule, signers } = record.clone();
        if self.shown.note(record).map_err(GateError::Record)? {
            let signers = signers.join(", ");
            tracing::info!(image, digest, rule, signers, "admitted");
        }
        Ok(())
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
