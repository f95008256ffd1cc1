//! Where what lies in the guest's physical address space.
//!
//! ```text
//! 0x0000_0000  memory; boot data at 0x6000, command line at 0x2_0000
//! 0x0009_e000  the table of processors; reserved up to 1 MiB
//! 0x0010_0000  memory: kernel from 16 MiB, initrd at the end
//! 0xc000_0000  the gap: virtio devices at 0xd000_0000, IOAPIC, local APICs, what KVM needs for itself
//! 0x1_0000_0000 memory
//! ```

use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use super::Memory;

/// First address that is not memory below 4 GiB, however much there is.
pub const GAP_START: u64 = 0xc000_0000;

/// First address of memory above the gap.
pub const GAP_END: u64 = 0x1_0000_0000;

/// What the kernel is told at its start: up to [`COMMAND_LINE`].
pub const BOOT_DATA: u64 = 0x6000;

/// The kernel's command line: at most 64 KiB.
pub const COMMAND_LINE: u64 = 0x2_0000;

/// The table of processors, up to [`LOW_END`]. Linux looks for it in the last KiB before 640 KiB, and elsewhere.
pub const MP_TABLE: u64 = 0x9_e000;

/// Where the old world's video memory begins.
pub const LOW_END: u64 = 0xa_0000;

/// From here on there is memory that nothing of the old world lies in.
pub const HIGH_START: u64 = 0x10_0000;

/// The first virtio device's registers, 4 KiB each.
pub const DEVICES: u64 = 0xd000_0000;

/// What a span of the address space is to be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Memory.
    Ram,
    /// Memory that the guest leaves alone.
    Reserved,
}

/// A span of the address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
    /// What it is.
    pub kind: SpanKind,
}

/// The map of the address space that the guest's kernel is given.
pub fn spans(memory: &Memory) -> Vec<Span> {
    let mut spans = vec![
        Span { start: 0, length: MP_TABLE, kind: SpanKind::Ram },
        Span { start: MP_TABLE, length: HIGH_START - MP_TABLE, kind: SpanKind::Reserved },
    ];
    for region in memory.iter() {
        let start = region.start_addr().raw_value().max(HIGH_START);
        let end = region.start_addr().raw_value().saturating_add(region.len());
        if end > start {
            spans.push(Span { start, length: end - start, kind: SpanKind::Ram });
        }
    }
    spans
}
