//! The wire format of an SEV-SNP attestation report (AMD publication 56860, "ATTESTATION_REPORT", versions 2 to 5).
//!
//! ```text
//! 0x000 version u32 | 0x004 guest_svn u32 | 0x008 policy u64 | 0x010 family_id[16] | 0x020 image_id[16]
//! 0x030 vmpl u32 | 0x034 signature_algo u32 | 0x038 current_tcb u64 | 0x040 platform_info u64 | 0x048 key_info u32
//! 0x050 report_data[64] | 0x090 measurement[48] | 0x0c0 host_data[32] | 0x0e0 id_key_digest[48]
//! 0x110 author_key_digest[48] | 0x140 report_id[32] | 0x160 report_id_ma[32] | 0x180 reported_tcb u64
//! 0x188 cpuid family, model, stepping (version >= 3) | 0x1a0 chip_id[64] | 0x1e0 committed_tcb u64
//! 0x1f0 launch_tcb u64 | 0x2a0 signature: R[72] S[72], little endian, of bytes 0x000..0x2a0
//! ```

/// Length of a report in bytes.
pub const REPORT_BYTES: usize = 1184;

const SIGNED_BYTES: usize = 0x2a0;
const SIGNATURE_NUMBER_BYTES: usize = 72;
const P384_BYTES: usize = 48;
const ECDSA_P384_SHA384: u32 = 1;

/// A report whose layout is sound and whose signature nobody has checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnverifiedReport {
    /// Format version, 2 to 5.
    pub version: u32,
    /// Security version number that the guest's owner gave the image.
    pub guest_svn: u32,
    /// What the guest's owner allowed.
    pub policy: Policy,
    /// Privilege level of the code that asked for the report, 0 to 3.
    pub vmpl: u32,
    /// Which key signed.
    pub signing_key: SigningKey,
    /// Whether the author key digest is meaningful.
    pub author_key_enabled: bool,
    /// Platform flags, as the firmware gives them (bit 0: SMT, bit 1: TSME, and so on).
    pub platform_info: u64,
    /// 64 bytes that the guest chose.
    pub report_data: [u8; 64],
    /// Launch digest.
    pub measurement: [u8; 48],
    /// 32 bytes that the host gave at launch.
    pub host_data: [u8; 32],
    /// SHA-384 of the key that signed the id block, or zero.
    pub id_key_digest: [u8; 48],
    /// SHA-384 of the key that signed the id key, or zero.
    pub author_key_digest: [u8; 48],
    /// Identity of this guest instance.
    pub report_id: [u8; 32],
    /// Identity of the chip; zero when the platform hides it.
    pub chip_id: [u8; 64],
    /// CPU generation, when the report says so (version 3 on).
    pub generation: Option<Generation>,
    /// Firmware versions that the signing key is derived from.
    pub reported_tcb: Tcb,
    /// Firmware versions that run now.
    pub current_tcb: Tcb,
    /// Firmware versions below which the platform cannot go back.
    pub committed_tcb: Tcb,
    /// Firmware versions at the guest's launch.
    pub launch_tcb: Tcb,
    /// The bytes that the signature covers.
    pub signed: Vec<u8>,
    /// ECDSA P-384 R, big endian.
    pub signature_r: [u8; 48],
    /// ECDSA P-384 S, big endian.
    pub signature_s: [u8; 48],
}

/// Guest policy bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy(pub u64);

impl Policy {
    /// Whether the host may decrypt the guest's memory.
    pub fn debug_allowed(self) -> bool {
        self.0 & (1 << 19) != 0
    }

    /// Whether the guest may be moved with a migration agent.
    pub fn migration_agent_allowed(self) -> bool {
        self.0 & (1 << 18) != 0
    }

    /// Whether the guest may run where SMT is on.
    pub fn smt_allowed(self) -> bool {
        self.0 & (1 << 16) != 0
    }
}

/// Which key signed a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SigningKey {
    /// The chip's own versioned endorsement key.
    Vcek,
    /// A key that AMD loaded for a cloud provider.
    Vlek,
}

/// CPU generations; the layout of a TCB depends on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// Family 0x19, models 0x00 to 0x0f.
    Milan,
    /// Family 0x19, models 0x10 to 0x1f and 0xa0 to 0xaf (Bergamo and Siena share Genoa's roots).
    Genoa,
    /// Family 0x1a, models 0x00 to 0x1f.
    Turin,
}

