//! Asks one maker's service, on a thread of its own: one item at a time, each once however many wait for it.
//!
//! ```text
//! want ── Line ── Pace  says when ── questions ── answers ── Cache::keep verifies ── everybody who waits looks again
//!                    └── a failure that may pass: a pause, then again; three times ── any other: not asked for a while
//! ```

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use coffer_attestation::tdx::CollateralError;
use coffer_attestation::time::UnixTime;

use super::cache::{Cache, CacheError};
use super::https::{GetError, Https};
use super::item::Item;
use super::line::{Job, Line};
use super::pace::Pace;
use super::questions::Makers;
use super::read::Unusable;
use crate::source::Source;

/// How often one is asked for before those who wait are told.
const TRIES: u32 = 3;
/// How long something that the service does not have is not asked for again, in milliseconds.
const REFUSED: u64 = 600_000;
/// How many such things are remembered. More are asked for again.
const MAX_REFUSED: usize = 1024;

/// Fetches, for as long as it is there.
pub struct Fetcher {
    shared: Arc<Shared>,
}

struct Shared {
    start: Instant,
    queue: Mutex<Queue>,
    changed: Condvar,
}

struct Queue {
    waiting: Line,
    /// In the queue, or asked for now.
    pending: HashSet<Item>,
    /// Until when each is not asked for again.
    refused: HashMap<Item, u64>,
    pace: Pace,
    stopped: bool,
}

/// What asks, and where it keeps what it got.
struct Worker {
    shared: Arc<Shared>,
    cache: Arc<Cache>,
    https: Https,
    makers: Makers,
}

