//! What Intel publishes about a platform, as one JSON file: statements with their signatures, and revocation lists.
//!
//! ```text
//! tcb_info            text that Intel signed   tcb_info_signature      hex R ‖ S   tcb_info_issuer_chain     PEM
//! qe_identity         text that Intel signed   qe_identity_signature   hex R ‖ S   qe_identity_issuer_chain  PEM
//! pck_crl             hex DER                  root_ca_crl             hex DER     pck_crl_issuer_chain      PEM
//! ```
//! These are the names that Intel's library and other tools for TDX use. Nothing is believed because it stands in the file.

use serde::Deserialize;

use crate::x509::{Certificate, CertificateError, RevocationError, RevocationList};

/// Longest file that is looked at, in bytes.
pub const MAX_COLLATERAL_BYTES: usize = 4 * 1024 * 1024;

/// Collateral whose form is sound and that nobody has verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnverifiedCollateral {
    /// TCB info.
    pub tcb_info: UnverifiedStatement,
    /// QE identity.
    pub qe_identity: UnverifiedStatement,
    /// Certificates that the root revoked.
    pub root_crl: RevocationList,
    /// PCK certificates that the Platform or Processor CA revoked.
    pub pck_crl: RevocationList,
    /// Who signed `pck_crl`: the CA, then the root.
    pub pck_crl_issuers: Vec<Certificate>,
}

/// A text and who is said to have signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnverifiedStatement {
    /// The exact bytes that the signature is over.
    pub text: String,
    /// ECDSA P-256 signature: R, S.
    pub signature: Vec<u8>,
    /// The signer, then the root.
    pub issuers: Vec<Certificate>,
}

/// Why a file is no collateral.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollateralError {
    /// Longer than any collateral.
    #[error("collateral has at most {MAX_COLLATERAL_BYTES} bytes, this has {found}")]
    Long {
        /// Length found.
        found: usize,
    },
    /// Not JSON, or not its fields.
    #[error("the collateral cannot be read: {reason}")]
    Json {
        /// What the parser says.
        reason: String,
    },
    /// Not hexadecimal.
    #[error("the collateral's {field} is not hexadecimal")]
    Hexadecimal {
        /// Which field.
        field: &'static str,
    },
    /// Not certificates.
    #[error("the collateral's {field} cannot be read: {reason}")]
    Certificates {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        reason: CertificateError,
    },
    /// Not a revocation list.
    #[error("the collateral's {field} cannot be read: {reason}")]
    List {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        reason: RevocationError,
    },
}

/// The file as it is written.
#[derive(Deserialize)]
struct File {
    tcb_info: String,
    tcb_info_signature: String,
    tcb_info_issuer_chain: String,
    qe_identity: String,
    qe_identity_signature: String,
    qe_identity_issuer_chain: String,
    pck_crl: String,
    pck_crl_issuer_chain: String,
    root_ca_crl: String,
}

impl UnverifiedCollateral {
    /// Reads a file.
    ///
    /// # Errors
    /// [`CollateralError`], with the first thing that is wrong.
    pub fn parse(json: &[u8]) -> Result<Self, CollateralError> {
        if json.len() > MAX_COLLATERAL_BYTES {
            return Err(CollateralError::Long { found: json.len() });
        }
        let file = serde_json::from_slice(json);
        let file: File = file.map_err(|error| CollateralError::Json { reason: error.to_string() })?;
        Ok(Self {
            tcb_info: UnverifiedStatement {
                text: file.tcb_info,
                signature: bytes("tcb_info_signature", &file.tcb_info_signature)?,
                issuers: certificates("tcb_info_issuer_chain", &file.tcb_info_issuer_chain)?,
            },
            qe_identity: UnverifiedStatement {
                text: file.qe_identity,
                signature: bytes("qe_identity_signature", &file.qe_identity_signature)?,
                issuers: certificates("qe_identity_issuer_chain", &file.qe_identity_issuer_chain)?,
            },
            root_crl: list("root_ca_crl", &file.root_ca_crl)?,
            pck_crl: list("pck_crl", &file.pck_crl)?,
            pck_crl_issuers: certificates("pck_crl_issuer_chain", &file.pck_crl_issuer_chain)?,
        })
    }
}

fn bytes(field: &'static str, text: &str) -> Result<Vec<u8>, CollateralError> {
    hex::decode(text).map_err(|_| CollateralError::Hexadecimal { field })
}

fn certificates(field: &'static str, text: &str) -> Result<Vec<Certificate>, CollateralError> {
    Certificate::from_file(text.as_bytes()).map_err(|reason| CollateralError::Certificates { field, reason })
}

fn list(field: &'static str, text: &str) -> Result<RevocationList, CollateralError> {
    RevocationList::from_der(&bytes(field, text)?).map_err(|reason| CollateralError::List { field, reason })
}
