//! The two rings as vhost-user describes them: a queue, its two event descriptors, and whether it may run.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use virtio_queue::{Queue, QueueT};

use crate::memory::Memory;

/// The most descriptors that a ring may have.
pub(super) const MAX_SIZE: u16 = 1024;

/// One ring.
#[derive(Debug)]
pub(super) struct Ring {
    /// Where its descriptors are.
    pub queue: Queue,
    kick: Option<File>,
    call: Option<File>,
    /// Whether the monitor lets it run.
    pub enabled: bool,
}

impl Ring {
    /// A ring that nobody has described yet.
    pub(super) fn new() -> Result<Ring, virtio_queue::Error> {
        Ok(Ring { queue: Queue::new(MAX_SIZE)?, kick: None, call: None, enabled: false })
    }

    /// Whether packets may be moved.
    pub(super) fn is_running(&self) -> bool {
        self.enabled && self.queue.ready() && self.kick.is_some()
    }

    /// Starts the ring where the guest left it: it must lie in the guest's memory.
    pub(super) fn start(&mut self, kick: Option<File>, memory: Option<&Memory>) -> bool {
        self.kick = kick;
        self.queue.set_ready(true);
        let used = memory
            .filter(|memory| self.queue.is_valid(*memory))
            .and_then(|memory| self.queue.used_idx(memory, std::sync::atomic::Ordering::Acquire).ok());
        match used {
            Some(used) => self.queue.set_next_used(used.0),
            None => self.queue.set_ready(false),
        }
        used.is_some()
    }

    /// Stops the ring: gives the place where a later start goes on.
    pub(super) fn stop(&mut self) -> u16 {
        self.queue.set_ready(false);
        self.kick = None;
        self.queue.next_avail()
    }

    /// Where the guest's interrupts go.
    pub(super) fn set_call(&mut self, call: Option<File>) {
        self.call = call;
    }

    /// Readable when the guest has added to the ring.
    pub(super) fn kick(&self) -> Option<BorrowedFd<'_>> {
        self.kick.as_ref().map(AsFd::as_fd)
    }

    /// Takes the guest's notification.
    pub(super) fn take_kick(&mut self) {
        // One read empties the counter. There is something to read: the caller has seen that it is readable.
        let _ = self.kick.as_mut().map(|kick| kick.read(&mut [0; 8]));
    }

    /// Interrupts the guest, if it wants that.
    pub(super) fn interrupt(&mut self, memory: &Memory) -> Result<(), virtio_queue::Error> {
        if self.queue.needs_notification(memory)? {
            // Fails only when the counter is full, and then the interrupt is pending anyway.
            let _ = self.call.as_mut().map(|call| call.write(&1_u64.to_ne_bytes()));
        }
        Ok(())
    }
}
