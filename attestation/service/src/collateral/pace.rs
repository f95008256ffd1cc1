//! How often a maker's service is asked: a rate, and pauses that grow while it refuses. Times are given, in milliseconds.

/// First pause after a failure, and the longest.
const FIRST_PAUSE: u64 = 1000;
const LONGEST_PAUSE: u64 = 600_000;
/// The longest pause that a service can ask for.
const LONGEST_WISH: u64 = 3_600_000;
/// Requests that may come at once after a time of silence.
const BURST: u64 = 8;

/// When the next request may be sent.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Milliseconds for each request.
    each: u64,
    /// When what was sent will have been worked off.
    due: u64,
    /// Not before, because it refused.
    pause_until: u64,
    failures: u32,
}

impl Pace {
    /// So many requests in a minute, at least one.
    pub fn new(per_minute: u32) -> Self {
        Self { each: 60_000 / u64::from(per_minute.max(1)), due: 0, pause_until: 0, failures: 0 }
    }

    /// When `requests` may be sent.
    pub fn next(&self, requests: u64) -> u64 {
        let due = self.due.saturating_add(requests.min(BURST).saturating_mul(self.each));
        due.saturating_sub(BURST.saturating_mul(self.each)).max(self.pause_until)
    }

    /// They are sent.
    pub fn sent(&mut self, requests: u64, now: u64) {
        self.due = self.due.max(now).saturating_add(requests.saturating_mul(self.each));
    }

    /// It answered.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// It did not answer, or refused, and `wish` says for how long. The pause is between half and the whole of what doubles
    /// with each failure; `chance` says where, so that many verifiers do not come back at once.
    pub fn failed(&mut self, now: u64, wish: Option<u64>, chance: u16) {
        let whole = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        let half = whole / 2;
        let pause = half + half * u64::from(chance) / u64::from(u16::MAX);
        let wish = wish.unwrap_or(0).min(LONGEST_WISH);
        self.pause_until = now.saturating_add(pause.max(wish));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_may_be_sent_at_once_and_then_as_many_as_a_minute_has() {
        let mut pace = Pace::new(60);
        assert_eq!(pace.next(BURST), 0);
        pace.sent(BURST, 0);
        assert_eq!((pace.next(1), pace.next(4)), (1000, 4000));
        assert!(pace.next(1) <= 1000);
        pace.sent(1, 1000);
        assert_eq!(pace.next(1), 2000);
    }

    #[test]
    fn silence_gives_back_no_more_than_a_burst() {
        let mut pace = Pace::new(60);
        pace.sent(1, 1_000_000);
        pace.sent(BURST - 1, 1_000_000);
        assert_eq!(pace.next(1), 1_001_000);
    }

    #[test]
    fn pauses_double_up_to_ten_minutes_and_begin_anew_after_an_answer() {
        let mut pace = Pace::new(60);
        let pauses = (0..12).map(|_| {
            pace.failed(0, None, u16::MAX);
            pace.next(0)
        });
        let pauses: Vec<u64> = pauses.collect();
        assert_eq!(pauses[..4], [1000, 2000, 4000, 8000]);
        assert_eq!(pauses[11], 600_000);
        pace.succeeded();
        pace.failed(0, None, u16::MAX);
        assert_eq!(pace.next(0), 1000);
    }

    #[test]
    fn chance_takes_away_at_most_half_of_a_pause() {
        let pause = |chance| {
            let mut pace = Pace::new(60);
            pace.failed(0, None, chance);
            pace.next(0)
        };
        assert_eq!((pause(0), pause(u16::MAX)), (500, 1000));
    }

    #[test]
    fn a_longer_pause_that_the_service_asks_for_is_kept_up_to_an_hour() {
        let mut pace = Pace::new(60);
        pace.failed(0, Some(120_000), 0);
        assert_eq!(pace.next(0), 120_000);
        pace.failed(0, Some(u64::MAX), 0);
        assert_eq!(pace.next(0), LONGEST_WISH);
    }
}
