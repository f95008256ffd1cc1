//! The guest's clocks.

use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

/// Nanoseconds since the kernel started, suspended time included.
pub(crate) fn since_boot_nanos() -> u64 {
    // This clock always exists.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| {
        let duration = Duration::from(time);
        u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
    })
}

/// Sets the wall clock.
pub(crate) fn set_unix_nanos(nanos: u64) -> nix::Result<()> {
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(Duration::from_nanos(nanos)))
}
