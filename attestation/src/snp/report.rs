//! The wire format of an SEV-SNP attestation report (AMD publication 56860, "ATTESTATION_REPORT", versions 2 to 5).
//!
//! ```text
//! 0x000 version u32 | 0x004 guest_svn u32 | 0x008 policy u64 | 0x010 family_id[16] | 0x020 image_id[16]
//! 0x030 vmpl u32 | 0x034 signature_algo u32 | 0x038 current_tcb u64 | 0x040 platform_info u64
//! 0x048 key_info u32: bit 0 author key, bit 1 chip key masked, bits 2..5 signing key | 0x050 report_data[64]
//! 0x090 measurement[48] | 0x0c0 host_data[32] | 0x0e0 id_key_digest[48] | 0x110 author_key_digest[48]
//! 0x140 report_id[32] | 0x160 report_id_ma[32] | 0x180 reported_tcb u64
//! 0x188 cpuid family, model, stepping (version >= 3) | 0x1a0 chip_id[64] | 0x1e0 committed_tcb u64
//! 0x1e8 current build, minor, major | 0x1ec committed build, minor, major | 0x1f0 launch_tcb u64
//! 0x1f8 launch_mitigations u64, 0x200 current_mitigations u64 (version 5)
//! 0x2a0 signature of bytes 0x000..0x2a0: R[72] S[72] little endian, then zeros to 0x4a0
//! ```

use super::flags::{PlatformInfo, Policy};
use super::tcb::{FirmwareVersion, Generation, Tcb};

/// Length of a report in bytes.
pub const REPORT_BYTES: usize = 1184;

/// How many of them the signature covers.
pub const SIGNED_BYTES: usize = 0x2a0;

const SIGNATURE_NUMBER_BYTES: usize = 72;
const P384_BYTES: usize = 48;
const ECDSA_P384_SHA384: u32 = 1;
const TCB_OFFSETS: [usize; 4] = [0x038, 0x180, 0x1e0, 0x1f0];

/// The report as it came, of the right length.
pub type ReportBytes = [u8; REPORT_BYTES];

/// A report whose layout is sound and whose signature nobody has checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnverifiedReport {
    /// Format version, 2 to 5.
    pub version: u32,
    /// Security version number that the guest's owner gave the image.
    pub guest_svn: u32,
    /// What the guest's owner allowed.
    pub policy: Policy,
    /// Family of the image, as its owner named it.
    pub family_id: [u8; 16],
    /// The image, as its owner named it.
    pub image_id: [u8; 16],
    /// Privilege level of the code that asked for the report, 0 to 3.
    pub vmpl: u32,
    /// Which key signed.
    pub signing_key: SigningKey,
    /// Whether the author key digest is meaningful.
    pub author_key_enabled: bool,
    /// Whether the platform's owner forbids signing with the chip's key.
    pub chip_key_masked: bool,
    /// What the platform says of itself.
    pub platform_info: PlatformInfo,
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
    /// Identity of the guest's migration agent; all ones when it has none.
    pub report_id_ma: [u8; 32],
    /// Identity of the chip; zero when the platform hides it.
    pub chip_id: [u8; 64],
    /// CPUID family, model and stepping, when the report says so (version 3 on).
    pub cpuid: Option<[u8; 3]>,
    /// CPU generation that follows from `cpuid`.
    pub generation: Option<Generation>,
    /// Firmware versions that the signing key is derived from.
    pub reported_tcb: Tcb,
    /// Firmware versions that run now.
    pub current_tcb: Tcb,
    /// Firmware versions below which the platform cannot go back.
    pub committed_tcb: Tcb,
    /// Firmware versions at the guest's launch.
    pub launch_tcb: Tcb,
    /// SNP firmware that runs now.
    pub current_version: FirmwareVersion,
    /// SNP firmware below which the platform cannot go back.
    pub committed_version: FirmwareVersion,
    /// Mitigations that were verified at launch, one bit each (version 5).
    pub launch_mitigations: Option<u64>,
    /// Mitigations that are verified now (version 5).
    pub current_mitigations: Option<u64>,
    /// Offset of the first reserved byte that is not zero.
    pub reserved_in_use: Option<usize>,
}

/// Which key signed a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SigningKey {
    /// The chip's own versioned endorsement key.
    Vcek,
    /// A key that AMD loaded for a cloud provider.
    Vlek,
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

