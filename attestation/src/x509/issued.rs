//! Pairs of certificates, or of a revocation list and a certificate, of which one was found to have signed the other. A node's
//! certificates come with every guest that it starts, and each signature among them costs as much as the one below the
//! guest's own report.
//!
//! Never here: dates, revocation, trust. Those are asked anew each time; only arithmetic that cannot end otherwise is not.

use std::collections::HashSet;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// Pairs that are remembered, of 64 bytes each. All are forgotten when there are more.
const PAIRS: usize = 4096;

/// SHA-256 of a certificate or a revocation list, and of its issuer's certificate.
pub(super) type Pair = [[u8; 32]; 2];

static KNOWN: LazyLock<Mutex<HashSet<Pair>>> = LazyLock::new(Mutex::default);

/// Whether the second is known to have signed the first, byte for byte these.
pub(super) fn is_known(pair: &Pair) -> bool {
    known().contains(pair)
}

/// Remembers that it has.
pub(super) fn remember(pair: Pair) {
    let mut known = known();
    if known.len() >= PAIRS {
        known.clear();
    }
    known.insert(pair);
}

fn known() -> MutexGuard<'static, HashSet<Pair>> {
    // Each change is one insertion: the set is whole even if a thread died with it.
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_found_is_known_and_only_in_that_order() {
        let (one, other) = ([0x51; 32], [0x52; 32]);
        remember([one, other]);
        assert_eq!(
            [is_known(&[one, other]), is_known(&[other, one]), is_known(&[one, one])],
            [true, false, false]
        );
    }
}
