//! What a virtio device is to the transport that carries it.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use virtio_queue::Queue;

use crate::memory::Memory;

/// What a device says about itself before a driver knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its kind: the virtio device id.
    pub kind: u32,
    /// Features that it offers, beside those of every ring.
    pub features: u64,
    /// The most descriptors of each of its queues: powers of two.
    pub queues: &'static [u16],
}

/// Why a device is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The driver added to this queue.
    Queue(usize),
    /// Something happened at this one of the device's own descriptors, as [`Device::hosts`] counts them.
    Host(usize),
    /// The driver has just taken the device over, or the last call left something to do.
    Again,
}

/// What a call of a device did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Served {
    /// Per queue, by its bit, whether chains were given back.
    pub used: u64,
    /// Whether there is more to do at once.
    pub again: bool,
    /// When there is more to do that a limit does not allow yet: how long from now.
    pub later: Option<Duration>,
    /// Requests that could not be understood, and were refused.
    pub malformed: u64,
    /// Whether its configuration is another than before.
    pub changed: bool,
}

impl Served {
    /// Books a chain given back on `queue`.
    pub fn used(&mut self, queue: usize) {
        self.used |= u32::try_from(queue).ok().and_then(|queue| 1_u64.checked_shl(queue)).unwrap_or(0);
    }

    /// Books that a limit makes the rest wait.
    pub fn wait(&mut self, how_long: Duration) {
        self.later = Some(self.later.map_or(how_long, |other| other.min(how_long)));
    }

    /// When the device is to be called again.
    pub fn next(&self) -> Next {
        match (self.again, self.later) {
            (true, _) => Next::AtOnce,
            (false, Some(how_long)) => Next::In(how_long),
            (false, None) => Next::Event,
        }
    }
}

/// When a device is to be called again, with [`Cause::Again`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// When something happens, and then with that cause.
    Event,
    /// After the other devices had their turn.
    AtOnce,
    /// When so much time has passed, if nothing happens before.
    In(Duration),
}

/// A ring that contradicts itself, or lies where the guest has no memory.
#[derive(Debug, thiserror::Error)]
#[error("ring {ring} is corrupt")]
pub struct Fault {
    /// The queue's number.
    pub ring: usize,
    /// In what way.
    pub source: virtio_queue::Error,
}

impl Fault {
    /// For `map_err`: a fault of this ring.
    pub fn of(ring: usize) -> impl Fn(virtio_queue::Error) -> Fault {
        move |source| Fault { ring, source }
    }
}

/// A virtio device. It is called by one thread at a time, and never waits. What a driver does to its registers reaches it
/// on a processor's thread, which may ask the kernel for next to nothing: only [`Device::serve`] makes system calls.
pub trait Device: fmt::Debug + Send {
    /// What it is.
    fn identity(&self) -> Identity;

    /// Reads its configuration from `offset`; what is beyond its end stays as it is.
    fn configuration(&self, offset: u64, data: &mut [u8]);

    /// A driver has taken it over, with these features.
    fn start(&mut self, features: u64);

    /// The driver has let go of it: it forgets everything about it.
    fn stop(&mut self);

    /// The driver takes back the memory that it gave to a device which was stopped: what is still moved there beside the program
    /// is waited for, though not long.
    fn settle(&mut self) {}

    /// Moves what is to be moved. There are as many queues as the identity says; the ones that the driver does not use
    /// are not ready. When a fault has stopped the device there are none at all: it then lets go of what waits for it at
    /// [`Device::hosts`].
    fn serve(&mut self, memory: &Memory, queues: &mut [Queue], cause: Cause) -> Result<Served, Fault>;

    /// What to watch beside the queues: whenever something becomes readable or writable there the device is called.
    fn hosts(&self) -> Vec<BorrowedFd<'_>>;
}
