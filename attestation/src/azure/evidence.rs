//! The JSON that Confidential Containers' guest components send from Azure machines.
//!
//! ```json
//! {"version": 1, "tpm_quote": {"signature": hex, "message": hex, "pcrs": [hex, ..]}, "hcl_report": base64url, "vcek": base64url}
//! {"quote": {"signature": [..], "message": [..], "pcrs": [[..], ..]}, "report": [..], "vcek": PEM}
//! ```
//! The second form has no version and is the oldest. From version 2 on the guest sets the paravisor's user data too.

use serde::Deserialize;

use super::appraise::SnpEvidence;
use super::quote::{PCR_COUNT, TpmQuote};
use crate::base64;
use crate::x509::{Certificate, CertificateError};

/// The longest evidence that is read, in bytes of JSON.
pub const MAX_JSON_BYTES: usize = 256 << 10;

/// Why JSON is no evidence of this form.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// Longer than anything real.
    #[error("evidence may have {MAX_JSON_BYTES} bytes of JSON, this has {found}")]
    TooLong {
        /// Length found.
        found: usize,
    },
    /// Not JSON, or of no form that is known.
    #[error("this is no evidence of an Azure machine in JSON")]
    Json(#[source] serde_json::Error),
    /// A version that may mean anything.
    #[error("evidence of version {found} is unknown: 1, 2 and the form without a version are understood")]
    Version {
        /// Version found.
        found: u32,
    },
    /// A text that is not encoded as it should be.
    #[error("{field} is not {encoding}")]
    Encoding {
        /// The field.
        field: &'static str,
        /// What it should be.
        encoding: &'static str,
    },
    /// More PCRs than there are, or PCRs of another bank.
    #[error("the evidence has {count} PCRs: at most {PCR_COUNT} of 32 bytes each are understood")]
    Pcrs {
        /// How many there are.
        count: usize,
    },
    /// The certificate that came along.
    #[error("the evidence's VCEK cannot be read")]
    Vcek(#[source] CertificateError),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Wire {
    Versioned(Versioned),
    Oldest(Oldest),
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
    tpm_quote: HexQuote,
    hcl_report: String,
    vcek: String,
}

/// A quote as versions 1 and 2 write it.
#[derive(Deserialize)]
pub(super) struct HexQuote {
    signature: String,
    message: String,
    pcrs: Vec<String>,
}

#[derive(Deserialize)]
struct Oldest {
    quote: ByteQuote,
    report: Vec<u8>,
    vcek: String,
}

/// A quote as the oldest form writes it.
#[derive(Deserialize)]
pub(super) struct ByteQuote {
    signature: Vec<u8>,
    message: Vec<u8>,
    pcrs: Vec<Vec<u8>>,
}

/// Reads evidence of an SNP machine.
pub fn parse_snp(json: &[u8]) -> Result<SnpEvidence, EvidenceError> {
    if json.len() > MAX_JSON_BYTES {
        return Err(EvidenceError::TooLong { found: json.len() });
    }
    match serde_json::from_slice(json).map_err(EvidenceError::Json)? {
        Wire::Versioned(wire) => versioned(wire),
        Wire::Oldest(wire) => oldest(wire),
    }
}

fn versioned(wire: Versioned) -> Result<SnpEvidence, EvidenceError> {
    let has_user_data = has_user_data(wire.version)?;
    let vcek = encoded(&wire.vcek, "vcek")?;
    Ok(SnpEvidence {
        quote: wire.tpm_quote.read()?,
        hcl_report: encoded(&wire.hcl_report, "hcl_report")?,
        vek: Certificate::from_der(&vcek).map_err(EvidenceError::Vcek)?,
        has_user_data,
        authorities: Vec::new(),
        revocation: Vec::new(),
    })
}

/// Whether the guest sets the paravisor's user data in evidence of this version.
pub(super) fn has_user_data(version: u32) -> Result<bool, EvidenceError> {
    match version {
        1 => Ok(false),
        2 => Ok(true),
        found => Err(EvidenceError::Version { found }),
    }
}

pub(super) fn encoded(text: &str, field: &'static str) -> Result<Vec<u8>, EvidenceError> {
    base64::url(text).ok_or(EvidenceError::Encoding { field, encoding: "base64 for URLs" })
}

impl HexQuote {
    pub(super) fn read(&self) -> Result<TpmQuote, EvidenceError> {
        let bytes = |text: &str, field| {
            hex::decode(text).map_err(|_| EvidenceError::Encoding { field, encoding: "hexadecimal" })
        };
        let listed = self.pcrs.iter().map(|pcr| bytes(pcr, "a PCR")).collect::<Result<Vec<_>, _>>()?;
        Ok(TpmQuote {
            signature: bytes(&self.signature, "the quote's signature")?,
            message: bytes(&self.message, "the quote's message")?,
            pcrs: pcrs(&listed)?,
        })
    }
}

impl ByteQuote {
    pub(super) fn read(self) -> Result<TpmQuote, EvidenceError> {
        Ok(TpmQuote { pcrs: pcrs(&self.pcrs)?, signature: self.signature, message: self.message })
    }
}

fn oldest(wire: Oldest) -> Result<SnpEvidence, EvidenceError> {
    let vek =
        Certificate::from_file(wire.vcek.as_bytes()).and_then(|all| {
            match <[Certificate; 1]>::try_from(all) {
                Ok([one]) => Ok(one),
                Err(all) => Err(CertificateError::Count { found: all.len() }),
            }
        });
    Ok(SnpEvidence {
        quote: wire.quote.read()?,
        hcl_report: wire.report,
        vek: vek.map_err(EvidenceError::Vcek)?,
        has_user_data: false,
        authorities: Vec::new(),
        revocation: Vec::new(),
    })
}

fn pcrs(listed: &[Vec<u8>]) -> Result<Vec<[u8; 32]>, EvidenceError> {
    let refused = || EvidenceError::Pcrs { count: listed.len() };
    if listed.len() > PCR_COUNT {
        return Err(refused());
    }
    listed.iter().map(|pcr| pcr.as_slice().try_into().map_err(|_| refused())).collect()
}