/// Why an item was not got.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The service.
    #[error(transparent)]
    Get(#[from] GetError),
    /// Its answers do not fit together.
    #[error("the answers are not what they must be")]
    Answers(#[from] CollateralError),
    /// What came does not verify, or cannot be kept.
    #[error(transparent)]
    Keep(#[from] CacheError),
    /// Too much is wanted, or the service is to be left alone.
    #[error("it cannot be asked for now")]
    Later,
    /// The service was asked, and does not have it.
    #[error("the service did not have it, or sent something else")]
    Refused,
}

impl Fetcher {
    /// Begins.
    ///
    /// # Errors
    /// Without a thread.
    pub fn start(cache: Arc<Cache>, https: Https, makers: Makers, pace: Pace) -> std::io::Result<Self> {
        let queue = Queue {
            waiting: Line::default(),
            pending: HashSet::new(),
            refused: HashMap::new(),
            pace,
            stopped: false,
        };
        let shared =
            Arc::new(Shared { start: Instant::now(), queue: Mutex::new(queue), changed: Condvar::new() });
        let worker = Worker { shared: shared.clone(), cache, https, makers };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("collateral".to_owned()).spawn(move || worker.work(&runtime))?;
        Ok(Self { shared })
    }

    /// Has an item fetched for `from` as of the time `at`, and does not wait for it.
    ///
    /// # Errors
    /// [`FetchError::Later`], [`FetchError::Refused`]
    pub fn want(&self, item: &Item, from: Source, at: UnixTime) -> Result<(), FetchError> {
        self.enqueue(&mut self.shared.queue(), item, from, at).map(|_| ())
    }

    /// Has an item fetched, and waits until it was, or was not to be had; the cache knows which. Waits for `patience` at most.
    ///
    /// # Errors
    /// [`FetchError::Later`], [`FetchError::Refused`]
    pub fn wait(
        &self,
        item: &Item,
        from: Source,
        at: UnixTime,
        patience: Duration,
    ) -> Result<(), FetchError> {
        let deadline = Instant::now() + patience;
        let mut queue = self.shared.queue();
        let begins = self.enqueue(&mut queue, item, from, at)?;
        if begins.saturating_sub(self.shared.now()) > millis(patience) {
            return Err(FetchError::Later);
        }
        while queue.pending.contains(item) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(FetchError::Later);
            }
            let waited = self.shared.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Answers when it may be asked for.
    fn enqueue(&self, queue: &mut Queue, item: &Item, from: Source, at: UnixTime) -> Result<u64, FetchError> {
        let now = self.shared.now();
        if queue.refused.get(item).is_some_and(|until| *until > now) {
            return Err(FetchError::Refused);
        }
        if !queue.pending.contains(item) {
            let job = Job { item: item.clone(), at, wanted_by: from, tries: 0 };
            let gave_way = queue.waiting.add(job).map_err(|_| FetchError::Later)?;
            // Whoever waits for it looks again, and is told to come back.
            if let Some(job) = gave_way {
                queue.pending.remove(&job.item);
            }
            queue.pending.insert(item.clone());
            self.shared.changed.notify_all();
        }
        Ok(queue.pace.next(1))
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.shared.queue().stopped = true;
        self.shared.changed.notify_all();
    }
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fetcher")
    }
}

impl Shared {
    fn now(&self) -> u64 {
        millis(self.start.elapsed())
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A thread that died left at most an item that is asked for again.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next item and for its time; `None` when nobody wants any more.
    fn next(&self, makers: &Makers) -> Option<Job> {
        let mut queue = self.queue();
        loop {
            if queue.stopped {
                return None;
            }
            let requests = queue.waiting.next().map(|job| job.item.questions(makers).len() as u64);
            let pause = requests.map(|requests| queue.pace.next(requests).saturating_sub(self.now()));
            match (requests, pause) {
                (Some(requests), Some(0)) => {
                    queue.pace.sent(requests, self.now());
                    return queue.waiting.take();
                }
                (_, Some(pause)) => {
                    let waited = self.changed.wait_timeout(queue, Duration::from_millis(pause));
                    queue = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                _ => queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// What became of a job. Answers it if it is to be tried again.
    fn ended(&self, job: Job, outcome: &Result<(), FetchError>) {
        let mut queue = self.queue();
        let now = self.now();
        match outcome {
            Ok(()) => queue.pace.succeeded(),
            Err(FetchError::Get(error)) if error.may_pass() => {
                let wish = error.wait().map(|seconds| seconds.saturating_mul(1000));
                queue.pace.failed(now, wish, chance());
                if job.tries + 1 < TRIES {
                    queue.waiting.again(Job { tries: job.tries + 1, ..job });
                    return;
                }
            }
            Err(_) => {
                queue.pace.succeeded();
                if queue.refused.len() >= MAX_REFUSED {
                    queue.refused.clear();
                }
                queue.refused.insert(job.item.clone(), now.saturating_add(REFUSED));
            }
        }
        queue.pending.remove(&job.item);
        self.changed.notify_all();
    }
}

impl Worker {
    fn work(self, runtime: &tokio::runtime::Runtime) {
        while let Some(job) = self.shared.next(&self.makers) {
            let outcome = runtime.block_on(self.fetch(&job.item, job.at));
            match &outcome {
                Ok(()) => tracing::info!(item = %job.item, "fetched"),
                Err(error) => {
                    let why = chain_of(error);
                    tracing::warn!(item = %job.item, why, "could not be fetched");
                }
            }
            self.shared.ended(job, &outcome);
        }
    }

    async fn fetch(&self, item: &Item, at: UnixTime) -> Result<(), FetchError> {
        let mut answers = Vec::new();
        for question in item.questions(&self.makers) {
            answers.push(self.https.get(question.origin, &question.path, question.limit).await?);
        }
        let bytes = item.assemble(answers)?;
        match self.cache.keep_fetched(item, &bytes, at) {
            Err(CacheError::Unusable {
                item: Item::Vcek { generation, .. },
                source: Unusable::Untrusted { .. },
            }) => {
                // AMD may have an intermediate that is newer than this program.
                self.fetch_chain(&Item::Chain { generation }, at).await?;
                self.cache.keep_fetched(item, &bytes, at)?;
            }
            kept => drop(kept?),
        }
        Ok(())
    }

    async fn fetch_chain(&self, chain: &Item, at: UnixTime) -> Result<(), FetchError> {
        for question in chain.questions(&self.makers) {
            self.shared.queue().pace.sent(1, self.shared.now());
            let answer = self.https.get(question.origin, &question.path, question.limit).await?;
            self.cache.keep_fetched(chain, &answer.body, at)?;
        }
        Ok(())
    }
}

fn chain_of(error: &dyn Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.chars().take(500).collect()
}

fn chance() -> u16 {
    let mut bytes = [0; 2];
    // Without randomness the shortest pause.
    let _ = getrandom::fill(&mut bytes);
    u16::from_le_bytes(bytes)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
