//! Reads the texts inside Intel's JSON: hexadecimal of a fixed length, and dates.

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::time::UnixTime;

/// Exactly `N` bytes in hexadecimal, in either case.
pub(super) fn fixed<'de, const N: usize, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; N], D::Error> {
    let text = String::deserialize(deserializer)?;
    let mut bytes = [0; N];
    hex::decode_to_slice(&text, &mut bytes)
        .map_err(|error| D::Error::custom(format!("{N} bytes in hexadecimal are expected: {error}")))?;
    Ok(bytes)
}

/// A date as in `2025-06-19T10:16:03Z`.
pub(super) fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<UnixTime, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}