/// Takes bytes for a report if they have its length.
pub(super) fn sized(bytes: &[u8]) -> Result<&ReportBytes, ReportError> {
    bytes.try_into().map_err(|_| ReportError::Length { found: bytes.len() })
}

/// The part that is signed, and the signature as R ‖ S, big endian.
pub(super) fn signed_and_signature(
    bytes: &ReportBytes,
) -> Result<(&[u8], [u8; 2 * P384_BYTES]), ReportError> {
    let r = scalar(bytes, SIGNED_BYTES, 'R')?;
    let s = scalar(bytes, SIGNED_BYTES + SIGNATURE_NUMBER_BYTES, 'S')?;
    let mut signature = [0; 2 * P384_BYTES];
    signature.iter_mut().zip(r.into_iter().chain(s)).for_each(|(to, from)| *to = from);
    let (signed, _) = bytes.split_at(SIGNED_BYTES);
    Ok((signed, signature))
}

impl UnverifiedReport {
    /// Parses the layout. The generation decides how TCB fields are read; version 2 reports do not name one and are
    /// read in the layout of Milan and Genoa.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReportError> {
        Self::parse_of(bytes, None)
    }

    /// Parses the layout; a version 2 report is read in that of `of_key`, the generation that its key's certificate names.
    pub fn parse_of(bytes: &[u8], of_key: Option<Generation>) -> Result<Self, ReportError> {
        let bytes = sized(bytes)?;
        let version = version(bytes)?;
        let cpuid: Option<[u8; 3]> = (version >= 3).then(|| array_at(bytes, 0x188));
        let generation = cpuid.map(|[family, model, _]| {
            Generation::from_cpuid(family, model).ok_or(ReportError::UnknownCpu { family, model })
        });
        let generation = generation.transpose()?;
        let key_info = u32_at(bytes, 0x048);
        let layout = if version < 3 { of_key } else { generation };
        let tcb = |offset| Tcb::parse(array_at(bytes, offset), layout);
        let mitigations = |offset| (version >= 5).then(|| u64_at(bytes, offset));
        Ok(UnverifiedReport {
            version,
            guest_svn: u32_at(bytes, 0x004),
            policy: Policy(u64_at(bytes, 0x008)),
            family_id: array_at(bytes, 0x010),
            image_id: array_at(bytes, 0x020),
            vmpl: vmpl(bytes)?,
            signing_key: signing_key(key_info)?,
            author_key_enabled: key_info & 1 != 0,
            chip_key_masked: key_info & 2 != 0,
            platform_info: PlatformInfo(u64_at(bytes, 0x040)),
            report_data: array_at(bytes, 0x050),
            measurement: array_at(bytes, 0x090),
            host_data: array_at(bytes, 0x0c0),
            id_key_digest: array_at(bytes, 0x0e0),
            author_key_digest: array_at(bytes, 0x110),
            report_id: array_at(bytes, 0x140),
            report_id_ma: array_at(bytes, 0x160),
            chip_id: array_at(bytes, 0x1a0),
            cpuid,
            generation,
            reported_tcb: tcb(0x180),
            current_tcb: tcb(0x038),
            committed_tcb: tcb(0x1e0),
            launch_tcb: tcb(0x1f0),
            current_version: firmware_version(bytes, 0x1e8),
            committed_version: firmware_version(bytes, 0x1ec),
            launch_mitigations: mitigations(0x1f8),
            current_mitigations: mitigations(0x200),
            reserved_in_use: reserved_in_use(bytes, version, layout),
        })
    }
}

fn version(bytes: &ReportBytes) -> Result<u32, ReportError> {
    let version = u32_at(bytes, 0x000);
    if !(2..=5).contains(&version) {
        return Err(ReportError::Version { found: version });
    }
    match u32_at(bytes, 0x034) {
        ECDSA_P384_SHA384 => Ok(version),
        found => Err(ReportError::SignatureAlgorithm { found }),
    }
}

fn vmpl(bytes: &ReportBytes) -> Result<u32, ReportError> {
    match u32_at(bytes, 0x030) {
        level @ 0..=3 => Ok(level),
        found => Err(ReportError::Vmpl { found }),
    }
}

fn signing_key(key_info: u32) -> Result<SigningKey, ReportError> {
    match (key_info >> 2) & 0b111 {
        0 => Ok(SigningKey::Vcek),
        1 => Ok(SigningKey::Vlek),
        found => Err(ReportError::SigningKey { found }),
    }
}

