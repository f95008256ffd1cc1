//! Evidence as Confidential Containers' guest components send it: JSON with the report's fields as numbers and byte arrays.
//!
//! ```json
//! {"attestation_report": {"version": 3, "report_data": [..64 numbers], "current_tcb": {"fmc": null, "bootloader": 10, ..}, ..},
//!  "cert_chain": [{"cert_type": "VCEK", "data": [..]}, ..] | null}
//! ```
//! The signature covers bytes, so the report is put together again exactly as the firmware wrote it. Reserved bytes do not
//! travel in this form; they are zero, and the signature says whether that was so.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::appraise::Evidence;
use super::report::{REPORT_BYTES, ReportBytes, ReportError, SIGNED_BYTES, UnverifiedReport};
use super::tcb::Tcb;
use crate::x509::{Certificate, CertificateError, RevocationError, RevocationList};

/// The longest evidence that is read, in bytes of JSON.
pub const MAX_JSON_BYTES: usize = 256 << 10;

/// Why JSON is no evidence of this form.
#[derive(Debug, thiserror::Error)]
pub enum CocoError {
    /// Longer than anything real.
    #[error("evidence may have {MAX_JSON_BYTES} bytes of JSON, this has {found}")]
    TooLong {
        /// Length found.
        found: usize,
    },
    /// Not JSON, or not of this form.
    #[error("this is no SNP evidence in JSON")]
    Json(#[source] serde_json::Error),
    /// An array of the wrong length.
    #[error("{field} has {found} bytes, it must have {expected}")]
    Length {
        /// The field.
        field: &'static str,
        /// Length that the report has room for.
        expected: usize,
        /// Length found.
        found: usize,
    },
    /// No key to verify with.
    #[error("the evidence has no VCEK and no VLEK: give one with it")]
    NoKey,
    /// Two keys: which one signed would be a guess.
    #[error("the evidence has more than one certificate of type {kind}")]
    Twice {
        /// The type.
        kind: &'static str,
    },
    /// A key in the evidence and another one beside it: which one signed would be a guess.
    #[error("the evidence carries the certificate of its key: leave the other VCEK or VLEK out")]
    TwoKeys,
    /// A revocation list that cannot be read.
    #[error("the revocation list of the evidence cannot be read")]
    Crl(#[source] RevocationError),
    /// A certificate of a type that has no place here.
    #[error(
        "the evidence has a certificate of type {found:?}: VCEK, VLEK, ASK, ARK, CRL, Empty and OTHER are understood"
    )]
    Kind {
        /// The type found, cut to 32 characters.
        found: String,
    },
    /// A certificate that cannot be read.
    #[error("the certificate of type {kind} cannot be read")]
    Certificate {
        /// Its type.
        kind: &'static str,
        /// Why.
        source: CertificateError,
    },
    /// A certificate whose label says otherwise than its subject.
    #[error("the certificate of type {kind} is that of {subject}")]
    Mislabelled {
        /// Its type.
        kind: &'static str,
        /// Its subject.
        subject: String,
    },
}

#[derive(Deserialize)]
struct Wire {
    attestation_report: WireReport,
    cert_chain: Option<Vec<WireCertificate>>,
}

#[derive(Deserialize)]
struct WireCertificate {
    cert_type: WireKind,
    data: Vec<u8>,
}

/// A name, or `{"OTHER": uuid}` for what the host put there for somebody else.
#[derive(Deserialize)]
#[serde(untagged)]
enum WireKind {
    Named(String),
    Other {
        #[serde(rename = "OTHER")]
        _guid: String,
    },
}

