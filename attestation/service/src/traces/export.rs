//! Sends spans in batches, on a thread of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::span::{Span, batch};
use crate::collateral::{GetError, Https, Origin};

/// Spans that wait to be sent; more are dropped.
const QUEUE: usize = 2048;
/// Spans in one message.
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const WAIT: Duration = Duration::from_secs(2);
/// The longest answer that is read.
const MAX_ANSWER: usize = 64 << 10;

/// Where spans go. What waits is sent when this is dropped.
#[derive(Debug)]
pub struct Traces {
    sender: Option<SyncSender<Span>>,
    worker: Option<JoinHandle<()>>,
    seen: AtomicU64,
    one_in: u64,
}

impl Traces {
    /// Sends one in `one_in` requests to a collector.
    ///
    /// # Errors
    /// Without a thread.
    pub fn start(https: Https, collector: Origin, one_in: u64) -> std::io::Result<Self> {
        let (sender, spans) = sync_channel(QUEUE);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = move || {
            while let Some(spans) = collect(&spans) {
                let sent = runtime.block_on(send(&https, &collector, &spans));
                if let Err(error) = sent {
                    tracing::warn!(error = ?error, spans = spans.len(), "a collector did not take spans");
                }
            }
        };
        let worker = std::thread::Builder::new().name("traces".to_owned()).spawn(work)?;
        Ok(Self {
            sender: Some(sender),
            worker: Some(worker),
            seen: AtomicU64::new(0),
            one_in: one_in.max(1),
        })
    }

    /// Whether this request is one of those that are sent.
    pub fn is_wanted(&self) -> bool {
        self.seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.one_in)
    }

    /// Has a span sent, unless too many wait.
    pub fn record(&self, span: Span) {
        if let Some(sender) = &self.sender {
            let _ = sender.try_send(span);
        }
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        drop(self.sender.take());
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

/// Waits for a span, and a little for others; `None` when there will be none.
fn collect(spans: &Receiver<Span>) -> Option<Vec<Span>> {
    let mut found = vec![spans.recv().ok()?];
    let deadline = Instant::now() + WAIT;
    while found.len() < BATCH {
        match spans.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(span) => found.push(span),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    Some(found)
}

async fn send(https: &Https, collector: &Origin, spans: &[Span]) -> Result<(), GetError> {
    let body = batch(spans).to_string().into_bytes();
    https.post(collector, "/v1/traces", body, MAX_ANSWER).await.map(|_| ())
}
