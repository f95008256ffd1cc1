//! Types of vCPUs by the names that QEMU has for them. What of a type is measured is its CPUID signature alone.

use std::fmt::{self, Display};
use std::str::FromStr;

/// CPUID Fn0000_0001 EAX: family, model and stepping, folded as AMD's publication 25481 says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VcpuSignature(pub u32);

/// A name that is none of QEMU's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no vCPU type that can be confidential: {} are", known())]
pub struct UnknownVcpu {
    /// The name.
    pub name: String,
}

/// Name without a version, the versions that QEMU has, family, model, stepping.
const TYPES: [(&str, u8, u8, u8, u8); 6] = [
    ("EPYC", 5, 23, 1, 2),
    ("EPYC-IBPB", 0, 23, 1, 2),
    ("EPYC-Rome", 5, 23, 49, 0),
    ("EPYC-Milan", 3, 25, 1, 1),
    ("EPYC-Genoa", 2, 25, 17, 0),
    ("EPYC-Turin", 1, 26, 0, 0),
];

impl VcpuSignature {
    /// Folds family, model and stepping.
    pub const fn new(family: u8, model: u8, stepping: u8) -> Self {
        let (base, extended) = if family > 15 { (15, family - 15) } else { (family, 0) };
        let signature = (extended as u32) << 20
            | ((model >> 4) as u32) << 16
            | (base as u32) << 8
            | ((model & 15) as u32) << 4
            | (stepping & 15) as u32;
        Self(signature)
    }
}

impl FromStr for VcpuSignature {
    type Err = UnknownVcpu;

    /// Takes `EPYC-Milan` or `EPYC-Milan-v2`: a version changes features, not the signature.
    fn from_str(name: &str) -> Result<Self, UnknownVcpu> {
        let unknown = || UnknownVcpu { name: name.chars().take(64).collect() };
        let (base, version) = match name.rsplit_once("-v") {
            Some((base, version)) => (base, version.parse::<u8>().map_err(|_| unknown())?),
            None => (name, 0),
        };
        let (_, versions, family, model, stepping) =
            *TYPES.iter().find(|(known, ..)| *known == base).ok_or_else(unknown)?;
        let exists = version <= versions && (version > 0 || base == name);
        if exists { Ok(Self::new(family, model, stepping)) } else { Err(unknown()) }
    }
}

impl Display for VcpuSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

fn known() -> String {
    TYPES.map(|(name, ..)| name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_genoa_is_family_25_model_17() {
        assert_eq!("EPYC-Genoa".parse(), Ok(VcpuSignature(0x00a1_0f10)));
    }

    #[test]
    fn a_version_does_not_change_the_signature() {
        assert_eq!("EPYC-Milan-v2".parse::<VcpuSignature>(), "EPYC-Milan".parse());
    }

    #[test]
    fn a_version_that_qemu_has_not_is_refused() {
        assert!("EPYC-Milan-v9".parse::<VcpuSignature>().is_err());
    }

    #[test]
    fn an_intel_type_is_refused_with_those_that_are_known() {
        let error = "Skylake-Server".parse::<VcpuSignature>().expect_err("no EPYC");
        assert!(
            error.to_string().ends_with("EPYC, EPYC-IBPB, EPYC-Rome, EPYC-Milan, EPYC-Genoa, EPYC-Turin are")
        );
    }
}
