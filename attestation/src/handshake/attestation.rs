//! The third message: evidence, and what it is bound to.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::canonical::CanonicalError;
use super::hash::{HashAlgorithm, ReportData};
use super::initdata::{InitData, InitDataError, MAX_INITDATA_BYTES};
use super::key::{TeeKey, TeeKeyError};
use super::strict::{JsonError, Limits, read};
use crate::tdx;

/// The longest further evidence that is read, in bytes.
pub const MAX_ADDITIONAL_BYTES: usize = 256 << 10;

/// The longest nonce, in characters.
const MAX_NONCE: usize = 512;

/// Evidence of a trust domain with its log is the longest; initdata may double in length when it is escaped.
const LIMITS: Limits = Limits {
    bytes: tdx::coco::MAX_JSON_BYTES + 2 * MAX_INITDATA_BYTES + 2 * MAX_ADDITIONAL_BYTES + 4096,
    depth: 12,
};

/// What a guest sends to be judged. Nothing of it is verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Attestation {
    /// Initdata, if the guest shows it.
    pub init_data: Option<InitData>,
    /// The challenge's nonce, as the guest repeats it.
    pub nonce: String,
    /// The key that secrets are to be sealed for.
    pub key: TeeKey,
    /// The same, as it was sent: this is what is hashed.
    pub key_as_sent: Value,
    /// Evidence in the form of its kind: JSON, as it was sent.
    pub evidence: String,
    /// Further evidence: a JSON text, or empty.
    pub additional: String,
}

/// Why an attestation is refused before anything is judged.
#[derive(Debug, thiserror::Error)]
pub enum AttestationError {
    /// Not JSON of this form.
    #[error("this is no attestation of the protocol")]
    Json(#[from] JsonError),
    /// The guest's key.
    #[error("the guest's key cannot be used")]
    Key(#[from] TeeKeyError),
    /// The initdata.
    #[error("the initdata cannot be used")]
    InitData(#[from] InitDataError),
    /// A nonce longer than any that is given out.
    #[error("the nonce has {found} characters, at most {MAX_NONCE} are read")]
    Nonce {
        /// Length found.
        found: usize,
    },
    /// More further evidence than is read.
    #[error("the additional evidence has {found} bytes, at most {MAX_ADDITIONAL_BYTES} are read")]
    Additional {
        /// Length found.
        found: usize,
    },
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Wire {
    #[serde(default)]
    init_data: Option<WireInitData>,
    runtime_data: WireRuntimeData,
    tee_evidence: WireEvidence,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WireInitData {
    format: String,
    body: String,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WireRuntimeData {
    nonce: String,
    tee_pubkey: Value,
}

// These two names are written with an underscore, unlike all others.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WireEvidence {
    primary_evidence: Box<RawValue>,
    #[serde(default)]
    additional_evidence: String,
}

impl Attestation {
    /// The longest body that can be one, in bytes.
    pub const MAX_BYTES: usize = LIMITS.bytes;

    /// Reads the body of `POST /kbs/v0/attest`.
    ///
    /// # Errors
    /// [`AttestationError`]
    pub fn parse(body: &[u8]) -> Result<Self, AttestationError> {
        let wire: Wire = read(body, LIMITS)?;
        let WireRuntimeData { nonce, tee_pubkey } = wire.runtime_data;
        if nonce.len() > MAX_NONCE {
            return Err(AttestationError::Nonce { found: nonce.len() });
        }
        let additional = wire.tee_evidence.additional_evidence;
        if additional.len() > MAX_ADDITIONAL_BYTES {
            return Err(AttestationError::Additional { found: additional.len() });
        }
        let init_data = wire.init_data.map(|sent| InitData::parse(&sent.format, sent.body)).transpose()?;
        Ok(Self {
            init_data,
            nonce,
            key: TeeKey::parse(&tee_pubkey)?,
            key_as_sent: tee_pubkey,
            evidence: String::from(Box::<str>::from(wire.tee_evidence.primary_evidence)),
            additional,
        })
    }

    /// What the evidence must carry.
    ///
    /// # Errors
    /// A number in the key without a canonical form.
    pub fn report_data(&self, algorithm: HashAlgorithm) -> Result<ReportData, CanonicalError> {
        ReportData::compute(algorithm, &self.nonce, &self.key_as_sent, &self.additional)
    }

    /// As the guest writes it; `None` if its evidence is no JSON.
    pub fn to_json(&self) -> Option<String> {
        let init_data = self
            .init_data
            .as_ref()
            .map(|data| WireInitData { format: "toml".to_owned(), body: data.body().to_owned() });
        let runtime_data =
            WireRuntimeData { nonce: self.nonce.clone(), tee_pubkey: self.key_as_sent.clone() };
        let tee_evidence = WireEvidence {
            primary_evidence: RawValue::from_string(self.evidence.clone()).ok()?,
            additional_evidence: self.additional.clone(),
        };
        serde_json::to_string(&Wire { init_data, runtime_data, tee_evidence }).ok()
    }
}
