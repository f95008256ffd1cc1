//! Progress on standard error: one line when something begins, and one every few seconds while it lasts.

use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(5);

/// Something that takes longer than two seconds.
#[derive(Debug)]
pub(crate) struct Progress {
    what: String,
    started: Instant,
    spoke: Instant,
}

impl Progress {
    /// Says that `what` begins.
    pub(crate) fn begin(what: impl Into<String>) -> Self {
        let (what, now) = (what.into(), Instant::now());
        eprintln!("coffer-guest-image: {what}");
        Self { what, started: now, spoke: now }
    }

    /// Says how far it is, unless that was said a moment ago. `detail` is made only if it is shown.
    pub(crate) fn tick(&mut self, detail: impl FnOnce() -> String) {
        if self.spoke.elapsed() >= INTERVAL {
            self.spoke = Instant::now();
            eprintln!("coffer-guest-image: {}: {}, {}", self.what, detail(), elapsed(self.started.elapsed()));
        }
    }

    /// Says that it is done, if it took long enough for anybody to wonder.
    pub(crate) fn end(self) {
        if self.started.elapsed() >= Duration::from_secs(2) {
            eprintln!("coffer-guest-image: {}: done after {}", self.what, elapsed(self.started.elapsed()));
        }
    }
}

fn elapsed(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}
