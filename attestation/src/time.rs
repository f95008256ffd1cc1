//! Points in time, always given by the caller: nothing in this crate asks a clock.

use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

/// Seconds since 1970-01-01T00:00:00Z; written and read as `2025-06-19T11:00:00Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(pub u64);

/// Why a text is no point in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{found:?} is not a time: write it in UTC, as in 2025-06-19T11:00:00Z, with a year from 1970 to 9999"
)]
pub struct TimeError {
    /// The text, cut to 64 characters.
    pub found: String,
}

impl FromStr for UnixTime {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        let parsed = der::DateTime::from_str(text);
        let time = parsed.map_err(|_| TimeError { found: text.chars().take(64).collect() })?;
        Ok(Self(time.unix_duration().as_secs()))
    }
}

impl Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match der::DateTime::from_unix_duration(Duration::from_secs(self.0)) {
            Ok(time) => write!(f, "{time}"),
            Err(_) => write!(f, "{} s after 1970", self.0),
        }
    }
}

impl From<SystemTime> for UnixTime {
    /// A time before 1970 becomes 1970.
    fn from(time: SystemTime) -> Self {
        Self(time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }
}

impl Serialize for UnixTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_and_written_alike() {
        let time: UnixTime = "2025-06-19T11:00:00Z".parse().expect("a time");
        assert_eq!((time, time.to_string()), (UnixTime(1_750_330_800), "2025-06-19T11:00:00Z".to_owned()));
    }

    #[test]
    fn a_time_in_another_zone_is_refused() {
        assert!("2025-06-19T11:00:00+02:00".parse::<UnixTime>().is_err());
    }

    #[test]
    fn a_day_that_does_not_exist_is_refused() {
        assert!("2025-02-29T11:00:00Z".parse::<UnixTime>().is_err());
    }
}
