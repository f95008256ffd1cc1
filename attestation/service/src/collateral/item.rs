//! What can be kept: its name, and its place in the cache's directory.
//!
//! ```text
//! amd/Milan/crl              revocation list of AMD's root        simulated/Turin/crl     the same of a simulated root
//! amd/Milan/cert_chain       ASK and ARK, where AMD has others than those that are built in
//! amd/Milan/vcek/CHIP.4.0.24.219    VCEK of a chip, in hexadecimal, for versions of boot loader, TEE, SNP and microcode;
//!                                   a fifth number is the FMC's
//! intel/b0c06f000000.platform       collateral in JSON, by FMSPC and authority
//! ```
//! Certificates and lists are PEM or DER.

use std::fmt::{self, Display};

use coffer_attestation::snp::{Generation, Tcb};
use coffer_attestation::tdx::{PckAuthority, PlatformKind};

const GENERATIONS: [Generation; 3] = [Generation::Milan, Generation::Genoa, Generation::Turin];
/// The longest chip id, in bytes.
const CHIP_BYTES: usize = 64;

/// What can be kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Item {
    /// The revocation list of a generation's root.
    List {
        /// Which generation.
        generation: Generation,
        /// Whether it is that of a simulated root.
        simulated: bool,
    },
    /// Intermediate and root of a generation.
    Chain {
        /// Which generation.
        generation: Generation,
    },
    /// The certificate of a chip's key.
    Vcek {
        /// Which generation.
        generation: Generation,
        /// 8 bytes on Turin, else 64.
        chip: Vec<u8>,
        /// What the key is derived from.
        tcb: Tcb,
    },
    /// Intel's collateral for a kind of platform.
    Platform(PlatformKind),
}

impl Item {
    /// Where it is, below the cache's directory.
    pub fn path(&self) -> String {
        match self {
            Item::List { generation, simulated } => {
                let maker = if *simulated { "simulated" } else { "amd" };
                format!("{maker}/{generation}/crl")
            }
            Item::Chain { generation } => format!("amd/{generation}/cert_chain"),
            Item::Vcek { generation, chip, tcb } => {
                let Tcb { fmc, boot_loader, tee, snp, microcode } = tcb;
                let fmc = fmc.map_or_else(String::new, |fmc| format!(".{fmc}"));
                let chip = hex::encode(chip);
                format!("amd/{generation}/vcek/{chip}.{boot_loader}.{tee}.{snp}.{microcode}{fmc}")
            }
            Item::Platform(PlatformKind { fmspc, authority }) => {
                format!("intel/{}.{}", hex::encode(fmspc), authority.name())
            }
        }
    }

    /// What is kept at `path`; `None` if nothing has that name.
    pub fn at(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').collect();
        let item = match parts.as_slice() {
            ["amd", product, "crl"] => Item::List { generation: product_of(product)?, simulated: false },
            ["simulated", product, "crl"] => Item::List { generation: product_of(product)?, simulated: true },
            ["amd", product, "cert_chain"] => Item::Chain { generation: product_of(product)? },
            ["amd", product, "vcek", name] => vcek(product_of(product)?, name)?,
            ["intel", name] => Item::Platform(platform(name)?),
            _ => return None,
        };
        // One name for one thing: no capitals, no leading zeros.
        (item.path() == path).then_some(item)
    }
}

fn product_of(name: &str) -> Option<Generation> {
    GENERATIONS.into_iter().find(|generation| generation.to_string() == name)
}

fn vcek(generation: Generation, name: &str) -> Option<Item> {
    let (chip, versions) = name.split_once('.')?;
    let chip = hex::decode(chip).ok().filter(|chip| chip.len() <= CHIP_BYTES)?;
    let versions: Option<Vec<u8>> = versions.split('.').map(|part| part.parse().ok()).collect();
    let (fmc, boot_loader, tee, snp, microcode) = match versions?.as_slice() {
        [boot_loader, tee, snp, microcode] => (None, *boot_loader, *tee, *snp, *microcode),
        [boot_loader, tee, snp, microcode, fmc] => (Some(*fmc), *boot_loader, *tee, *snp, *microcode),
        _ => return None,
    };
    Some(Item::Vcek { generation, chip, tcb: Tcb { fmc, boot_loader, tee, snp, microcode } })
}

fn platform(name: &str) -> Option<PlatformKind> {
    let (fmspc, authority) = name.split_once('.')?;
    let fmspc = hex::decode(fmspc).ok()?.try_into().ok()?;
    let both = [PckAuthority::Platform, PckAuthority::Processor];
    let authority = both.into_iter().find(|known| known.name() == authority)?;
    Some(PlatformKind { fmspc, authority })
}

impl Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::List { generation, simulated: false } => {
                write!(f, "AMD's revocation list for {generation}")
            }
            Item::List { generation, simulated: true } => {
                write!(f, "the revocation list of a simulated {generation}")
            }
            Item::Chain { generation } => write!(f, "AMD's intermediate for {generation}"),
            Item::Vcek { generation, chip, tcb } => {
                // The whole id says nothing more to a reader.
                let chip: String = hex::encode(chip).chars().take(16).collect();
                write!(f, "the VCEK of {generation} chip {chip}… at {tcb}")
            }
            Item::Platform(kind) => {
                write!(f, "Intel's collateral for {} ({})", hex::encode(kind.fmspc), kind.authority.name())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCB: Tcb = Tcb { fmc: None, boot_loader: 4, tee: 0, snp: 24, microcode: 219 };

    #[test]
    fn every_item_is_found_again_by_its_path() {
        let generation = Generation::Turin;
        let newer = Tcb { fmc: Some(3), ..TCB };
        let kind = PlatformKind { fmspc: [0xb0, 0xc0, 0x6f, 0, 0, 0], authority: PckAuthority::Processor };
        let items = [
            Item::List { generation, simulated: false },
            Item::List { generation, simulated: true },
            Item::Chain { generation },
            Item::Vcek { generation, chip: vec![0xab; 8], tcb: newer },
            Item::Vcek { generation: Generation::Milan, chip: vec![0xab; 64], tcb: TCB },
            Item::Platform(kind),
        ];
        let again: Vec<_> = items.iter().map(|item| Item::at(&item.path())).collect();
        assert_eq!(again, items.map(Some));
    }

    #[test]
    fn the_paths_are_those_of_the_documentation() {
        let item = Item::Vcek { generation: Generation::Milan, chip: vec![0xab; 2], tcb: TCB };
        assert_eq!(item.path(), "amd/Milan/vcek/abab.4.0.24.219");
    }

    #[test]
    fn other_names_and_other_spellings_are_nothing() {
        let none = [
            "amd/Milan",
            "amd/milan/crl",
            "amd/../crl",
            "amd/Milan/vcek/abab.4.0.24",
            "amd/Milan/vcek/ABAB.4.0.24.219",
            "amd/Milan/vcek/abab.04.0.24.219",
            "amd/Milan/vcek/abab.4.0.24.256",
            "intel/b0c06f0000.platform",
            "intel/b0c06f000000.root",
            "",
        ];
        assert_eq!(none.map(Item::at), none.map(|_| None));
    }
}
