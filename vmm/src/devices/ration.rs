//! How much of its memory a guest is to have: what whoever runs the machine asks of the balloon.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::event::Event;

/// Pages of a MiB.
const PAGES: u32 = 256;

/// The least memory in MiB that a guest can be asked to be content with: its kernel and agent take about half of it.
const LEAST_MIB: u32 = 64;

/// A guest that cannot have as much as was asked, or as little.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the guest can have {LEAST_MIB} to {most} MiB, what it was started with, and was to have {asked}")]
pub struct RationError {
    /// MiB that were asked for.
    pub asked: u32,
    /// MiB that it was started with.
    pub most: u32,
}

/// What a guest is to have of its memory, to be changed while it runs. Copies are the same one.
#[derive(Debug, Clone)]
pub struct Ration(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// MiB that the guest was started with.
    all: u32,
    /// Pages that it is to give.
    wanted: AtomicU32,
    /// Pages that it says it has given.
    given: AtomicU32,
    changed: Event,
}

impl Ration {
    /// All of the `all` MiB that it is started with.
    pub(super) fn new(all: u32) -> io::Result<Ration> {
        let (wanted, given) = (AtomicU32::new(0), AtomicU32::new(0));
        Ok(Ration(Arc::new(Inner { all, wanted, given, changed: Event::new()? })))
    }

    /// Asks the guest to be content with `mib`, which it does in its own time, and leaves off where it would run out of memory.
    pub fn set(&self, mib: u32) -> Result<(), RationError> {
        let Inner { all, wanted, changed, .. } = &*self.0;
        if mib > *all || mib < LEAST_MIB.min(*all) {
            return Err(RationError { asked: mib, most: *all });
        }
        wanted.store((all - mib).saturating_mul(PAGES), Ordering::SeqCst);
        changed.signal();
        Ok(())
    }

    /// MiB that the guest says it has given so far.
    pub fn given(&self) -> u32 {
        self.0.given.load(Ordering::SeqCst) / PAGES
    }

    /// Pages that it is to give.
    pub(super) fn wanted(&self) -> u32 {
        self.0.wanted.load(Ordering::SeqCst)
    }

    /// Notes what it says it has given.
    pub(super) fn note(&self, pages: u32) {
        self.0.given.store(pages, Ordering::SeqCst);
    }

    /// Readable when it was changed.
    pub(super) fn changed(&self) -> BorrowedFd<'_> {
        self.0.changed.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_to_be_had_is_to_be_given() {
        let ration = Ration::new(512).unwrap();
        ration.set(200).unwrap();
        assert_eq!(ration.wanted(), 312 * 256);
        ration.set(512).unwrap();
        assert_eq!(ration.wanted(), 0);
    }

    #[test]
    fn more_than_it_was_started_with_and_less_than_it_runs_with_are_refused() {
        let ration = Ration::new(512).unwrap();
        assert_eq!(ration.set(513), Err(RationError { asked: 513, most: 512 }));
        assert_eq!(ration.set(63), Err(RationError { asked: 63, most: 512 }));
        assert_eq!(ration.wanted(), 0);
    }
}
