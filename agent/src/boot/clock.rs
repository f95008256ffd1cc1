//! The guest's clocks.

use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

/// Nanoseconds since the kernel started, suspended time included.
pub(crate) fn since_boot_nanos() -> u64 {
    nanos(ClockId::CLOCK_BOOTTIME)
}

/// Nanoseconds since 1970.
pub(crate) fn unix_nanos() -> u64 {
    nanos(ClockId::CLOCK_REALTIME)
}

/// Sets the wall clock.
pub(crate) fn set_unix_nanos(nanos: u64) -> nix::Result<()> {
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(Duration::from_nanos(nanos)))
}

fn nanos(clock: ClockId) -> u64 {
    // Both clocks always exist, and neither reaches u64's end before the year 2554.
    clock_gettime(clock).map_or(0, |time| {
        let duration = Duration::from(time);
        u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
    })
}
