//! The nonces that were used, until they expire.

use std::collections::{BTreeSet, HashSet};

use coffer_attestation::time::UnixTime;

/// Random part of a nonce.
pub(super) type NonceId = [u8; 16];

/// Remembers at most `capacity` nonces.
#[derive(Debug)]
pub struct Spent {
    capacity: usize,
    known: HashSet<NonceId>,
    by_expiry: BTreeSet<(UnixTime, NonceId)>,
}

/// Why a nonce was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpentError {
    /// Once is all.
    #[error("the challenge was answered before")]
    Replayed,
    /// Forgetting one would make it good again.
    #[error("{capacity} challenges were answered and have not expired: try again later")]
    Full {
        /// How many are remembered.
        capacity: usize,
    },
}

impl Spent {
    /// A list of at most `capacity` nonces.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, known: HashSet::new(), by_expiry: BTreeSet::new() }
    }

    /// Burns a nonce that is good before `expiry`.
    ///
    /// # Errors
    /// [`SpentError`]
    pub fn burn(&mut self, nonce: [u8; 16], expiry: UnixTime, now: UnixTime) -> Result<(), SpentError> {
        self.forget_expired(now);
        if self.known.contains(&nonce) {
            return Err(SpentError::Replayed);
        }
        if self.known.len() >= self.capacity {
            return Err(SpentError::Full { capacity: self.capacity });
        }
        self.known.insert(nonce);
        self.by_expiry.insert((expiry, nonce));
        Ok(())
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn forget_expired(&mut self, now: UnixTime) {
        while let Some((expiry, nonce)) = self.by_expiry.first().copied() {
            if expiry > now {
                break;
            }
            self.by_expiry.pop_first();
            self.known.remove(&nonce);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_good_once() {
        let mut spent = Spent::new(2);
        assert_eq!(spent.burn([1; 16], UnixTime(10), UnixTime(0)), Ok(()));
        assert_eq!(spent.burn([1; 16], UnixTime(10), UnixTime(9)), Err(SpentError::Replayed));
    }

    #[test]
    fn a_full_list_refuses_and_forgets_nothing() {
        let mut spent = Spent::new(1);
        assert_eq!(spent.burn([1; 16], UnixTime(10), UnixTime(0)), Ok(()));
        assert_eq!(spent.burn([2; 16], UnixTime(10), UnixTime(9)), Err(SpentError::Full { capacity: 1 }));
        assert_eq!(spent.burn([1; 16], UnixTime(10), UnixTime(9)), Err(SpentError::Replayed));
    }

    #[test]
    fn what_has_expired_makes_room() {
        let mut spent = Spent::new(1);
        assert_eq!(spent.burn([1; 16], UnixTime(10), UnixTime(0)), Ok(()));
        assert_eq!(spent.burn([2; 16], UnixTime(20), UnixTime(10)), Ok(()));
        assert_eq!(spent.len(), 1);
    }
}
