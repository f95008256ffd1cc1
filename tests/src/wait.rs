//! Waiting for something that nobody announces: look, pause shortly, look again, and give up at a deadline.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const PAUSE: Duration = Duration::from_millis(15);

/// Looks until `look` finds something, at most for `limit`; `what` names the thing in the error.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() > limit {
            bail!("waited {} s in vain for {what}", limit.as_secs_f32());
        }
        thread::sleep(PAUSE);
    }
}

/// Like [`until`], for a condition.
pub fn until_true(what: &str, limit: Duration, mut look: impl FnMut() -> bool) -> Result<()> {
    until(what, limit, || Ok(look().then_some(())))
}

/// Lets `time` go by: only for striking at a moment that was drawn by chance, never for hoping that something is done.
pub fn let_pass(time: Duration) {
    thread::sleep(time);
}
