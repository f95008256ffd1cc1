//! Writes the agent's log as short lines on the guest's console, of which the shim keeps the last 64 KiB.
//!
//! ```text
//! coffer-agent 1.234567 warn the message key=value key=value
//! ```
//!
//! A line that the console cannot take at once is dropped, never waited for; more than [`BURST`] lines at once, then
//! [`PER_SECOND`], are dropped and counted, because a container can provoke some of them.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::clock;

/// Lines that may come at once.
const BURST: u64 = 200;
/// Lines a second after that.
const PER_SECOND: u64 = 20;
/// Longest line in bytes.
const MAX_LINE: usize = 400;

/// Sends `tracing` events to `/dev/console`, from `level` up.
pub(crate) fn install(level: Level) {
    let out = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open("/dev/console")
        .ok();
    let console = Console { level, sink: Mutex::new(Sink { out, bucket: Bucket::new() }) };
    // A second subscriber cannot be set; the first one stays.
    let _ = tracing::subscriber::set_global_default(console);
}

/// Writes one line, waiting until the console has taken it: for last words only.
pub(crate) fn last_words(text: &str) {
    if let Ok(mut out) = OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY).open("/dev/console") {
        let _ = out.write_all(format!("{text}\n").as_bytes());
    }
}

/// The level that the kernel command line asks for by `COFFER_LOG=`, which the kernel hands on in the environment of
/// PID 1; info without it.
pub(crate) fn level_from(wish: Option<&str>) -> Level {
    wish.and_then(|level| level.parse().ok()).unwrap_or(Level::INFO)
}

struct Console {
    level: Level,
    sink: Mutex<Sink>,
}

struct Sink {
    out: Option<File>,
    bucket: Bucket,
}

impl Subscriber for Console {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(self.level.into())
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let now = clock::since_boot_nanos();
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(dropped) = sink.bucket.take(now) else { return };
        let line = line(now, *event.metadata().level(), dropped, event);
        if let Some(out) = &mut sink.out {
            let _ = out.write(line.as_bytes());
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn line(now: u64, level: Level, dropped: u64, event: &Event<'_>) -> String {
    let mut line = Line::start(now, level);
    event.record(&mut line);
    if dropped > 0 {
        let _ = write!(line.rest, " lines_dropped_before={dropped}");
    }
    line.finish()
}

struct Line {
    head: String,
    rest: String,
}

impl Line {
    fn start(now: u64, level: Level) -> Self {
        let (seconds, micros) = (now / 1_000_000_000, now / 1_000 % 1_000_000);
        let level = level.as_str().to_ascii_lowercase();
        Line { head: format!("coffer-agent {seconds}.{micros:06} {level}"), rest: String::new() }
    }

    fn finish(self) -> String {
        let mut line: String = self
            .head
            .chars()
            .chain(self.rest.chars())
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let end = (0..=MAX_LINE.min(line.len())).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
        line.truncate(end);
        line.push('\n');
        line
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.head, " {value:?}"),
            name => write!(self.rest, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_error(&mut self, field: &Field, error: &(dyn std::error::Error + 'static)) {
        let _ = write!(self.rest, " {}={}", field.name(), crate::chain::Chain(error));
    }
}

struct Bucket {
    tokens: u64,
    filled_at: u64,
    dropped: u64,
}

impl Bucket {
    fn new() -> Self {
        Bucket { tokens: BURST, filled_at: 0, dropped: 0 }
    }

    /// Whether a line may be written at `now` (nanoseconds), and how many were dropped before it.
    fn take(&mut self, now: u64) -> Option<u64> {
        let earned = now.saturating_sub(self.filled_at).saturating_mul(PER_SECOND) / 1_000_000_000;
        if earned > 0 {
            self.tokens = (self.tokens + earned).min(BURST);
            self.filled_at = now;
        }
        if self.tokens == 0 {
            self.dropped += 1;
            return None;
        }
        self.tokens -= 1;
        Some(std::mem::take(&mut self.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_over_the_burst_are_dropped_and_counted() {
        let mut bucket = Bucket::new();
        let written = (0..BURST + 5).filter(|_| bucket.take(0).is_some()).count();
        assert_eq!(written as u64, BURST);
        assert_eq!(bucket.take(1_000_000_000), Some(5));
    }

    #[test]
    fn a_line_feed_in_a_value_does_not_start_a_line() {
        let mut line = Line::start(1_500_000_000, Level::WARN);
        line.rest.push_str("one\ntwo");
        assert_eq!(line.finish(), "coffer-agent 1.500000 warnone two\n");
    }

    #[test]
    fn an_endless_line_is_cut_at_a_character() {
        let mut line = Line::start(0, Level::INFO);
        line.rest.push_str(&"ä".repeat(1000));
        assert!(line.finish().len() <= MAX_LINE + 1);
    }

    #[test]
    fn the_level_can_be_wished_for() {
        assert_eq!(level_from(Some("debug")), Level::DEBUG);
        assert_eq!(level_from(Some("nonsense")), Level::INFO);
        assert_eq!(level_from(None), Level::INFO);
    }
}
