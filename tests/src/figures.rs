//! Figures of the benchmarks, as people read them.

use std::time::Duration;

/// Bytes in MiB.
#[allow(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
pub fn mebi(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A time in milliseconds.
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The one in the middle; nothing of nothing.
pub fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// The ratio in the middle of `above` to `below`, pair by pair: what burdens the machine burdens both of a pair.
pub fn ratio(above: &[Duration], below: &[Duration]) -> f64 {
    let mut ratios: Vec<f64> =
        above.iter().zip(below).map(|(above, below)| above.as_secs_f64() / below.as_secs_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN)
}
