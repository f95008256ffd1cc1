//! Firmware versions of a platform, and which generation of processors they are of.

use std::fmt::{self, Display};

/// CPU generations; the layout of a TCB and the root of trust depend on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Generation {
    /// Family 0x19, models 0x00 to 0x0f.
    Milan,
    /// Family 0x19, models 0x10 to 0x1f and 0xa0 to 0xaf (Bergamo and Siena share Genoa's roots).
    Genoa,
    /// Family 0x1a, models 0x00 to 0x1f.
    Turin,
}

/// Firmware versions, by component. Larger numbers are newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tcb {
    /// FMC firmware: Turin only.
    pub fmc: Option<u8>,
    /// Boot loader of the secure processor.
    pub boot_loader: u8,
    /// Operating system of the secure processor.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// CPU microcode.
    pub microcode: u8,
}

/// Version of the SNP firmware itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FirmwareVersion {
    /// Major number of the ABI.
    pub major: u8,
    /// Minor number of the ABI.
    pub minor: u8,
    /// Build.
    pub build: u8,
}

impl Generation {
    /// By CPUID family and model, extended parts included.
    pub fn from_cpuid(family: u8, model: u8) -> Option<Self> {
        match (family, model) {
            (0x19, 0x00..=0x0f) => Some(Generation::Milan),
            (0x19, 0x10..=0x1f | 0xa0..=0xaf) => Some(Generation::Genoa),
            (0x1a, 0x00..=0x1f) => Some(Generation::Turin),
            _ => None,
        }
    }

    /// By the product name in a VCEK or VLEK, which may end in a stepping: `Milan-B0`.
    pub fn from_product(name: &str) -> Option<Self> {
        match name.split('-').next() {
            Some("Milan") => Some(Generation::Milan),
            Some("Genoa" | "Bergamo" | "Siena") => Some(Generation::Genoa),
            Some("Turin") => Some(Generation::Turin),
            _ => None,
        }
    }
}

impl Tcb {
    /// Offsets inside a TCB's eight bytes that mean nothing in the layout of `generation`.
    pub(crate) fn reserved(generation: Option<Generation>) -> std::ops::Range<usize> {
        match generation {
            Some(Generation::Turin) => 4..7,
            Some(Generation::Milan | Generation::Genoa) | None => 2..6,
        }
    }

    /// Reads the eight bytes of a TCB_VERSION. Turin moved every component (publication 56860, table 3).
    pub fn parse(raw: [u8; 8], generation: Option<Generation>) -> Self {
        let [first, second, third, fourth, _, _, seventh, microcode] = raw;
        match generation {
            Some(Generation::Turin) => {
                Tcb { fmc: Some(first), boot_loader: second, tee: third, snp: fourth, microcode }
            }
            Some(Generation::Milan | Generation::Genoa) | None => {
                Tcb { fmc: None, boot_loader: first, tee: second, snp: seventh, microcode }
            }
        }
    }

    /// The eight bytes; a TCB with an FMC is written in Turin's layout.
    pub fn to_bytes(self) -> [u8; 8] {
        match self.fmc {
            Some(fmc) => [fmc, self.boot_loader, self.tee, self.snp, 0, 0, 0, self.microcode],
            None => [self.boot_loader, self.tee, 0, 0, 0, 0, self.snp, self.microcode],
        }
    }

    /// Whether no component is older than in `other`. A component that one side lacks counts as zero.
    pub fn is_at_least(&self, other: &Tcb) -> bool {
        self.components().iter().zip(other.components()).all(|(mine, theirs)| *mine >= theirs)
    }

    fn components(&self) -> [u8; 5] {
        [self.fmc.unwrap_or(0), self.boot_loader, self.tee, self.snp, self.microcode]
    }
}

impl Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Generation::Milan => "Milan",
            Generation::Genoa => "Genoa",
            Generation::Turin => "Turin",
        })
    }
}

impl Display for Tcb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(fmc) = self.fmc {
            write!(f, "fmc {fmc} ")?;
        }
        let Tcb { boot_loader, tee, snp, microcode, .. } = self;
        write!(f, "boot_loader {boot_loader} tee {tee} snp {snp} microcode {microcode}")
    }
}

impl Display for FirmwareVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.build)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Tcb = Tcb { fmc: None, boot_loader: 4, tee: 0, snp: 24, microcode: 219 };

    #[test]
    fn a_tcb_with_one_older_component_is_not_at_least_the_other() {
        let newer_but_for_one = Tcb { boot_loader: 5, microcode: 218, ..OLD };
        assert!(!newer_but_for_one.is_at_least(&OLD));
    }

    #[test]
    fn a_tcb_is_at_least_itself() {
        assert!(OLD.is_at_least(&OLD));
    }

    #[test]
    fn a_turin_tcb_is_written_as_it_is_read() {
        let raw = [3, 1, 2, 7, 0, 0, 0, 71];
        assert_eq!(Tcb::parse(raw, Some(Generation::Turin)).to_bytes(), raw);
    }

    #[test]
    fn a_milan_tcb_is_written_as_it_is_read() {
        let raw = [4, 1, 0, 0, 0, 0, 24, 219];
        assert_eq!(Tcb::parse(raw, Some(Generation::Milan)).to_bytes(), raw);
    }

    #[test]
    fn a_product_name_may_carry_a_stepping() {
        assert_eq!(Generation::from_product("Milan-B0"), Some(Generation::Milan));
    }

    #[test]
    fn a_product_that_only_begins_like_a_known_one_is_unknown() {
        assert_eq!(Generation::from_product("MilanX"), None);
    }
}
