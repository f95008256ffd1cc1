//! What other replicas changed: read again before anything is decided by it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::refusal::Refusal;
use super::verifier::Verifier;

impl Verifier {
    /// Reads policies and references again if another replica changed one since they were read. Whoever decides by them asks
    /// first; where there are no replicas this is nothing.
    pub(super) fn catch_up(&self) -> Result<(), Refusal> {
        let Some(generation) =
            self.store.database().generation().map_err(crate::secrets::StoreError::from)?
        else {
            return Ok(());
        };
        if self.caught_up.load(Ordering::Acquire) == generation {
            return Ok(());
        }
        // One reads, and whoever else came waits for that. The number was read before the documents: a change in between makes
        // the next one read them again.
        let given = self.given.write().unwrap_or_else(PoisonError::into_inner);
        if self.caught_up.load(Ordering::Acquire) != generation {
            self.read_policies()?;
            let all = self.with_added(&given)?;
            *self.references.write().unwrap_or_else(PoisonError::into_inner) = all;
            self.caught_up.store(generation, Ordering::Release);
            self.tell_guests();
        }
        Ok(())
    }

    /// Hears of what other replicas do, and has guests that wait look how they stand. Without replicas it ends at once.
    pub async fn follow(self: Arc<Self>) {
        let Some(mut news) = self.store.database().replicas().map(|replicas| replicas.news()) else { return };
        while news.changed().await.is_ok() {
            let verifier = self.clone();
            let caught_up = tokio::task::spawn_blocking(move || verifier.catch_up()).await;
            if let Ok(Err(refusal)) = caught_up {
                tracing::error!(%refusal, "what another replica changed cannot be taken over: nothing is decided until it can");
            }
            self.tell_guests();
        }
    }
}