/// Firmware versions, by component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// Why bytes are not a report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Neither padded nor truncated to fit.
    #[error("an SNP report has {REPORT_BYTES} bytes, these are {found}")]
    Length {
        /// Length found.
        found: usize,
    },
    /// Unknown layout.
    #[error("SNP report version {found} is unknown: versions 2 to 5 are understood")]
    Version {
        /// Version found.
        found: u32,
    },
    /// Unknown signature algorithm.
    #[error("SNP report names signature algorithm {found}, only 1 (ECDSA P-384 with SHA-384) is defined")]
    SignatureAlgorithm {
        /// Algorithm found.
        found: u32,
    },
    /// Unknown signing key.
    #[error("SNP report names signing key {found}: 0 (VCEK) and 1 (VLEK) can be verified")]
    SigningKey {
        /// Value found; 7 means that the firmware did not sign.
        found: u32,
    },
    /// A privilege level that does not exist.
    #[error("SNP report names VMPL {found}, the highest is 3")]
    Vmpl {
        /// Level found.
        found: u32,
    },
    /// A CPU that this code does not know.
    #[error("SNP report names CPU family {family:#x} model {model:#x}, which has no known root of trust")]
    UnknownCpu {
        /// CPUID family.
        family: u8,
        /// CPUID model.
        model: u8,
    },
    /// A number in the signature that cannot be a P-384 scalar.
    #[error("signature part {part} has bits above 384")]
    SignatureRange {
        /// `R` or `S`.
        part: char,
    },
}

impl UnverifiedReport {
    /// Parses the layout. The generation decides how TCB fields are read; version 2 reports do not name one and are
    /// read in the layout of Milan and Genoa, which were all that existed then.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReportError> {
        let bytes: &[u8; REPORT_BYTES] =
            bytes.try_into().map_err(|_| ReportError::Length { found: bytes.len() })?;
        let version = u32_at(bytes, 0x000);
        if !(2..=5).contains(&version) {
            return Err(ReportError::Version { found: version });
        }
        let algorithm = u32_at(bytes, 0x034);
        if algorithm != ECDSA_P384_SHA384 {
            return Err(ReportError::SignatureAlgorithm { found: algorithm });
        }
        let vmpl = u32_at(bytes, 0x030);
        if vmpl > 3 {
            return Err(ReportError::Vmpl { found: vmpl });
        }
        let generation = if version >= 3 { Some(generation(bytes[0x188], bytes[0x189])?) } else { None };
        let key_info = u32_at(bytes, 0x048);
        let tcb = |offset| Tcb::parse(array_at(bytes, offset), generation);
        Ok(UnverifiedReport {
            version,
            guest_svn: u32_at(bytes, 0x004),
            policy: Policy(u64_at(bytes, 0x008)),
            vmpl,
            signing_key: signing_key(key_info)?,
            author_key_enabled: key_info & 1 != 0,
            platform_info: u64_at(bytes, 0x040),
            report_data: array_at(bytes, 0x050),
            measurement: array_at(bytes, 0x090),
            host_data: array_at(bytes, 0x0c0),
            id_key_digest: array_at(bytes, 0x0e0),
            author_key_digest: array_at(bytes, 0x110),
            report_id: array_at(bytes, 0x140),
            chip_id: array_at(bytes, 0x1a0),
            generation,
            reported_tcb: tcb(0x180),
            current_tcb: tcb(0x038),
            committed_tcb: tcb(0x1e0),
            launch_tcb: tcb(0x1f0),
            signed: bytes[..SIGNED_BYTES].to_vec(),
            signature_r: scalar(bytes, SIGNED_BYTES, 'R')?,
            signature_s: scalar(bytes, SIGNED_BYTES + SIGNATURE_NUMBER_BYTES, 'S')?,
        })
    }
}

impl Tcb {
    /// Reads the eight bytes of a TCB_VERSION. Turin moved every component (publication 56860, table 3).
    fn parse(raw: [u8; 8], generation: Option<Generation>) -> Self {
        match generation {
            Some(Generation::Turin) => {
                Tcb { fmc: Some(raw[0]), boot_loader: raw[1], tee: raw[2], snp: raw[3], microcode: raw[7] }
            }
            Some(Generation::Milan | Generation::Genoa) | None => {
                Tcb { fmc: None, boot_loader: raw[0], tee: raw[1], snp: raw[6], microcode: raw[7] }
            }
        }
    }
}

fn generation(family: u8, model: u8) -> Result<Generation, ReportError> {
    match (family, model) {
        (0x19, 0x00..=0x0f) => Ok(Generation::Milan),
        (0x19, 0x10..=0x1f | 0xa0..=0xaf) => Ok(Generation::Genoa),
        (0x1a, 0x00..=0x1f) => Ok(Generation::Turin),
        _ => Err(ReportError::UnknownCpu { family, model }),
    }
}

