//! The end of a pod's machine: power off if there is time, kill, and remove everything that the record names.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coffer_node::cleanup;
use tokio::time::timeout;

use super::driver::Pod;
use super::guest::Guest;
use super::state::SandboxEvent;

/// How long a guest that was asked to power off may take.
const POWER_OFF_LIMIT: Duration = Duration::from_millis(1500);

/// How long removing what the record names may take.
const CLEAN_LIMIT: Duration = Duration::from_secs(4);

impl Pod {
    /// Ends the machine in the background; the sandbox is gone when nothing is left.
    pub(super) fn tear_down(self: &Arc<Self>, power_off: bool) {
        let pod = self.clone();
        tokio::spawn(async move {
            let guest = pod.lock().guest.clone();
            if let Some(guest) = guest {
                end(&guest, power_off).await;
            }
            pod.on_sandbox(SandboxEvent::TornDown);
        });
    }
}

async fn end(guest: &Arc<Guest>, power_off: bool) {
    if power_off {
        let ended = async {
            guest.agent().shut_down().await;
            guest.machine_gone().await;
        };
        let _ = timeout(POWER_OFF_LIMIT, ended).await;
    }
    guest.kill().await;
    guest.abandon().await;
    clean(guest.run_root().to_owned(), guest.record().snapshot()).await;
}

/// Removes what a record names, on a thread of its own.
pub(super) async fn clean(run_root: std::path::PathBuf, record: coffer_node::record::Record) {
    let deadline = Instant::now() + CLEAN_LIMIT;
    let cleaned = tokio::task::spawn_blocking(move || cleanup::clean(&run_root, &record, deadline)).await;
    match cleaned {
        Ok(report) if report.is_complete() => tracing::info!("nothing of the pod is left"),
        Ok(report) => tracing::error!(%report, "something of the pod is left; coffer gc will try again"),
        Err(err) => tracing::error!(error = %err, "the cleanup broke off"),
    }
}
