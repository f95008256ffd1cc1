//! Which of two statements of one publisher is the newer.

use crate::time::UnixTime;

/// The longest number of a revocation list, in bytes (RFC 5280, 5.2.3).
const NUMBER_BYTES: usize = 20;

/// A statement's number, then its time: later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edition {
    /// Big-endian.
    number: [u8; NUMBER_BYTES],
    issued: UnixTime,
}

impl Edition {
    /// `number` is big-endian; one without any is before all others, and one that is too long counts as none.
    pub fn new(number: &[u8], issued: UnixTime) -> Self {
        let digits = number.iter().position(|byte| *byte != 0).and_then(|first| number.get(first..));
        let mut padded = [0; NUMBER_BYTES];
        let digits = digits.unwrap_or_default();
        if let Some(place) = NUMBER_BYTES.checked_sub(digits.len()).and_then(|zeros| padded.get_mut(zeros..))
        {
            place.copy_from_slice(digits);
        }
        Self { number: padded, issued }
    }

    /// When it was made.
    pub fn issued(&self) -> UnixTime {
        self.issued
    }

    /// Its number in hexadecimal.
    pub fn number(&self) -> String {
        match hex::encode(self.number).trim_start_matches('0') {
            "" => "0".to_owned(),
            digits => digits.to_owned(),
        }
    }
}

impl std::fmt::Display for Edition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "0x{} of {}", self.number(), self.issued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greater_number_is_the_newer_whatever_its_length_and_then_the_later_time() {
        let edition = |number: &[u8], at| Edition::new(number, UnixTime(at));
        assert!(edition(&[1, 0], 1) > edition(&[0, 0, 255], 9));
        assert!(edition(&[7], 2) > edition(&[0, 7], 1));
        assert!(edition(&[], 9) < edition(&[1], 1));
        assert_eq!(edition(&[1; 21], 3), edition(&[], 3));
        assert_eq!(edition(&[0x1a, 2], 0).to_string(), "0x1a02 of 1970-01-01T00:00:00Z");
    }
}
