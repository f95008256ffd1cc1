//! The one interrupt line of a device, and why it was raised.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::event::Event;

/// The device has given chains back.
const USED: u32 = 1;

/// The device's configuration or status changed.
const CONFIGURATION: u32 = 2;

/// A line. Copies raise the same one.
#[derive(Debug, Clone)]
pub struct Interrupt {
    reasons: Arc<AtomicU32>,
    line: Arc<Event>,
}

impl Interrupt {
    /// A line that `line` raises, which KVM takes.
    pub fn new(line: Event) -> Interrupt {
        Interrupt { reasons: Arc::default(), line: Arc::new(line) }
    }

    /// Says that chains were given back.
    pub fn used(&self) {
        self.raise(USED);
    }

    /// Says that configuration or status changed.
    pub fn changed(&self) {
        self.raise(CONFIGURATION);
    }

    fn raise(&self, reason: u32) {
        self.reasons.fetch_or(reason, Ordering::SeqCst);
        self.line.signal();
    }

    /// The reasons that the driver has not acknowledged.
    pub(super) fn reasons(&self) -> u32 {
        self.reasons.load(Ordering::SeqCst)
    }

    /// The driver has seen these.
    pub(super) fn acknowledge(&self, reasons: u32) {
        self.reasons.fetch_and(!reasons, Ordering::SeqCst);
    }
}
