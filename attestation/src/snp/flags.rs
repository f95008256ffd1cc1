//! Bits of a report: what the guest's owner allowed, and what the platform says of itself.

/// Guest policy bits (publication 56860, "Guest Policy").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy(pub u64);

/// Platform flags (publication 56860, "PLATFORM_INFO").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlatformInfo(pub u64);

impl Policy {
    /// Bits that a later firmware may give a meaning; zero today.
    pub const RESERVED: u64 = !0 << 26;

    /// The lowest minor ABI version that the guest runs on.
    pub fn abi_minor(self) -> u8 {
        self.0.to_le_bytes()[0]
    }

    /// The lowest major ABI version that the guest runs on.
    pub fn abi_major(self) -> u8 {
        self.0.to_le_bytes()[1]
    }

    /// Whether the guest may run where SMT is on.
    pub fn smt_allowed(self) -> bool {
        self.bit(16)
    }

    /// Bit 17, which must be one.
    pub fn must_be_one(self) -> bool {
        self.bit(17)
    }

    /// Whether the guest may be moved with a migration agent.
    pub fn migration_agent_allowed(self) -> bool {
        self.bit(18)
    }

    /// Whether the host may decrypt the guest's memory.
    pub fn debug_allowed(self) -> bool {
        self.bit(19)
    }

    /// Whether the guest runs on one socket only.
    pub fn single_socket_required(self) -> bool {
        self.bit(20)
    }

    /// Whether CXL devices may hold the guest's memory.
    pub fn cxl_allowed(self) -> bool {
        self.bit(21)
    }

    /// Whether memory must be encrypted by AES-256-XTS.
    pub fn aes_256_xts_required(self) -> bool {
        self.bit(22)
    }

    /// Whether running average power limit counters must be off.
    pub fn rapl_must_be_off(self) -> bool {
        self.bit(23)
    }

    /// Whether ciphertext must be hidden from the host.
    pub fn ciphertext_hiding_required(self) -> bool {
        self.bit(24)
    }

    /// Whether the host must not swap the guest's pages.
    pub fn page_swap_disabled(self) -> bool {
        self.bit(25)
    }

    fn bit(self, number: u32) -> bool {
        self.0 & (1 << number) != 0
    }
}

impl PlatformInfo {
    /// Simultaneous multi-threading is on.
    pub fn smt(self) -> bool {
        self.bit(0)
    }

    /// Transparent memory encryption is on for the host too.
    pub fn tsme(self) -> bool {
        self.bit(1)
    }

    /// Memory has error correction.
    pub fn ecc(self) -> bool {
        self.bit(2)
    }

    /// Power limit counters are off.
    pub fn rapl_off(self) -> bool {
        self.bit(3)
    }

    /// Ciphertext is hidden from the host.
    pub fn ciphertext_hiding(self) -> bool {
        self.bit(4)
    }

    /// Memory was checked for aliases at boot and since (AMD-SB-3015).
    pub fn alias_check_complete(self) -> bool {
        self.bit(5)
    }

    /// Trusted I/O is on.
    pub fn trusted_io(self) -> bool {
        self.bit(7)
    }

    fn bit(self, number: u32) -> bool {
        self.0 & (1 << number) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_is_bit_19_of_the_policy() {
        assert!(Policy(1 << 19).debug_allowed());
        assert!(!Policy(0x3001f).debug_allowed());
    }

    #[test]
    fn the_abi_version_is_in_the_lowest_two_bytes() {
        let policy = Policy(0x3_0137);
        assert_eq!((policy.abi_major(), policy.abi_minor()), (1, 0x37));
    }
}
