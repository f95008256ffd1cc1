//! A place for an interface that comes while the guest runs: virtio-mmio cannot be told of a new device, but an interface that
//! is there from the start can be told that its cable was plugged in.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::tap::Tap;
use crate::event::Event;

/// Why a seat stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SeatError {
    /// It has an interface already.
    #[error("the seat is taken: unplug what is there first")]
    Taken,
    /// It has none.
    #[error("the seat is empty")]
    Empty,
}

/// The seat. Copies are the same one.
#[derive(Debug, Clone)]
pub struct Seat(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changed: Event,
}

#[derive(Debug, Default)]
struct State {
    tap: Option<Tap>,
    /// Whether the device has not seen it yet.
    new: bool,
}

impl Seat {
    /// An empty one.
    pub(super) fn new() -> io::Result<Seat> {
        Ok(Seat(Arc::new(Inner { state: Mutex::default(), changed: Event::new()? })))
    }

    /// Gives it a tap.
    pub fn plug(&self, tap: Tap) -> Result<(), SeatError> {
        let mut state = self.state();
        if state.tap.is_some() {
            return Err(SeatError::Taken);
        }
        *state = State { tap: Some(tap), new: true };
        self.0.changed.signal();
        Ok(())
    }

    /// Takes its tap away, and gives it back.
    pub fn unplug(&self) -> Result<Tap, SeatError> {
        let mut state = self.state();
        let tap = state.tap.take().ok_or(SeatError::Empty)?;
        state.new = true;
        self.0.changed.signal();
        Ok(tap)
    }

    /// What it has now, if that is new to the device.
    pub(super) fn news(&self) -> Option<Option<Tap>> {
        let mut state = self.state();
        std::mem::take(&mut state.new).then(|| state.tap.clone())
    }

    /// Readable when it was changed.
    pub(super) fn changed(&self) -> BorrowedFd<'_> {
        self.0.changed.as_fd()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tap() -> Tap {
        let (one, _) = std::os::unix::net::UnixDatagram::pair().unwrap();
        Tap::of(one.into())
    }

    #[test]
    fn a_seat_has_one_interface_at_a_time() {
        let seat = Seat::new().unwrap();
        assert_eq!(seat.unplug().err(), Some(SeatError::Empty));
        seat.plug(tap()).unwrap();
        assert_eq!(seat.plug(tap()), Err(SeatError::Taken));
        seat.unplug().unwrap();
        seat.plug(tap()).unwrap();
    }

    #[test]
    fn what_is_new_is_told_once() {
        let seat = Seat::new().unwrap();
        assert!(seat.news().is_none());
        seat.plug(tap()).unwrap();
        assert!(seat.news().is_some_and(|tap| tap.is_some()));
        assert!(seat.news().is_none());
        seat.unplug().unwrap();
        assert!(seat.news().is_some_and(|tap| tap.is_none()));
    }
}
