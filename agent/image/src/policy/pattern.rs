//! Patterns of names: text with `*` for any run of characters, matched in time that no text can blow up.

use std::fmt::{self, Display};

/// The longest pattern, in bytes.
const MAX_BYTES: usize = 512;
/// The most stars in one.
const MAX_STARS: usize = 8;

/// A text, or a text with stars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    stars: bool,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Too long, or too many stars.
    #[error("a pattern may have {MAX_BYTES} bytes and {MAX_STARS} stars, this one has {bytes} and {stars}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// Its stars.
        stars: usize,
    },
    /// It would fit everything, or nothing.
    #[error("the pattern {found:?} says nothing: name at least a part")]
    Empty {
        /// The pattern.
        found: String,
    },
}

impl Pattern {
    /// Only this very text.
    pub fn exact(text: &str) -> Result<Self, PatternError> {
        Self::bounded(text, false)
    }

    /// A text in which each star stands for any characters, or none.
    pub fn with_stars(text: &str) -> Result<Self, PatternError> {
        Self::bounded(text, true)
    }

    fn bounded(text: &str, stars: bool) -> Result<Self, PatternError> {
        let count = if stars { text.matches('*').count() } else { 0 };
        if text.len() > MAX_BYTES || count > MAX_STARS {
            return Err(PatternError::TooLarge { bytes: text.len(), stars: count });
        }
        let says_something = if stars { text.chars().any(|c| c != '*') } else { !text.is_empty() };
        if !says_something {
            return Err(PatternError::Empty { found: text.to_owned() });
        }
        Ok(Self { text: text.to_owned(), stars })
    }

    /// Whether `found` fits as a whole.
    pub fn fits(&self, found: &str) -> bool {
        if !self.stars {
            return self.text == found;
        }
        let mut parts = self.text.split('*');
        let Some(mut rest) = parts.next().and_then(|first| found.strip_prefix(first)) else {
            return false;
        };
        let mut last = None;
        for part in parts {
            // Each part but the last is taken where it first appears: what is left for the others is then longest.
            if let Some(before) = last.replace(part) {
                match rest.split_once(before) {
                    Some((_, behind)) => rest = behind,
                    None => return false,
                }
            }
        }
        last.map_or(rest.is_empty(), |last| rest.ends_with(last))
    }
}

impl Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, text: &str) -> bool {
        Pattern::with_stars(pattern).expect("a pattern").fits(text)
    }

    #[test]
    fn stars_stand_for_any_run() {
        assert!(fits("https://h/*/x.yml@refs/*", "https://h/a/b/x.yml@refs/tags/v1"));
        assert!(fits("a*b*a", "aba") && fits("a*", "a"));
    }

    #[test]
    fn all_of_the_text_must_fit() {
        assert!(!fits("a*b", "xab") && !fits("a*b", "abx") && !fits("a*ba", "aba2") && !fits("ab*ba", "aba"));
    }

    #[test]
    fn a_star_in_an_exact_text_is_a_star() {
        let exact = Pattern::exact("a*").expect("a pattern");
        assert!(exact.fits("a*") && !exact.fits("ab"));
    }

    #[test]
    fn a_pattern_that_fits_everything_is_refused() {
        assert!(matches!(Pattern::with_stars("**"), Err(PatternError::Empty { .. })));
    }

    #[test]
    fn a_ninth_star_is_refused() {
        assert!(matches!(Pattern::with_stars("*a*a*a*a*a*a*a*a*"), Err(PatternError::TooLarge { .. })));
    }
}
