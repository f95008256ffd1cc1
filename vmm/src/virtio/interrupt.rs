//! The one interrupt line of a device, and why it was raised.

use crate::event::Event;
use crate::memory::ShownPage;

/// Offset of the register that tells why.
const REASONS: u64 = 0x60;

/// The device has given chains back.
const USED: u32 = 1;

/// The device's configuration or status changed.
const CONFIGURATION: u32 = 2;

/// A line, and the page on which the driver reads why it was raised.
#[derive(Debug)]
pub struct Interrupt {
    line: Event,
    page: ShownPage,
}

impl Interrupt {
    /// What a driver writes when it has seen that chains were given back, and nothing else: by far the most frequent one. It
    /// may be lost. The reason then stands until the device is reset, and a driver that reads it looks at its rings, which
    /// it does at any interrupt.
    pub const SEEN_USED: u32 = USED;

    /// A line that `line` raises, which KVM takes; the device's registers are on `page`.
    pub fn new(line: Event, page: ShownPage) -> Interrupt {
        Interrupt { line, page }
    }

    /// The page of the device's registers.
    pub(super) fn page(&self) -> &ShownPage {
        &self.page
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
        // Written before the line is raised: the driver finds it as soon as it is called.
        self.page.add(REASONS, reason);
        self.line.signal();
    }

    /// The driver has seen these.
    pub(super) fn acknowledge(&self, reasons: u32) {
        self.page.remove(REASONS, reasons);
    }
}
