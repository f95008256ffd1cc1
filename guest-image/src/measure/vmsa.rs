//! The state in which QEMU with KVM starts a vCPU, as the page that is measured (AMD64 manual volume 2, table B-4).

use super::launch::PAGE_BYTES;
use super::vcpu::VcpuSignature;

/// Where the first vCPU starts: the reset vector, 16 bytes below 4 GiB.
pub(super) const RESET_VECTOR: u32 = 0xffff_fff0;

/// What of a vCPU's state is not the same for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vmsa {
    /// Address of its first instruction.
    pub start: u32,
    /// Its type: what RDX holds after a reset.
    pub signature: VcpuSignature,
    /// SEV features of the guest; bit 0, SNP, is always among them.
    pub features: u64,
}

impl Vmsa {
    /// The page.
    pub fn page(&self) -> [u8; PAGE_BYTES] {
        let mut page = [0; PAGE_BYTES];
        let mut put = |offset: usize, bytes: &[u8]| {
            page.iter_mut().skip(offset).zip(bytes).for_each(|(to, from)| *to = *from);
        };
        let [low, high] = [self.start & 0xffff, self.start & 0xffff_0000];
        // Selector, attributes, limit, base.
        let segments: [(usize, u16, u16, u32); 8] = [
            (0x000, 0, 0x93, 0),
            (0x010, 0xf000, 0x9b, high),
            (0x020, 0, 0x93, 0),
            (0x030, 0, 0x93, 0),
            (0x040, 0, 0x93, 0),
            (0x050, 0, 0x93, 0),
            (0x070, 0, 0x82, 0),
            (0x090, 0, 0x8b, 0),
        ];
        for (offset, selector, attributes, base) in segments {
            put(offset, &selector.to_le_bytes());
            put(offset + 2, &attributes.to_le_bytes());
            put(offset + 4, &0xffff_u32.to_le_bytes());
            put(offset + 8, &u64::from(base).to_le_bytes());
        }
        for offset in [0x060, 0x080] {
            // GDTR and IDTR have a limit only.
            put(offset + 4, &0xffff_u32.to_le_bytes());
        }
        let registers: [(usize, u64); 12] = [
            (0x0d0, 0x1000),      // EFER: SVME, by KVM
            (0x148, 0x40),        // CR4: MCE, by KVM
            (0x158, 0x10),        // CR0: ET
            (0x160, 0x400),       // DR7
            (0x168, 0xffff_0ff0), // DR6
            (0x170, 0x2),         // RFLAGS
            (0x178, u64::from(low)),
            (0x268, 0x0007_0406_0007_0406), // PAT
            (0x310, u64::from(self.signature.0)),
            (0x3b0, self.features),
            (0x3e8, 0x1),    // XCR0
            (0x408, 0x1f80), // MXCSR, u32
        ];
        for (offset, value) in registers {
            put(offset, &value.to_le_bytes());
        }
        put(0x410, &0x037f_u16.to_le_bytes()); // x87 control word
        page
    }
}
