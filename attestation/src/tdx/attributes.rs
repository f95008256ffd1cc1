//! What the bits of TD attributes and XFAM mean (Intel TDX Module ABI, TD_PARAMS: ATTRIBUTES, XFAM).

/// Attributes of a trust domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TdAttributes(pub u64);

/// Bits that have a name. Bits 0 to 7 make the domain untrusted, bits 8 to 31 touch its security, the others do not.
const NAMED: &[(u32, &str)] = &[
    (DEBUG, "DEBUG"),
    (4, "HGS_PLUS_PROF"),
    (5, "PERF_PROF"),
    (6, "PMT_PROF"),
    (16, "ICSSD"),
    (27, "LASS"),
    (SEPT_VE_DISABLE, "SEPT_VE_DISABLE"),
    (MIGRATABLE, "MIGRATABLE"),
    (30, "PKS"),
    (31, "KL"),
    (62, "TPA"),
    (63, "PERFMON"),
];
const DEBUG: u32 = 0;
const SEPT_VE_DISABLE: u32 = 28;
const MIGRATABLE: u32 = 29;
const UNDER_DEBUG: u64 = 0xff;

impl TdAttributes {
    /// Whether the host may read and write the domain's memory and registers.
    pub fn debug(self) -> bool {
        self.has(DEBUG)
    }

    /// Whether a migration TD may move the domain to another machine.
    pub fn migratable(self) -> bool {
        self.has(MIGRATABLE)
    }

    /// Whether a page that the host took away stops the domain, rather than raising an exception in the guest whenever
    /// the host likes.
    pub fn sept_ve_disabled(self) -> bool {
        self.has(SEPT_VE_DISABLE)
    }

    /// Bits of the group "TD under debug" other than DEBUG itself: profiling by the host, or reserved.
    pub fn profiling(self) -> u64 {
        self.0 & UNDER_DEBUG & !(1 << DEBUG)
    }

    /// Bits that have no meaning known here, outside of the group "TD under debug".
    pub fn unknown(self) -> u64 {
        let named = NAMED.iter().fold(UNDER_DEBUG, |bits, (bit, _)| bits | (1 << bit));
        self.0 & !named
    }

    /// Names of the bits that are set.
    pub fn names(self) -> Vec<&'static str> {
        NAMED.iter().filter(|(bit, _)| self.has(*bit)).map(|(_, name)| *name).collect()
    }

    fn has(self, bit: u32) -> bool {
        self.0 & (1 << bit) != 0
    }
}

/// Extended CPU state that a trust domain may use; each bit as in XCR0 and IA32_XSS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Xfam(pub u64);

/// x87 and SSE state, which the TDX module demands of every domain.
const ALWAYS: u64 = 0b11;
/// AVX (2), AVX-512 (5 to 7), PT (8), PKRU (9), CET (11, 12), UINTR (14), LBR (15), HWP (16), AMX (17, 18), APX (19).
const KNOWN: u64 = ALWAYS | 1 << 2 | 0b111 << 5 | 0b11 << 8 | 0b11 << 11 | 0b111 << 14 | 0b11 << 17 | 1 << 19;

impl Xfam {
    /// Bits that every domain has and this one lacks.
    pub fn missing(self) -> u64 {
        ALWAYS & !self.0
    }

    /// Bits that have no meaning known here.
    pub fn unknown(self) -> u64 {
        self.0 & !KNOWN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_domain_has_nothing_to_hide() {
        let attributes = TdAttributes(1 << 28);
        assert_eq!(attributes.names(), ["SEPT_VE_DISABLE"]);
        assert_eq!((attributes.debug(), attributes.profiling(), attributes.unknown()), (false, 0, 0));
    }

    #[test]
    fn debug_and_profiling_are_told_apart() {
        assert!(TdAttributes(1).debug());
        assert_eq!(TdAttributes(1).profiling(), 0);
        assert_eq!(TdAttributes(1 << 4).profiling(), 1 << 4);
        assert_eq!(TdAttributes(1 << 1).profiling(), 1 << 1);
    }

    #[test]
    fn bits_without_a_name_are_unknown() {
        assert_eq!(TdAttributes(1 << 9 | 1 << 29).unknown(), 1 << 9);
        assert_eq!(TdAttributes(1 << 40).unknown(), 1 << 40);
    }

    #[test]
    fn xfam_of_real_domains_is_known() {
        assert_eq!((Xfam(0x642e7).missing(), Xfam(0x642e7).unknown()), (0, 0));
        assert_eq!((Xfam(0x600e7).missing(), Xfam(0x600e7).unknown()), (0, 0));
    }

    #[test]
    fn xfam_lacks_or_invents_bits() {
        assert_eq!(Xfam(0x642e5).missing(), 2);
        assert_eq!(Xfam(0x642ef).unknown(), 8);
    }
}
