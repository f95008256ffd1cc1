//! How often a container may make the guest ask its verifier or its processor.

use tokio::time::{Duration, Instant};

/// So many at once,
const MOST: u32 = 16;
/// and then one in this time.
const EVERY: Duration = Duration::from_millis(500);

/// What is left of a container's turns.
#[derive(Debug)]
pub(super) struct Pace {
    left: u32,
    since: Instant,
}

impl Pace {
    /// All turns are left.
    pub(super) fn new(now: Instant) -> Self {
        Self { left: MOST, since: now }
    }

    /// Takes a turn, if one is left.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        while self.left < MOST && now.duration_since(self.since) >= EVERY {
            self.left += 1;
            self.since += EVERY;
        }
        if self.left == MOST {
            self.since = now;
        }
        let taken = self.left.checked_sub(1);
        self.left = taken.unwrap_or(0);
        taken.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_hurries_waits() {
        let mut pace = Pace::new(Instant::now());
        let now = Instant::now();
        assert!((0..MOST).all(|_| pace.take(now)));
        assert!(!pace.take(now) && !pace.take(now + EVERY / 2));
        assert!(pace.take(now + EVERY) && !pace.take(now + EVERY));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waited_long_has_no_more_turns_than_at_first() {
        let mut pace = Pace::new(Instant::now());
        assert!(pace.take(Instant::now()));
        let later = Instant::now() + EVERY * 1000;
        assert!((0..MOST).all(|_| pace.take(later)) && !pace.take(later));
    }
}
