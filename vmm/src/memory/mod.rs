//! The guest's memory: private pages, or one file of reserved huge ones, mapped below and above the gap that 32-bit devices live in.
//!
//! ```text
//! layout  where memory, devices and what the kernel is told lie in the guest's address space
//! guest   makes the memory, maps files into it, gives it back
//! shown   pages beside it that the monitor writes and the guest only reads
//! ```
//! Never here: what the guest keeps in it.

mod guest;
mod layout;
mod shown;

pub use guest::{Backing, MemoryError, copy_now, create, give_back, map_file};
pub use layout::{
    BOOT_DATA, COMMAND_LINE, DEVICES, GAP_END, GAP_START, HIGH_START, LOW_END, MP_TABLE, Span, SpanKind,
    spans,
};
pub use shown::{Shown, ShownPage};

/// The guest's memory, as every part of the monitor uses it.
pub type Memory = vm_memory::GuestMemoryMmap<()>;