/// An entry of the host's table that was read.
enum Entry {
    Certificate(&'static str, Box<Certificate>),
    Revocation(Box<RevocationList>),
    /// Nothing, or nothing for us.
    Skipped,
}

#[derive(Deserialize, Serialize)]
struct WireReport {
    version: u32,
    guest_svn: u32,
    policy: u64,
    family_id: Vec<u8>,
    image_id: Vec<u8>,
    vmpl: u32,
    sig_algo: u32,
    current_tcb: WireTcb,
    plat_info: u64,
    key_info: u32,
    report_data: Vec<u8>,
    measurement: Vec<u8>,
    host_data: Vec<u8>,
    id_key_digest: Vec<u8>,
    author_key_digest: Vec<u8>,
    report_id: Vec<u8>,
    report_id_ma: Vec<u8>,
    reported_tcb: WireTcb,
    cpuid_fam_id: Option<u8>,
    cpuid_mod_id: Option<u8>,
    cpuid_step: Option<u8>,
    chip_id: Vec<u8>,
    committed_tcb: WireTcb,
    current: WireVersion,
    committed: WireVersion,
    launch_tcb: WireTcb,
    #[serde(default)]
    launch_mit_vector: Option<u64>,
    #[serde(default)]
    current_mit_vector: Option<u64>,
    signature: WireSignature,
}

#[derive(Deserialize, Serialize)]
struct WireTcb {
    #[serde(default)]
    fmc: Option<u8>,
    bootloader: u8,
    tee: u8,
    snp: u8,
    microcode: u8,
}

#[derive(Deserialize, Serialize)]
struct WireVersion {
    major: u8,
    minor: u8,
    build: u8,
}

#[derive(Deserialize, Serialize)]
struct WireSignature {
    r: Vec<u8>,
    s: Vec<u8>,
}

/// Reads evidence. `vek` stands in for a certificate that the evidence does not carry; beside one that it carries it is
/// refused. A revocation list that it carries is among the evidence's lists.
pub fn parse(json: &[u8], vek: Option<Certificate>) -> Result<Evidence, CocoError> {
    if json.len() > MAX_JSON_BYTES {
        return Err(CocoError::TooLong { found: json.len() });
    }
    let wire: Wire = serde_json::from_slice(json).map_err(CocoError::Json)?;
    let report = wire.attestation_report.to_bytes()?;
    let mut carried = None;
    let mut revocation = Vec::new();
    let mut authorities: Vec<(&'static str, Certificate)> = Vec::new();
    for certificate in wire.cert_chain.unwrap_or_default() {
        match certificate.read()? {
            Entry::Skipped => {}
            Entry::Revocation(_) if !revocation.is_empty() => return Err(CocoError::Twice { kind: "CRL" }),
            Entry::Revocation(list) => revocation.push(*list),
            Entry::Certificate(kind @ ("VCEK" | "VLEK"), _) if carried.is_some() => {
                return Err(CocoError::Twice { kind });
            }
            Entry::Certificate("VCEK" | "VLEK", certificate) => carried = Some(*certificate),
            Entry::Certificate(kind, _) if authorities.iter().any(|(known, _)| *known == kind) => {
                return Err(CocoError::Twice { kind });
            }
            Entry::Certificate(kind, certificate) => authorities.push((kind, *certificate)),
        }
    }
    let vek = match (carried, vek) {
        (Some(_), Some(_)) => return Err(CocoError::TwoKeys),
        (carried, vek) => carried.or(vek).ok_or(CocoError::NoKey)?,
    };
    let authorities = authorities.into_iter().map(|(_, certificate)| certificate).collect();
    Ok(Evidence { report, vek, authorities, revocation })
}

/// Reads the report alone, so that whoever keeps certificates can look for the one that evidence does not carry.
///
/// # Errors
/// [`CocoError`]
pub fn parse_report(json: &[u8]) -> Result<Vec<u8>, CocoError> {
    if json.len() > MAX_JSON_BYTES {
        return Err(CocoError::TooLong { found: json.len() });
    }
    let wire: Wire = serde_json::from_slice(json).map_err(CocoError::Json)?;
    wire.attestation_report.to_bytes()
}

/// Writes evidence: a report, and certificates in DER by their names, such as a host's table has them.
///
/// # Errors
/// Bytes that are no report.
pub fn write(report: &ReportBytes, certificates: &[(&str, &[u8])]) -> Result<Value, ReportError> {
    let report = WireReport::from_report(report, &UnverifiedReport::parse(report)?);
    let chain: Vec<Value> =
        certificates.iter().map(|(kind, data)| json!({ "cert_type": kind, "data": data })).collect();
    let chain = if chain.is_empty() { Value::Null } else { Value::Array(chain) };
    Ok(json!({ "attestation_report": report, "cert_chain": chain }))
}

impl WireCertificate {
    /// Reads the certificate and holds its label against its subject's common name.
    fn read(self) -> Result<Entry, CocoError> {
        let name = match &self.cert_type {
            WireKind::Named(name) => name.as_str(),
            WireKind::Other { .. } => return Ok(Entry::Skipped),
        };
        let (kind, begins) = match name {
            "VCEK" => ("VCEK", "SEV-VCEK"),
            "VLEK" => ("VLEK", "SEV-VLEK"),
            "ASK" => ("ASK", "SEV-"),
            "ARK" => ("ARK", "ARK-"),
            "Empty" => return Ok(Entry::Skipped),
            "CRL" => {
                let list = RevocationList::from_file(&self.data).map_err(CocoError::Crl)?;
                return Ok(Entry::Revocation(Box::new(list)));
            }
            other => return Err(CocoError::Kind { found: other.chars().take(32).collect() }),
        };
        let certificate = Certificate::from_file(&self.data)
            .and_then(|mut all| match (all.pop(), all.len()) {
                (Some(one), 0) => Ok(one),
                (_, others) => Err(CertificateError::Count { found: others + 1 }),
            })
            .map_err(|source| CocoError::Certificate { kind, source })?;
        if !certificate.common_name().is_some_and(|name| name.starts_with(begins)) {
            return Err(CocoError::Mislabelled { kind, subject: certificate.subject() });
        }
        Ok(Entry::Certificate(kind, Box::new(certificate)))
    }
}

impl WireReport {
    /// The fields of a report that was parsed, and those of its bytes that parsing gave another form.
    fn from_report(bytes: &ReportBytes, parsed: &UnverifiedReport) -> Self {
        let slice = |offset: usize, length: usize| {
            bytes.iter().skip(offset).take(length).copied().collect::<Vec<u8>>()
        };
        let number = |offset: usize, length: usize| {
            slice(offset, length).iter().rev().fold(0_u64, |value, byte| (value << 8) | u64::from(*byte))
        };
        let short = |offset: usize| u32::try_from(number(offset, 4)).unwrap_or(u32::MAX);
        let [family, model, step] = parsed.cpuid.map_or([None; 3], |all| all.map(Some));
        let version = |of: super::tcb::FirmwareVersion| WireVersion {
            major: of.major,
            minor: of.minor,
            build: of.build,
        };
        Self {
            version: parsed.version,
            guest_svn: parsed.guest_svn,
            policy: parsed.policy.0,
            family_id: parsed.family_id.to_vec(),
            image_id: parsed.image_id.to_vec(),
            vmpl: parsed.vmpl,
            sig_algo: short(0x034),
            current_tcb: WireTcb::of(parsed.current_tcb),
            plat_info: parsed.platform_info.0,
            key_info: short(0x048),
            report_data: parsed.report_data.to_vec(),
            measurement: parsed.measurement.to_vec(),
            host_data: parsed.host_data.to_vec(),
            id_key_digest: parsed.id_key_digest.to_vec(),
            author_key_digest: parsed.author_key_digest.to_vec(),
            report_id: parsed.report_id.to_vec(),
            report_id_ma: parsed.report_id_ma.to_vec(),
            reported_tcb: WireTcb::of(parsed.reported_tcb),
            cpuid_fam_id: family,
            cpuid_mod_id: model,
            cpuid_step: step,
            chip_id: parsed.chip_id.to_vec(),
            committed_tcb: WireTcb::of(parsed.committed_tcb),
            current: version(parsed.current_version),
            committed: version(parsed.committed_version),
            launch_tcb: WireTcb::of(parsed.launch_tcb),
            launch_mit_vector: parsed.launch_mitigations,
            current_mit_vector: parsed.current_mitigations,
            signature: WireSignature { r: slice(SIGNED_BYTES, 72), s: slice(SIGNED_BYTES + 72, 72) },
        }
    }

    /// The report's bytes, as its layout has them (`report.rs`).
    fn to_bytes(&self) -> Result<Vec<u8>, CocoError> {
        let mut out = vec![0; REPORT_BYTES];
        let mut put = |offset: usize, bytes: &[u8]| {
            let room = out.iter_mut().skip(offset);
            room.zip(bytes).for_each(|(to, from)| *to = *from);
        };
        put(0x000, &self.version.to_le_bytes());
        put(0x004, &self.guest_svn.to_le_bytes());
        put(0x008, &self.policy.to_le_bytes());
        put(0x030, &self.vmpl.to_le_bytes());
        put(0x034, &self.sig_algo.to_le_bytes());
        put(0x040, &self.plat_info.to_le_bytes());
        put(0x048, &self.key_info.to_le_bytes());
        put(0x1f8, &self.launch_mit_vector.unwrap_or(0).to_le_bytes());
        put(0x200, &self.current_mit_vector.unwrap_or(0).to_le_bytes());
        for (offset, version) in [(0x1e8, &self.current), (0x1ec, &self.committed)] {
            put(offset, &[version.build, version.minor, version.major]);
        }
        for (offset, tcb) in self.tcbs() {
            put(offset, &tcb.read().to_bytes());
        }
        for (offset, byte) in
            [(0x188, self.cpuid_fam_id), (0x189, self.cpuid_mod_id), (0x18a, self.cpuid_step)]
        {
            put(offset, &[byte.unwrap_or(0)]);
        }
        for (field, offset, expected, bytes) in self.arrays() {
            if bytes.len() != expected {
                return Err(CocoError::Length { field, expected, found: bytes.len() });
            }
            put(offset, bytes);
        }
        Ok(out)
    }

    fn tcbs(&self) -> [(usize, &WireTcb); 4] {
        [
            (0x038, &self.current_tcb),
            (0x180, &self.reported_tcb),
            (0x1e0, &self.committed_tcb),
            (0x1f0, &self.launch_tcb),
        ]
    }

    fn arrays(&self) -> [(&'static str, usize, usize, &[u8]); 12] {
        [
            ("family_id", 0x010, 16, &self.family_id),
            ("image_id", 0x020, 16, &self.image_id),
            ("report_data", 0x050, 64, &self.report_data),
            ("measurement", 0x090, 48, &self.measurement),
            ("host_data", 0x0c0, 32, &self.host_data),
            ("id_key_digest", 0x0e0, 48, &self.id_key_digest),
            ("author_key_digest", 0x110, 48, &self.author_key_digest),
            ("report_id", 0x140, 32, &self.report_id),
            ("report_id_ma", 0x160, 32, &self.report_id_ma),
            ("chip_id", 0x1a0, 64, &self.chip_id),
            ("signature.r", SIGNED_BYTES, 72, &self.signature.r),
            ("signature.s", SIGNED_BYTES + 72, 72, &self.signature.s),
        ]
    }
}

impl WireTcb {
    fn of(tcb: Tcb) -> Self {
        let Tcb { fmc, boot_loader: bootloader, tee, snp, microcode } = tcb;
        Self { fmc, bootloader, tee, snp, microcode }
    }

    fn read(&self) -> Tcb {
        let WireTcb { fmc, bootloader: boot_loader, tee, snp, microcode } = *self;
        Tcb { fmc, boot_loader, tee, snp, microcode }
    }
}