fn firmware_version(bytes: &ReportBytes, offset: usize) -> FirmwareVersion {
    let [build, minor, major] = array_at(bytes, offset);
    FirmwareVersion { major, minor, build }
}

/// The first byte that this version's layout gives no meaning and that is not zero.
fn reserved_in_use(bytes: &ReportBytes, version: u32, generation: Option<Generation>) -> Option<usize> {
    let in_tcbs = TCB_OFFSETS.into_iter().flat_map(|start| {
        let inside = Tcb::reserved(generation);
        start + inside.start..start + inside.end
    });
    let cpuid = if version < 3 { 0x188..0x18b } else { 0..0 };
    let mitigations = if version < 5 { 0x1f8..0x208 } else { 0..0 };
    let fixed = [0x04c..0x050, cpuid, 0x18b..0x1a0, 0x1eb..0x1ec, 0x1ef..0x1f0, mitigations];
    let behind = [0x208..SIGNED_BYTES, SIGNED_BYTES + 2 * SIGNATURE_NUMBER_BYTES..REPORT_BYTES];
    let key_info = (u32_at(bytes, 0x048) >> 5 != 0).then_some(0x048);
    let mut offsets = in_tcbs.chain(fixed.into_iter().flatten()).chain(behind.into_iter().flatten());
    key_info.or_else(|| offsets.find(|offset| bytes.get(*offset).is_none_or(|byte| *byte != 0)))
}

fn scalar(bytes: &ReportBytes, offset: usize, part: char) -> Result<[u8; P384_BYTES], ReportError> {
    let above: [u8; SIGNATURE_NUMBER_BYTES - P384_BYTES] = array_at(bytes, offset + P384_BYTES);
    if above.iter().any(|byte| *byte != 0) {
        return Err(ReportError::SignatureRange { part });
    }
    let mut scalar: [u8; P384_BYTES] = array_at(bytes, offset);
    scalar.reverse();
    Ok(scalar)
}

fn u32_at(bytes: &ReportBytes, offset: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, offset))
}

fn u64_at(bytes: &ReportBytes, offset: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, offset))
}

/// Copies `N` bytes at a constant offset of the layout.
fn array_at<const N: usize>(bytes: &ReportBytes, offset: usize) -> [u8; N] {
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
    fn a_version_2_report_is_read_in_the_layout_of_its_keys_chip() {
        let mut bytes = report(2, 0, 0);
        bytes[0x180..0x188].copy_from_slice(&[3, 1, 0, 2, 0, 0, 0, 71]);
        let report = UnverifiedReport::parse_of(&bytes, Some(Generation::Turin)).expect("a report");
        let expected = Tcb { fmc: Some(3), boot_loader: 1, tee: 0, snp: 2, microcode: 71 };
        assert_eq!((report.reported_tcb, report.reserved_in_use), (expected, None));
        let read_as_milans = UnverifiedReport::parse(&bytes).map(|report| report.reserved_in_use);
        assert_eq!(read_as_milans, Ok(Some(0x183)));
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
        let bytes = sized(&bytes).expect("a report's length");
        assert_eq!(signed_and_signature(bytes), Err(ReportError::SignatureRange { part: 'R' }));
    }

    #[test]
    fn a_reserved_byte_in_use_is_named_by_its_offset() {
        let mut bytes = report(3, 25, 1);
        bytes[0x1f8] = 1;
        let found = UnverifiedReport::parse(&bytes).map(|report| report.reserved_in_use);
        assert_eq!(found, Ok(Some(0x1f8)));
    }

    #[test]
    fn mitigations_are_no_reserved_bytes_of_version_5() {
        let mut bytes = report(5, 26, 2);
        bytes[0x1f8] = 1;
        let report = UnverifiedReport::parse(&bytes).expect("a report");
        assert_eq!((report.reserved_in_use, report.launch_mitigations), (None, Some(1)));
    }

    #[test]
    fn a_byte_behind_the_signature_is_reserved() {
        let mut bytes = report(3, 25, 1);
        bytes[REPORT_BYTES - 1] = 1;
        let found = UnverifiedReport::parse(&bytes).map(|report| report.reserved_in_use);
        assert_eq!(found, Ok(Some(REPORT_BYTES - 1)));
    }
}
