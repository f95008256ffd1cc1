//! What a kernel that is entered by the Linux 64-bit protocol is told: the "zero page" and identity page tables
//! (the kernel's `Documentation/arch/x86/boot.rst` and `zero-page.rst`).

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::bzimage::{BzImage, SETUP_HEADER};
use super::load::Placed;
use crate::kvm::Start;
use crate::memory::{BOOT_DATA, COMMAND_LINE, Memory, SpanKind, spans};

/// Where the parts are: descriptors, zero page, top page table, the next, and four tables of 2 MiB pages.
const DESCRIPTORS: u64 = BOOT_DATA;
const ZERO_PAGE: u64 = BOOT_DATA + 0x1000;
const TOP: u64 = BOOT_DATA + 0x3000;
const NEXT: u64 = BOOT_DATA + 0x4000;
const TABLES: u64 = BOOT_DATA + 0x5000;

/// Page table bits: present and writable; and a page of 2 MiB instead of a table.
const TABLE: u64 = 0x3;
const PAGE_2M: u64 = 0x83;

/// Flat code and data of 64-bit mode, and a task: as the Linux boot protocol wants them at these selectors.
const DESCRIPTOR_TABLE: [u64; 5] =
    [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x008f_8b00_0000_ffff];

/// Fields of the zero page.
const E820_COUNT: u64 = 0x1e8;
const E820_MAP: u64 = 0x2d0;
const TYPE_OF_LOADER: u64 = 0x210;
const LOAD_FLAGS: u64 = 0x211;
const RAMDISK: u64 = 0x218;
const COMMAND_LINE_POINTER: u64 = 0x228;

/// A boot loader without a number of its own.
const LOADER: u8 = 0xff;

/// The kernel is loaded high, and the segments need not be loaded again.
const LOADED_HIGH: u8 = 0x41;

/// Writes what the kernel is told, and says how it is entered.
pub(super) fn write(memory: &Memory, image: &BzImage, placed: Placed) -> Result<Start, GuestMemoryError> {
    let put = |at: u64, bytes: &[u8]| memory.write_slice(bytes, GuestAddress(ZERO_PAGE + at));
    put(SETUP_HEADER, &image.header)?;
    put(TYPE_OF_LOADER, &[LOADER])?;
    put(LOAD_FLAGS, &[LOADED_HIGH])?;
    put(COMMAND_LINE_POINTER, &u32::try_from(COMMAND_LINE).unwrap_or(0).to_le_bytes())?;
    let (address, length) = placed.initrd.unwrap_or((0, 0));
    for (at, value) in [(RAMDISK, address), (RAMDISK + 4, length)] {
        put(at, &u32::try_from(value).unwrap_or(0).to_le_bytes())?;
    }
    let spans = spans(memory);
    put(E820_COUNT, &[u8::try_from(spans.len()).unwrap_or(0)])?;
    let mut map = Vec::new();
    for span in spans {
        map.extend(span.start.to_le_bytes());
        map.extend(span.length.to_le_bytes());
        map.extend(if span.kind == SpanKind::Ram { 1_u32 } else { 2 }.to_le_bytes());
    }
    put(E820_MAP, &map)?;
    write_tables(memory)?;
    let instruction = image.entry();
    Ok(Start::Long { instruction, info: ZERO_PAGE, page_tables: TOP, descriptors: DESCRIPTORS })
}

/// Maps the first 4 GiB to themselves.
fn write_tables(memory: &Memory) -> Result<(), GuestMemoryError> {
    memory.write_slice(&DESCRIPTOR_TABLE.map(u64::to_le_bytes).concat(), GuestAddress(DESCRIPTORS))?;
    memory.write_obj(NEXT | TABLE, GuestAddress(TOP))?;
    let next = [0, 1, 2, 3].map(|gib| (TABLES + gib * 0x1000) | TABLE);
    memory.write_slice(&next.map(u64::to_le_bytes).concat(), GuestAddress(NEXT))?;
    let pages: Vec<u8> = (0..2048_u64).flat_map(|page| ((page << 21) | PAGE_2M).to_le_bytes()).collect();
    memory.write_slice(&pages, GuestAddress(TABLES))
}
