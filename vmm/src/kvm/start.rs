//! The state in which a boot protocol wants the first CPU.

use kvm_bindings as kernel;

/// Protection enabled, and the bit that every later processor has set.
const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// The one flag that is always set.
const FLAGS: u64 = 2;

/// Selectors of the Linux boot protocol: code, data, task.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;

/// How the first CPU starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// In real mode at this address below 1 MiB, a multiple of 16.
    Real {
        /// Where the first instruction is.
        instruction: u16,
    },
    /// In protected mode without paging, all segments flat: PVH.
    Protected {
        /// Where the first instruction is.
        instruction: u32,
        /// Guest-physical address of what the kernel is told.
        info: u32,
    },
    /// In 64-bit mode: the Linux 64-bit boot protocol.
    Long {
        /// Where the first instruction is.
        instruction: u64,
        /// Guest-physical address of what the kernel is told.
        info: u64,
        /// Guest-physical address of the page tables.
        page_tables: u64,
        /// Guest-physical address of the descriptor table, of five entries.
        descriptors: u64,
    },
}

impl Start {
    /// What the general registers hold.
    pub(super) fn general(self) -> kernel::kvm_regs {
        let base = kernel::kvm_regs { rflags: FLAGS, ..Default::default() };
        match self {
            Start::Real { instruction } => kernel::kvm_regs { rip: u64::from(instruction), ..base },
            Start::Protected { instruction, info } => {
                kernel::kvm_regs { rip: u64::from(instruction), rbx: u64::from(info), ..base }
            }
            Start::Long { instruction, info, .. } => kernel::kvm_regs { rip: instruction, rsi: info, ..base },
        }
    }

    /// Changes the segment and control registers.
    pub(super) fn fill_special(self, special: &mut kernel::kvm_sregs) {
        match self {
            Start::Real { .. } => {
                special.cs.base = 0;
                special.cs.selector = 0;
            }
            Start::Protected { .. } => {
                flat(special, false);
                special.cr0 = CR0_PE | CR0_ET;
                special.cr4 = 0;
            }
            Start::Long { page_tables, descriptors, .. } => {
                flat(special, true);
                special.gdt.base = descriptors;
                special.gdt.limit = 5 * 8 - 1;
                special.cr3 = page_tables;
                special.cr4 = CR4_PAE;
                special.cr0 = CR0_PE | CR0_ET | CR0_PG;
                special.efer = EFER_LME | EFER_LMA;
            }
        }
    }
}

fn flat(special: &mut kernel::kvm_sregs, long: bool) {
    let whole = kernel::kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, ..Default::default() };
    let code = kernel::kvm_segment {
        selector: CODE,
        type_: 0xb, // execute, read, accessed
        db: u8::from(!long),
        l: u8::from(long),
        ..whole
    };
    let data = kernel::kvm_segment { selector: DATA, type_: 0x3, db: 1, ..whole };
    // A busy task of 32 or 64 bits, which the processor demands to be there.
    let task = kernel::kvm_segment { selector: TASK, limit: 0x67, type_: 0xb, s: 0, g: 0, ..whole };
    special.cs = code;
    special.ds = data;
    special.es = data;
    special.fs = data;
    special.gs = data;
    special.ss = data;
    special.tr = task;
}
