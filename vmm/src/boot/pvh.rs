//! What a kernel that is entered by its PVH note is told: Xen's `hvm_start_info`, version 1 (`public/arch-x86/hvm/start_info.h`).

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::load::Placed;
use crate::kvm::Start;
use crate::memory::{BOOT_DATA, COMMAND_LINE, Memory, SpanKind, spans};

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;

/// Where the parts are: the structure, one module (the initrd), the map of memory.
const INFO: u64 = BOOT_DATA;
const MODULE: u64 = BOOT_DATA + 0x100;
const MAP: u64 = BOOT_DATA + 0x200;

const RAM: u32 = 1;
const RESERVED: u32 = 2;

/// Writes what the kernel is told, and says how it is entered.
pub(super) fn write(memory: &Memory, entry: u32, placed: Placed) -> Result<Start, GuestMemoryError> {
    let mut map = Vec::new();
    let spans = spans(memory);
    for span in &spans {
        let kind = if span.kind == SpanKind::Ram { RAM } else { RESERVED };
        map.extend(span.start.to_le_bytes());
        map.extend(span.length.to_le_bytes());
        map.extend(kind.to_le_bytes());
        map.extend([0; 4]);
    }
    let (module, modules) = match placed.initrd {
        Some((address, length)) => ([address, length, 0, 0], 1_u32),
        None => ([0; 4], 0),
    };
    let mut info = Vec::new();
    for number in [MAGIC, VERSION, 0, modules] {
        info.extend(number.to_le_bytes());
    }
    for address in [MODULE, COMMAND_LINE, 0, MAP] {
        info.extend(address.to_le_bytes());
    }
    info.extend(u32::try_from(spans.len()).unwrap_or(u32::MAX).to_le_bytes());
    info.extend([0; 4]);
    memory.write_slice(&info, GuestAddress(INFO))?;
    memory.write_slice(&module.map(u64::to_le_bytes).concat(), GuestAddress(MODULE))?;
    memory.write_slice(&map, GuestAddress(MAP))?;
    Ok(Start::Protected { instruction: entry, info: u32::try_from(INFO).unwrap_or(0) })
}
