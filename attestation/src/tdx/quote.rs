//! The wire format of a TDX quote, versions 4 and 5 (Intel TDX DCAP Quoting Library API, appendix 3).
//!
//! ```text
//! header 48: version u16 | key type u16 | TEE type u32 | reserved u32 | QE vendor[16] | user data[20]
//! version 5: body type u16 | body size u32
//! TD report: 584 bytes (TDX 1.0) or 648 bytes (TDX 1.5)
//! size u32 of what follows: signature[64] | attestation key[64] | certification data
//! certification data: type 6 u16 | size u32 | QE report[384] | its signature[64] | size u16 | authentication data
//!                     | type 5 u16 | size u32 | PCK certificate chain, PEM
//! zeros up to the end of the buffer that the quote was delivered in
//! ```
//! Numbers are little endian. Signatures and keys are two 32-byte big-endian numbers.

use super::body::{TDX_1_0_BYTES, TDX_1_5_BYTES, TdReport};
use super::enclave::{ENCLAVE_REPORT_BYTES, EnclaveReport};
use crate::cursor::{Cursor, Short};

/// Longest quote that is looked at, in bytes; real ones, with their padding, have 5000 to 8000.
pub const MAX_QUOTE_BYTES: usize = 64 * 1024;

const HEADER_BYTES: usize = 48;
const BODY_HEADER_BYTES: usize = 6;
const ECDSA_P256: u16 = 2;
const TEE_TDX: u32 = 0x81;
const INTEL_QE_VENDOR: [u8; 16] =
    [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07];
const BODY_TDX_1_0: u16 = 2;
const BODY_TDX_1_5: u16 = 3;
const QE_REPORT_CERTIFICATION: u16 = 6;
const PCK_CERTIFICATE_CHAIN: u16 = 5;

/// A quote whose layout is sound and whose signatures nobody has checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnverifiedQuote {
    /// Format version, 4 or 5.
    pub version: u16,
    /// 20 bytes of the quoting enclave; the first 16 tell platforms apart.
    pub user_data: [u8; 20],
    /// What the TDX module reports.
    pub report: TdReport,
    /// Header and TD report, which the attestation key signs.
    pub signed: Vec<u8>,
    /// ECDSA P-256 signature over `signed`: R, S.
    pub signature: [u8; 64],
    /// ECDSA P-256 public key: X, Y.
    pub attestation_key: [u8; 64],
    /// What SGX reports about the quoting enclave.
    pub enclave: EnclaveReport,
    /// The bytes of `enclave`, which the PCK signs.
    pub enclave_signed: [u8; ENCLAVE_REPORT_BYTES],
    /// ECDSA P-256 signature by the PCK over `enclave_signed`: R, S.
    pub enclave_signature: [u8; 64],
    /// What the quoting enclave hashes with the attestation key into its report.
    pub authentication_data: Vec<u8>,
    /// PCK certificate chain in PEM, leaf first.
    pub certificates: Vec<u8>,
    /// Zero bytes after the quote.
    pub padding: usize,
}

/// Why bytes are not a TDX quote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// Longer than any quote.
    #[error("a TDX quote has at most {MAX_QUOTE_BYTES} bytes, these are {found}")]
    Long {
        /// Length found.
        found: usize,
    },
    /// The bytes end early, or a length inside is wrong.
    #[error(transparent)]
    Short(#[from] Short),
    /// Unknown layout.
    #[error("TDX quote version {found} is unknown: versions 4 and 5 are understood")]
    Version {
        /// Version found.
        found: u16,
    },
    /// Unknown kind of attestation key.
    #[error("TDX quote names key type {found}, only 2 (ECDSA P-256) can be verified")]
    KeyType {
        /// Type found.
        found: u16,
    },
    /// A quote of another TEE.
    #[error("the quote is of TEE type {found:#x}, TDX is 0x81")]
    TeeType {
        /// Type found.
        found: u32,
    },
    /// A quoting enclave that is not Intel's.
    #[error(
        "the quoting enclave is of vendor {}, Intel is {}",
        hex::encode(found),
        hex::encode(INTEL_QE_VENDOR)
    )]
    Vendor {
        /// Vendor found.
        found: [u8; 16],
    },
    /// Unknown kind of body.
    #[error(
        "TDX quote body of type {kind} with {size} bytes: types 2 (584 bytes) and 3 (648 bytes) are understood"
    )]
    Body {
        /// Type found.
        kind: u16,
        /// Size found in bytes.
        size: u32,
    },
    /// Certification data that is not what follows from the quote's version.
    #[error("TDX quote has certification data of type {found}, {expected} is understood here")]
    Certification {
        /// Type found.
        found: u16,
        /// Type expected.
        expected: u16,
    },
    /// Bytes inside a length that nothing inside explains.
    #[error("{left} bytes follow after the last field of the TDX quote's {within}")]
    Unexplained {
        /// The part that is longer than its fields.
        within: &'static str,
        /// Bytes left over.
        left: usize,
    },
    /// Bytes after the quote that are not padding.
    #[error("{found} bytes follow after the TDX quote and not all are zero")]
    Trailing {
        /// Bytes after the quote.
        found: usize,
    },
}

