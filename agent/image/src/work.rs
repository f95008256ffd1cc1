//! How much is done for one judgement, in signatures that are verified: whoever brings signature objects must not be able to
//! keep a guest busy. An honest image needs about ten for each requirement.

use std::cell::Cell;

/// The most signatures that are verified for one judgement, those of certificates, logs and clocks among them.
pub const MAX_VERIFICATIONS: usize = 512;

/// What was done so far.
#[derive(Debug, Default)]
pub(crate) struct Work(Cell<usize>);

/// Everything that may be done was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "no more than {MAX_VERIFICATIONS} signatures are verified for one image: take some of its signature objects away"
)]
pub(crate) struct Exhausted;

impl Work {
    /// Counts one signature that is about to be verified.
    pub(crate) fn spend(&self) -> Result<(), Exhausted> {
        if self.0.get() >= MAX_VERIFICATIONS {
            return Err(Exhausted);
        }
        self.0.set(self.0.get() + 1);
        Ok(())
    }

    /// How many were counted.
    pub(crate) fn done(&self) -> usize {
        self.0.get()
    }
}

impl From<Exhausted> for String {
    fn from(exhausted: Exhausted) -> Self {
        exhausted.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_done_is_done_and_no_more() {
        let work = Work::default();
        assert!((0..MAX_VERIFICATIONS).all(|_| work.spend().is_ok()));
        assert_eq!((work.spend(), work.done()), (Err(Exhausted), MAX_VERIFICATIONS));
    }
}
