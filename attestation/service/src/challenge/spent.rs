//! The nonces that were used, until they expire.

use std::collections::{BTreeMap, HashSet};

use coffer_attestation::time::UnixTime;

/// Random part of a nonce.
pub(super) type NonceId = [u8; 16];

/// Remembers at most `capacity` nonces.
#[derive(Debug)]
pub struct Spent {
    capacity: usize,
    count: usize,
    /// Those that expire in one second are forgotten together.
    by_expiry: BTreeMap<UnixTime, HashSet<NonceId>>,
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
    /// The same for all replicas.
    #[error("too many challenges were answered and have not expired: try again later")]
    SharedFull,
    /// The database that replicas share.
    #[error("whether the challenge was answered before cannot be found out now")]
    Unknown,
}

impl Spent {
    /// A list of at most `capacity` nonces.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, count: 0, by_expiry: BTreeMap::new() }
    }

    /// Burns a nonce that is good before `expiry`, which must be the same each time that it is asked about.
    ///
    /// # Errors
    /// [`SpentError`]
    pub fn burn(&mut self, nonce: [u8; 16], expiry: UnixTime, now: UnixTime) -> Result<(), SpentError> {
        self.forget_expired(now);
        if self.by_expiry.get(&expiry).is_some_and(|known| known.contains(&nonce)) {
            return Err(SpentError::Replayed);
        }
        if self.count >= self.capacity {
            return Err(SpentError::Full { capacity: self.capacity });
        }
        self.count += 1;
        self.by_expiry.entry(expiry).or_default().insert(nonce);
        Ok(())
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn forget_expired(&mut self, now: UnixTime) {
        while let Some(first) = self.by_expiry.first_entry().filter(|first| *first.key() <= now) {
            self.count = self.count.saturating_sub(first.remove().len());
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
