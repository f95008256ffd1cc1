//! The paravisor's report: a hardware report, and the variable data whose digest that report carries.
//!
//! ```text
//! 0x000 "HCLA" | version u32 | report size u32 | request type u32 | status u32 | reserved[12]
//! 0x020 hardware report[1184]: an SNP report, or a TDX report of 1024 bytes and zeros
//! 0x4c0 data size u32 | version u32 | report type u32: 2 SNP, 4 TDX | hash type u32: 1 SHA-256
//! 0x4d0 variable data size u32 | variable data: JSON
//! ```
//! Little endian. Only the hardware report and the variable data are protected by anything; the rest is a wrapper, and
//! bytes behind the variable data are not looked at.

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::base64;
use crate::x509::{KeyError, PublicKey};

const MAGIC: &[u8] = b"HCLA";
const HARDWARE: std::ops::Range<usize> = 0x020..0x4c0;
const TD_REPORT_BYTES: usize = 1024;
const REPORT_TYPE: usize = 0x4c8;
const HASH_TYPE: usize = 0x4cc;
const DATA_SIZE: usize = 0x4d0;
const DATA: usize = 0x4d4;
const SHA256: u32 = 1;
const MOST: usize = 64 << 10;
const ATTESTATION_KEY: &str = "HCLAkPub";

/// A paravisor's report in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HclReport {
    /// What the processor signed.
    pub hardware: HardwareReport,
    /// JSON whose SHA-256 is in the hardware report's data.
    pub variable_data: Vec<u8>,
}

/// The hardware report inside, not looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HardwareReport {
    /// 1184 bytes of SEV-SNP.
    Snp(Vec<u8>),
    /// 1024 bytes of TDX: a report that only the same machine can verify, so that a quote must come with it.
    Tdx(Vec<u8>),
}

/// What the variable data says.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeData {
    /// The virtual TPM's attestation key.
    pub attestation_key: PublicKey,
    /// 64 bytes that the guest may set, if it did.
    pub user_data: Vec<u8>,
    /// How the machine is configured, as the paravisor writes it.
    pub configuration: serde_json::Value,
}

/// Why bytes are no paravisor's report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HclError {
    /// Longer than anything real, or shorter than its own parts.
    #[error(
        "a paravisor's report of {found} bytes is cut short or too long: its parts need {needed}, {MOST} are the most"
    )]
    Length {
        /// Length that the parts need.
        needed: usize,
        /// Length found.
        found: usize,
    },
    /// Something else.
    #[error("this is no paravisor's report: it does not begin with HCLA")]
    Magic,
    /// Neither SNP nor TDX.
    #[error("the paravisor's report holds hardware report type {found}: 2 (SNP) and 4 (TDX) are understood")]
    Type {
        /// Type found.
        found: u32,
    },
    /// Another digest than SHA-256.
    #[error("the variable data is bound by hash type {found}: only 1 (SHA-256) is understood")]
    Hash {
        /// Hash found.
        found: u32,
    },
}

/// Why variable data cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeDataError {
    /// Not the JSON that paravisors write.
    #[error("the variable data is not the JSON of a paravisor")]
    Json(#[source] serde_json::Error),
    /// No key, or several.
    #[error("the variable data has {found} keys named {ATTESTATION_KEY}, it must have one")]
    Keys {
        /// How many there are.
        found: usize,
    },
    /// Neither base64 nor hexadecimal where it should be.
    #[error("the variable data's {field} cannot be decoded")]
    Encoding {
        /// The field.
        field: &'static str,
    },
    /// A key that cannot be verified with.
    #[error("the attestation key cannot be used")]
    Key(#[source] KeyError),
}

#[derive(Deserialize)]
struct Wire {
    keys: Vec<WireKey>,
    #[serde(rename = "user-data", default)]
    user_data: String,
    #[serde(rename = "vm-configuration", default)]
    configuration: serde_json::Value,
}

#[derive(Deserialize)]
struct WireKey {
    #[serde(default)]
    kid: String,
    #[serde(default)]
    kty: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
}

impl HclReport {
    /// Parses the wrapper.
    pub fn parse(bytes: &[u8]) -> Result<Self, HclError> {
        let short = |needed| HclError::Length { needed, found: bytes.len() };
        if bytes.len() > MOST {
            return Err(short(DATA));
        }
        let u32_at = |offset: usize| {
            let word = bytes.get(offset..offset + 4).and_then(|word| word.try_into().ok());
            word.map(u32::from_le_bytes).ok_or(short(DATA))
        };
        if !bytes.starts_with(MAGIC) {
            return Err(HclError::Magic);
        }
        let size = usize::try_from(u32_at(DATA_SIZE)?).map_err(|_| short(MOST))?;
        let end = DATA.saturating_add(size);
        let variable_data = bytes.get(DATA..end).ok_or(short(end))?.to_vec();
        let hardware = bytes.get(HARDWARE).ok_or(short(DATA))?.to_vec();
        let hardware = match u32_at(REPORT_TYPE)? {
            2 => HardwareReport::Snp(hardware),
            4 => HardwareReport::Tdx(hardware.into_iter().take(TD_REPORT_BYTES).collect()),
            found => return Err(HclError::Type { found }),
        };
        match u32_at(HASH_TYPE)? {
            SHA256 => Ok(Self { hardware, variable_data }),
            found => Err(HclError::Hash { found }),
        }
    }

    /// What the hardware report's 64 bytes of data must be: SHA-256 of the variable data, then zeros.
    pub fn report_data(&self) -> [u8; 64] {
        let mut data = [0; 64];
        let digest = Sha256::digest(&self.variable_data);
        data.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        data
    }

    /// Reads the variable data.
    pub fn runtime_data(&self) -> Result<RuntimeData, RuntimeDataError> {
        let wire: Wire = serde_json::from_slice(&self.variable_data).map_err(RuntimeDataError::Json)?;
        let keys: Vec<&WireKey> = wire.keys.iter().filter(|key| key.kid == ATTESTATION_KEY).collect();
        let [key] = keys.as_slice() else {
            return Err(RuntimeDataError::Keys { found: keys.len() });
        };
        let number = |text: &str, field| base64::url(text).ok_or(RuntimeDataError::Encoding { field });
        if key.kty != "RSA" {
            return Err(RuntimeDataError::Key(KeyError::Kind { found: key.kty.chars().take(32).collect() }));
        }
        let (modulus, exponent) = (number(&key.n, "modulus")?, number(&key.e, "exponent")?);
        let attestation_key = PublicKey::rsa(&modulus, &exponent).map_err(RuntimeDataError::Key)?;
        let user_data =
            hex::decode(&wire.user_data).map_err(|_| RuntimeDataError::Encoding { field: "user-data" })?;
        Ok(RuntimeData { attestation_key, user_data, configuration: wire.configuration })
    }
}