fn signing_key(key_info: u32) -> Result<SigningKey, ReportError> {
    match (key_info >> 2) & 0b111 {
        0 => Ok(SigningKey::Vcek),
        1 => Ok(SigningKey::Vlek),
        found => Err(ReportError::SigningKey { found }),
    }
}

fn scalar(bytes: &[u8; REPORT_BYTES], offset: usize, part: char) -> Result<[u8; P384_BYTES], ReportError> {
    let field: [u8; SIGNATURE_NUMBER_BYTES] = array_at(bytes, offset);
    if field[P384_BYTES..].iter().any(|byte| *byte != 0) {
        return Err(ReportError::SignatureRange { part });
    }
    let mut scalar: [u8; P384_BYTES] = array_at(bytes, offset);
    scalar.reverse();
    Ok(scalar)
}

fn u32_at(bytes: &[u8; REPORT_BYTES], offset: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, offset))
}

fn u64_at(bytes: &[u8; REPORT_BYTES], offset: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, offset))
}

/// Copies `N` bytes at a constant offset of the layout.
fn array_at<const N: usize>(bytes: &[u8; REPORT_BYTES], offset: usize) -> [u8; N] {
    // The offset is one of the constants above, so the range always lies inside the report: a broken invariant of
    // ours, not of the input, would panic here.
    std::array::from_fn(|index| bytes[offset + index])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(version: u32, family: u8, model: u8) -> Vec<u8> {
        let mut bytes = vec![0; REPORT_BYTES];
        bytes[0..4].copy_from_slice(&version.to_le_bytes());
        bytes[0x34] = 1;
        bytes[0x188] = family;
        bytes[0x189] = model;
        bytes
    }

    #[test]
    fn a_turin_report_is_read_in_turins_tcb_layout() {
        let mut bytes = report(5, 26, 2);
        bytes[0x180..0x188].copy_from_slice(&[0, 1, 0, 2, 0, 0, 0, 71]);
        let tcb = UnverifiedReport::parse(&bytes).map(|report| report.reported_tcb);
        assert_eq!(tcb, Ok(Tcb { fmc: Some(0), boot_loader: 1, tee: 0, snp: 2, microcode: 71 }));
    }

    #[test]
    fn a_milan_report_is_read_in_milans_tcb_layout() {
        let mut bytes = report(3, 25, 1);
        bytes[0x180..0x188].copy_from_slice(&[4, 0, 0, 0, 0, 0, 24, 219]);
        let tcb = UnverifiedReport::parse(&bytes).map(|report| report.reported_tcb);
        assert_eq!(tcb, Ok(Tcb { fmc: None, boot_loader: 4, tee: 0, snp: 24, microcode: 219 }));
    }

    #[test]
    fn a_version_2_report_names_no_generation() {
        let generation = UnverifiedReport::parse(&report(2, 0, 0)).map(|report| report.generation);
        assert_eq!(generation, Ok(None));
    }

    #[test]
    fn siena_shares_genoas_roots() {
        let generation = UnverifiedReport::parse(&report(3, 25, 160)).map(|report| report.generation);
        assert_eq!(generation, Ok(Some(Generation::Genoa)));
    }

    #[test]
    fn a_report_one_byte_short_is_refused() {
        assert_eq!(UnverifiedReport::parse(&report(3, 25, 1)[1..]), Err(ReportError::Length { found: 1183 }));
    }

    #[test]
    fn a_report_one_byte_long_is_refused() {
        assert_eq!(UnverifiedReport::parse(&[0; 1185]), Err(ReportError::Length { found: 1185 }));
    }

    #[test]
    fn an_unknown_version_is_refused() {
        assert_eq!(UnverifiedReport::parse(&report(6, 25, 1)), Err(ReportError::Version { found: 6 }));
    }

    #[test]
    fn an_unknown_cpu_is_refused() {
        let expected = ReportError::UnknownCpu { family: 0x17, model: 1 };
        assert_eq!(UnverifiedReport::parse(&report(3, 0x17, 1)), Err(expected));
    }

    #[test]
    fn an_unsigned_report_is_refused() {
        let mut bytes = report(3, 25, 1);
        bytes[0x48] = 7 << 2;
        assert_eq!(UnverifiedReport::parse(&bytes), Err(ReportError::SigningKey { found: 7 }));
    }

    #[test]
    fn a_signature_number_above_384_bits_is_refused() {
        let mut bytes = report(3, 25, 1);
        bytes[0x2a0 + 48] = 1;
        assert_eq!(UnverifiedReport::parse(&bytes), Err(ReportError::SignatureRange { part: 'R' }));
    }

    #[test]
    fn debug_is_bit_19_of_the_policy() {
        assert!(Policy(1 << 19).debug_allowed());
        assert!(!Policy(0x3001f).debug_allowed());
    }
}