impl UnverifiedQuote {
    /// Parses a quote. Every length inside must be exact; only zeros may follow it.
    ///
    /// # Errors
    /// [`QuoteError`], with the first thing that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, QuoteError> {
        if bytes.len() > MAX_QUOTE_BYTES {
            return Err(QuoteError::Long { found: bytes.len() });
        }
        let mut cursor = Cursor::new(bytes);
        let header = Header::read(&mut cursor)?;
        let report =
            if header.version == 4 { TdReport::read(&mut cursor)? } else { read_typed_body(&mut cursor)? };
        let signed = bytes.get(..cursor.at()).unwrap_or_default().to_vec();
        let attested = Attested::read(cursor.u32_prefixed("signature data")?)?;
        let padding = cursor.rest();
        if padding.iter().any(|byte| *byte != 0) {
            return Err(QuoteError::Trailing { found: padding.len() });
        }
        Ok(Self {
            version: header.version,
            user_data: header.user_data,
            report,
            signed,
            signature: attested.signature,
            attestation_key: attested.key,
            enclave: EnclaveReport::read(&attested.certified.report)?,
            enclave_signed: attested.certified.report,
            enclave_signature: attested.certified.signature,
            authentication_data: attested.certified.authentication_data,
            certificates: attested.certified.certificates,
            padding: padding.len(),
        })
    }
}

struct Header {
    version: u16,
    user_data: [u8; 20],
}

impl Header {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, QuoteError> {
        let version = cursor.u16_le("version")?;
        if version != 4 && version != 5 {
            return Err(QuoteError::Version { found: version });
        }
        let key_type = cursor.u16_le("key type")?;
        if key_type != ECDSA_P256 {
            return Err(QuoteError::KeyType { found: key_type });
        }
        let tee = cursor.u32_le("TEE type")?;
        if tee != TEE_TDX {
            return Err(QuoteError::TeeType { found: tee });
        }
        cursor.bytes("reserved", 4)?;
        let vendor = cursor.array("QE vendor")?;
        if vendor != INTEL_QE_VENDOR {
            return Err(QuoteError::Vendor { found: vendor });
        }
        let user_data = cursor.array("user data")?;
        debug_assert_eq!(cursor.at(), HEADER_BYTES);
        Ok(Self { version, user_data })
    }
}

fn read_typed_body(cursor: &mut Cursor<'_>) -> Result<TdReport, QuoteError> {
    let kind = cursor.u16_le("body type")?;
    let size = cursor.u32_le("body size")?;
    debug_assert_eq!(cursor.at(), HEADER_BYTES + BODY_HEADER_BYTES);
    match (kind, usize::try_from(size)) {
        (BODY_TDX_1_0, Ok(TDX_1_0_BYTES)) => Ok(TdReport::read(cursor)?),
        (BODY_TDX_1_5, Ok(TDX_1_5_BYTES)) => Ok(TdReport::read_1_5(cursor)?),
        _ => Err(QuoteError::Body { kind, size }),
    }
}

/// What follows the TD report.
struct Attested {
    signature: [u8; 64],
    key: [u8; 64],
    certified: Certified,
}

impl Attested {
    fn read(bytes: &[u8]) -> Result<Self, QuoteError> {
        let mut cursor = Cursor::new(bytes);
        let signature = cursor.array("signature")?;
        let key = cursor.array("attestation key")?;
        let certification = read_certification(&mut cursor, QE_REPORT_CERTIFICATION)?;
        explained("signature data", &cursor)?;
        Ok(Self { signature, key, certified: Certified::read(certification)? })
    }
}

/// Certification data of type 6.
struct Certified {
    report: [u8; ENCLAVE_REPORT_BYTES],
    signature: [u8; 64],
    authentication_data: Vec<u8>,
    certificates: Vec<u8>,
}

impl Certified {
    fn read(bytes: &[u8]) -> Result<Self, QuoteError> {
        let mut cursor = Cursor::new(bytes);
        let report = cursor.array("QE report")?;
        let signature = cursor.array("QE report signature")?;
        let length = cursor.u16_le("authentication data size")?;
        let authentication_data = cursor.bytes("authentication data", length.into())?.to_vec();
        let certificates = read_certification(&mut cursor, PCK_CERTIFICATE_CHAIN)?.to_vec();
        explained("certification data", &cursor)?;
        Ok(Self { report, signature, authentication_data, certificates })
    }
}

fn read_certification<'a>(cursor: &mut Cursor<'a>, expected: u16) -> Result<&'a [u8], QuoteError> {
    let found = cursor.u16_le("certification type")?;
    if found != expected {
        return Err(QuoteError::Certification { found, expected });
    }
    Ok(cursor.u32_prefixed("certification data")?)
}

fn explained(within: &'static str, cursor: &Cursor<'_>) -> Result<(), QuoteError> {
    let left = cursor.rest().len();
    if left == 0 { Ok(()) } else { Err(QuoteError::Unexplained { within, left }) }
}
