//! An error with what caused it, in one line.

use std::error::Error;

/// The most of it that a stranger is told, in characters.
const MOST_TOLD: usize = 500;

/// `error: its cause: the cause's cause`.
pub(crate) fn line_of(error: &dyn Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The same, of bounded length.
pub(crate) fn short_line_of(error: &dyn Error) -> String {
    line_of(error).chars().take(MOST_TOLD).collect()
}
