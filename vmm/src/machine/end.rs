//! How a machine ends.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::event::Event;

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The guest reset itself.
    Reset,
    /// The guest reset itself after its kernel had said that it gives up. That is the guest's word and nothing more.
    Panic,
    /// A processor faulted where the guest could not handle it: a guest that is broken, or resets itself this way.
    TripleFault {
        /// Which processor.
        cpu: u8,
        /// Its instruction pointer.
        instruction: u64,
    },
    /// It was asked to stop.
    Stopped,
    /// A processor could not go on.
    Fault {
        /// Which processor.
        cpu: u8,
        /// Why, and where it was.
        message: String,
    },
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Reset => write!(f, "the guest reset itself"),
            End::Panic => write!(f, "the guest's kernel panicked"),
            End::TripleFault { cpu, instruction } => {
                write!(f, "processor {cpu} of the guest took a triple fault at {instruction:#x}")
            }
            End::Stopped => write!(f, "the machine was stopped"),
            End::Fault { cpu, message } => write!(f, "processor {cpu} of the guest cannot go on: {message}"),
        }
    }
}

/// The first end that somebody reports is the machine's.
#[derive(Debug)]
pub(super) struct Ends {
    first: Mutex<Option<End>>,
    told: Event,
}

impl Ends {
    /// None yet; `told` is signalled with the first.
    pub(super) fn new(told: Event) -> Ends {
        Ends { first: Mutex::new(None), told }
    }

    /// Reports an end, and gives the first.
    pub(super) fn report(&self, end: End) -> End {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(end).clone();
        self.told.signal();
        first
    }

    /// The first end, if there was one.
    pub(super) fn get(&self) -> Option<End> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_is_stopped_after_its_end_ended_as_it_did() {
        let ends = Ends::new(Event::new().unwrap());
        ends.report(End::Panic);
        assert_eq!(ends.report(End::Stopped), End::Panic);
        assert_eq!(ends.get(), Some(End::Panic));
    }
}
