//! The battery-backed clock of a PC (MC146818), read-only: a kernel that finds none waits a second for it.
//!
//! It always tells the host's time, in BCD and 24 hours. What the guest writes is forgotten, and it never interrupts.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::bus::{Effect, Registers};

/// Registers of the chip.
const SECONDS: u8 = 0;
const MINUTES: u8 = 2;
const HOURS: u8 = 4;
const WEEKDAY: u8 = 6;
const DAY: u8 = 7;
const MONTH: u8 = 8;
const YEAR: u8 = 9;
const RATE: u8 = 0xa;
const MODE: u8 = 0xb;
const VALID: u8 = 0xd;
const CENTURY: u8 = 0x32;

/// The usual crystal and rate, and no update in progress.
const RATE_USUAL: u8 = 0x26;

/// 24 hours.
const MODE_24: u8 = 2;

/// The battery is not empty.
const BATTERY: u8 = 0x80;

/// The clock.
#[derive(Debug, Default)]
pub struct Clock {
    selected: AtomicU8,
}

impl Clock {
    /// The first port, and how many there are.
    pub const PORTS: (u64, u64) = (0x70, 2);

    fn register(&self, seconds: u64) -> u8 {
        let date = Date::of(seconds);
        match self.selected.load(Ordering::Relaxed) {
            SECONDS => bcd(seconds % 60),
            MINUTES => bcd(seconds / 60 % 60),
            HOURS => bcd(seconds / 3600 % 24),
            // 1970 began on a Thursday; the chip's week on Sunday, which is 1.
            WEEKDAY => bcd((seconds / 86_400 + 4) % 7 + 1),
            DAY => bcd(date.day),
            MONTH => bcd(date.month),
            YEAR => bcd(date.year % 100),
            CENTURY => bcd(date.year / 100),
            RATE => RATE_USUAL,
            MODE => MODE_24,
            VALID => BATTERY,
            _ => 0,
        }
    }
}

impl Registers for Clock {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let ([byte], 1) = (data, offset) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
            *byte = self.register(now);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        if let ([register], 0) = (data, offset) {
            // The highest bit masks NMI, which this machine has none of.
            self.selected.store(register & 0x7f, Ordering::Relaxed);
        }
        Effect::None
    }
}

/// A date of the Gregorian calendar.
#[derive(Debug, PartialEq, Eq)]
struct Date {
    year: u64,
    month: u64,
    day: u64,
}

impl Date {
    /// The date `seconds` after the beginning of 1970.
    fn of(seconds: u64) -> Date {
        let mut days = seconds / 86_400;
        let mut year = 1970;
        // Whole cycles of 400 years first, so that the loop below is bounded.
        year += days / 146_097 * 400;
        days %= 146_097;
        while days >= year_length(year) {
            days -= year_length(year);
            year += 1;
        }
        let february = year_length(year) - 337;
        let mut month = 1;
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
            if days < length {
                break;
            }
            days -= length;
            month += 1;
        }
        Date { year, month, day: days + 1 }
    }
}

fn year_length(year: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    if leap { 366 } else { 365 }
}

fn bcd(number: u64) -> u8 {
    u8::try_from(number / 10 % 10 * 16 + number % 10).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(year: u64, month: u64, day: u64) -> Date {
        Date { year, month, day }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(Date::of(0), date(1970, 1, 1));
        assert_eq!(Date::of(951_782_400), date(2000, 2, 29));
        assert_eq!(Date::of(1_798_761_599), date(2026, 12, 31));
        assert_eq!(Date::of(4_107_542_400), date(2100, 3, 1));
        assert_eq!(Date::of(13_569_465_600), date(2400, 1, 1));
    }

    #[test]
    fn a_time_is_told_in_bcd() {
        let clock = Clock::default();
        let get = |register| {
            clock.write(0, &[register]);
            clock.register(1_700_000_000) // Tuesday 2023-11-14 22:13:20
        };
        let read = [SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY].map(get);
        assert_eq!(read, [0x20, 0x13, 0x22, 3, 0x14, 0x11, 0x23, 0x20]);
    }

    #[test]
    fn no_update_is_ever_in_progress() {
        let clock = Clock::default();
        clock.write(0, &[RATE | 0x80]);
        let mut data = [0xff];
        clock.read(1, &mut data);
        assert_eq!(data[0] & 0x80, 0);
    }
}
