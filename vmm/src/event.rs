//! A count that threads, the kernel and KVM add to, and that one of them takes: an event descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

/// An event descriptor, which never waits.
#[derive(Debug)]
pub struct Event(OwnedFd);

impl Event {
    /// A new one, with nothing counted.
    pub fn new() -> io::Result<Event> {
        Ok(Event(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
    }

    /// Another descriptor of the same count.
    pub fn try_clone(&self) -> io::Result<Event> {
        self.0.try_clone().map(Event)
    }

    /// Adds one.
    pub fn signal(&self) {
        // Fails only when the count is full, and then whoever takes it has something to take.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Takes what was counted.
    pub fn take(&self) -> u64 {
        let mut count = [0; 8];
        match rustix::io::read(&self.0, &mut count) {
            Ok(8) => u64::from_ne_bytes(count),
            _ => 0,
        }
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_taken_once() {
        let event = Event::new().unwrap();
        event.signal();
        event.try_clone().unwrap().signal();
        assert_eq!((event.take(), event.take()), (2, 0));
    }
}
