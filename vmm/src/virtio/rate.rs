//! How much a device may move: token buckets, in time that is told.
//!
//! Work is done as long as there is a token left, and may take more than there are: what it took too many is waited for
//! before the next. So the longest request is never stuck, and in the long run no more than the limit is moved.

use std::time::{Duration, Instant};

use crate::spec::{Limit, Rate};

/// Billionths: what a bucket holds is counted in them, so that each nanosecond brings a whole number.
const WHOLE: i128 = 1_000_000_000;

/// Tells how much time has passed since some moment.
type Clock = Box<dyn FnMut() -> Duration + Send>;

/// What keeps one direction of a device, or one device, to a limit.
pub struct Limiter {
    bytes: Option<Bucket>,
    operations: Option<Bucket>,
    clock: Clock,
}

impl std::fmt::Debug for Limiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Limiter { bytes, operations, .. } = self;
        f.debug_struct("Limiter")
            .field("bytes", bytes)
            .field("operations", operations)
            .finish_non_exhaustive()
    }
}

impl Limiter {
    /// A limiter in the time of this machine, with full buckets.
    pub fn new(limit: Limit) -> Limiter {
        let start = Instant::now();
        Limiter::with(limit, Box::new(move || start.elapsed()))
    }

    /// The same in another time.
    pub fn with(limit: Limit, clock: Clock) -> Limiter {
        Limiter { bytes: limit.bytes.map(Bucket::new), operations: limit.operations.map(Bucket::new), clock }
    }

    /// How long is to be waited before anything is done; nothing if it may be done now.
    pub fn wait(&mut self) -> Option<Duration> {
        if self.bytes.is_none() && self.operations.is_none() {
            return None;
        }
        let now = (self.clock)();
        let buckets = [&mut self.bytes, &mut self.operations].into_iter().flatten();
        buckets.filter_map(|bucket| bucket.wait(now)).max()
    }

    /// Books one operation of so many bytes.
    pub fn spend(&mut self, bytes: u64) {
        for (bucket, amount) in [(&mut self.bytes, bytes), (&mut self.operations, 1)] {
            if let Some(bucket) = bucket {
                bucket.level = bucket.level.saturating_sub(i128::from(amount) * WHOLE);
            }
        }
    }
}

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// In billionths of a token; less than nothing after more was taken than there was.
    level: i128,
    at: Duration,
}

impl Bucket {
    fn new(rate: Rate) -> Bucket {
        Bucket { rate, level: Bucket::full(rate), at: Duration::ZERO }
    }

    fn full(rate: Rate) -> i128 {
        i128::from(rate.burst.get()) * WHOLE
    }

    fn wait(&mut self, now: Duration) -> Option<Duration> {
        let passed = now.saturating_sub(self.at);
        self.at = now.max(self.at);
        let each = i128::from(self.rate.per_second.get());
        let gained = i128::try_from(passed.as_nanos()).unwrap_or(i128::MAX).saturating_mul(each);
        self.level = self.level.saturating_add(gained).min(Bucket::full(self.rate));
        // Until there is a whole token, so that a limit is not asked for its fractions again and again.
        let lacking = WHOLE.saturating_sub(self.level);
        let nanoseconds = lacking.saturating_add(each - 1) / each;
        (lacking > 0).then(|| Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::num::NonZeroU64;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn rate(per_second: u64, burst: u64) -> Option<Rate> {
        Some(Rate { per_second: NonZeroU64::new(per_second)?, burst: NonZeroU64::new(burst)? })
    }

    /// A limiter whose time is the number of nanoseconds that is also given.
    fn limiter(limit: Limit) -> (Limiter, Arc<AtomicU64>) {
        let time = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&time);
        (Limiter::with(limit, Box::new(move || Duration::from_nanos(told.load(Ordering::SeqCst)))), time)
    }

    #[test]
    fn without_a_limit_nothing_is_waited_for() {
        let (mut limiter, _) = limiter(Limit::default());
        limiter.spend(u64::MAX);
        assert_eq!(limiter.wait(), None);
    }

    #[test]
    fn a_burst_is_free_and_what_follows_waits_for_its_tokens() {
        let (mut limiter, time) = limiter(Limit { bytes: rate(1000, 500), operations: None });
        limiter.spend(500);
        assert_eq!(limiter.wait(), Some(Duration::from_millis(1)));
        time.store(1_000_000, Ordering::SeqCst);
        assert_eq!(limiter.wait(), None);
    }

    #[test]
    fn what_is_larger_than_the_burst_is_done_and_paid_for_afterwards() {
        let (mut limiter, time) = limiter(Limit { bytes: rate(1000, 10), operations: None });
        assert_eq!(limiter.wait(), None);
        limiter.spend(3010);
        assert_eq!(limiter.wait(), Some(Duration::from_millis(3001)));
        time.store(3_001_000_000, Ordering::SeqCst);
        assert_eq!(limiter.wait(), None);
    }

    #[test]
    fn operations_count_whatever_their_length() {
        let (mut limiter, _) = limiter(Limit { bytes: rate(1 << 40, 1 << 40), operations: rate(4, 2) });
        limiter.spend(0);
        assert_eq!(limiter.wait(), None);
        limiter.spend(1);
        assert_eq!(limiter.wait(), Some(Duration::from_millis(250)));
    }

    #[test]
    fn a_long_rest_saves_no_more_than_the_burst() {
        let (mut limiter, time) = limiter(Limit { bytes: None, operations: rate(1, 2) });
        time.store(u64::MAX, Ordering::SeqCst);
        assert_eq!(limiter.wait(), None);
        limiter.spend(0);
        limiter.spend(0);
        assert_eq!(limiter.wait(), Some(Duration::from_secs(1)));
    }

    proptest! {
        #[test]
        fn no_more_is_moved_than_the_limit_the_burst_and_the_last_request(
            per_second in 1_u64..1 << 32,
            burst in 1_u64..1 << 32,
            steps in proptest::collection::vec((0_u64..1 << 32, 0_u64..1 << 32), 1..100)
        ) {
            let (mut limiter, time) = limiter(Limit { bytes: rate(per_second, burst), operations: None });
            let (mut moved, mut last) = (0_u128, 0_u128);
            for (pause, bytes) in steps {
                let now = time.fetch_add(pause, Ordering::SeqCst) + pause;
                if limiter.wait().is_none() {
                    limiter.spend(bytes);
                    moved += u128::from(bytes);
                    last = u128::from(bytes);
                }
                let earned = u128::from(now) * u128::from(per_second) / 1_000_000_000;
                prop_assert!(moved - last <= earned + u128::from(burst));
            }
        }

        #[test]
        fn after_the_wait_that_was_told_there_is_none(
            per_second in 1_u64..u64::MAX,
            burst in 1_u64..u64::MAX,
            bytes: u32
        ) {
            let (mut limiter, time) = limiter(Limit { bytes: rate(per_second, burst), operations: None });
            limiter.spend(u64::from(bytes));
            if let Some(wait) = limiter.wait() {
                time.store(u64::try_from(wait.as_nanos()).unwrap(), Ordering::SeqCst);
                prop_assert_eq!(limiter.wait(), None);
            }
        }
    }
}
