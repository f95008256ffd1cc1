//! Exchanges by the thousand: how many, how long each, and whose processor time it was.

use std::fmt::{self, Display};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::guest;
use crate::process::{busy_time, processor_time};
use crate::target::Target;

/// Exchanges that begin one after another at even distances, whatever becomes of those before.
#[derive(Clone, Copy)]
pub(crate) struct Paced {
    /// In one second.
    pub(crate) rate: u64,
    pub(crate) time: Duration,
}

/// What was seen.
pub(crate) struct Seen {
    /// Each exchange that ended well, sorted.
    latencies: Vec<Duration>,
    failures: Vec<String>,
    took: Duration,
    /// Processor time of the service.
    service: Duration,
    /// Processor time of the guests.
    guests: Duration,
    /// Processor time of everything else on the machine.
    others: Duration,
}

/// As many exchanges as `guests` at once can make in `time`.
pub(crate) fn closed(target: &Target, guests: usize, time: Duration) -> Seen {
    let end = Instant::now() + time;
    observed(target, guests, |seen| {
        while Instant::now() < end {
            one(target, Instant::now(), seen);
        }
    })
}

/// Exchanges at a steady rate. `each_second` is called as seconds pass.
pub(crate) fn paced(target: &Target, paced: Paced, each_second: impl Fn(u64) + Sync) -> Seen {
    let (start, next) = (Instant::now(), AtomicU64::new(0));
    let total = paced.rate * paced.time.as_secs();
    observed(target, 32, |seen| {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= total {
                return;
            }
            if number.is_multiple_of(paced.rate) {
                each_second(number / paced.rate);
            }
            // From when it should have begun: waiting behind a slow one counts.
            let due = start
                + Duration::from_secs(1) * u32::try_from(number).unwrap_or(u32::MAX)
                    / u32::try_from(paced.rate).unwrap_or(1);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            one(target, due, seen);
        }
    })
}

fn one(target: &Target, from: Instant, seen: &Mutex<Seen>) {
    let ended = guest::exchange(target);
    let took = from.elapsed();
    let mut seen = seen.lock().expect("no thread died");
    match ended {
        Ok(()) => seen.latencies.push(took),
        Err(failure) => seen.failures.push(failure),
    }
}

fn observed(target: &Target, threads: usize, work: impl Fn(&Mutex<Seen>) + Sync) -> Seen {
    let times = || (processor_time(target.process), processor_time(std::process::id()), busy_time());
    let (start, before) = (Instant::now(), times());
    let seen = Mutex::new(Seen {
        latencies: Vec::new(),
        failures: Vec::new(),
        took: Duration::ZERO,
        service: Duration::ZERO,
        guests: Duration::ZERO,
        others: Duration::ZERO,
    });
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(&seen));
        }
    });
    let (took, after) = (start.elapsed(), times());
    let mut seen = seen.into_inner().expect("no thread died");
    seen.latencies.sort();
    let (service, guests) = (after.0 - before.0, after.1 - before.1);
    let others = (after.2 - before.2).saturating_sub(service + guests);
    Seen { took, service, guests, others, ..seen }
}

impl Seen {
    /// Exchanges in one second.
    pub(crate) fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64()
    }

    /// Exchanges in one second that two processors would bear that have nothing else to do, guests included.
    pub(crate) fn alone(&self) -> f64 {
        2.0 * self.latencies.len() as f64 / (self.service + self.guests).as_secs_f64()
    }

    /// Processor time of the service for one exchange, in milliseconds.
    pub(crate) fn service_each(&self) -> f64 {
        self.service.as_secs_f64() * 1000.0 / self.latencies.len().max(1) as f64
    }

    /// In milliseconds.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let place = (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(place).map_or(f64::INFINITY, |latency| latency.as_secs_f64() * 1000.0)
    }

    /// Whether something was exchanged and nothing failed.
    pub(crate) fn whole(&self) -> bool {
        !self.latencies.is_empty() && self.failures.is_empty()
    }
}

impl Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = |time: Duration| time.as_secs_f64() * 1000.0 / self.latencies.len().max(1) as f64;
        write!(
            f,
            "{} in {:.1} s, {} failed, processor time of each: service {:.2} ms, guest {:.2} ms; \
             others had {:.2} processors",
            self.latencies.len() + self.failures.len(),
            self.took.as_secs_f64(),
            self.failures.len(),
            each(self.service),
            each(self.guests),
            self.others.as_secs_f64() / self.took.as_secs_f64()
        )?;
        match self.failures.first() {
            Some(first) => write!(f, "; first failure: {first}"),
            None => Ok(()),
        }
    }
}
