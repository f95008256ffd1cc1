//! What a token says: an Entity Attestation Result (draft-ietf-rats-ear) with the members that Confidential Containers'
//! relying parties read.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::verdict::Verdict;

/// `eat_profile` of these tokens.
pub(super) const PROFILE: &str = "tag:github.com,2024:confidential-containers/Trustee";
/// The submodule that stands for the machine's processor.
pub(super) const PROCESSOR: &str = "cpu0";

/// The claims of a token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ear {
    /// Which profile of EAT it is.
    pub eat_profile: String,
    /// When it was made, in seconds since 1970.
    pub iat: u64,
    /// From when on it is not valid any more, in seconds since 1970.
    pub exp: u64,
    /// Who made it.
    pub iss: String,
    /// 16 random bytes in hexadecimal: what a revocation names.
    pub jti: String,
    /// Which program made it.
    #[serde(rename = "ear.verifier-id")]
    pub verifier: EarIdentity,
    /// What was judged.
    pub submods: Map<String, Value>,
}

/// The program that judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarIdentity {
    /// Name and version.
    pub build: String,
    /// Who makes it.
    pub developer: String,
}

/// The verdict on one part of a machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Submodule {
    /// `none`, `affirming`, `warning` or `contraindicated`.
    #[serde(rename = "ear.status")]
    pub status: String,
    /// The same in parts.
    #[serde(rename = "ear.trustworthiness-vector")]
    pub vector: TrustVector,
    /// The policy that appraised it.
    #[serde(rename = "ear.appraisal-policy-id")]
    pub policy: String,
    /// What the evidence says.
    #[serde(rename = "ear.veraison.annotated-evidence")]
    pub evidence: Value,
}

/// Trustworthiness claims (draft-ietf-rats-ar4si): 2 affirms, 32 and above warns, 96 and above contraindicates, 99 means
/// that the evidence does not verify; 0 says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TrustVector {
    /// Who it is.
    pub instance_identity: i8,
    /// How it is configured.
    pub configuration: i8,
    /// What it runs.
    pub executables: i8,
    /// Its files.
    pub file_system: i8,
    /// The processor and its firmware.
    pub hardware: i8,
    /// Whether its memory is hidden from its host.
    pub runtime_opaque: i8,
    /// Whether its storage is.
    pub storage_opaque: i8,
    /// Data from elsewhere.
    pub sourced_data: i8,
}

impl Ear {
    /// The processor's submodule, if it is there and well formed.
    pub fn processor(&self) -> Option<Submodule> {
        self.submods.get(PROCESSOR).and_then(|value| serde_json::from_value(value.clone()).ok())
    }

    /// Claims about the processor alone, made at `iat` and good for `lifetime` seconds.
    pub fn of_processor(submodule: &Submodule, jti: String, iat: u64, lifetime: u64) -> Self {
        // Plain data: it has a JSON form.
        let value = serde_json::to_value(submodule).unwrap_or_default();
        Self {
            eat_profile: PROFILE.to_owned(),
            iat,
            exp: iat.saturating_add(lifetime),
            iss: "coffer-verifier".to_owned(),
            jti,
            verifier: EarIdentity {
                build: concat!("coffer-verifier ", env!("CARGO_PKG_VERSION")).to_owned(),
                developer: "Coffer".to_owned(),
            },
            submods: Map::from_iter([(PROCESSOR.to_owned(), value)]),
        }
    }
}

impl TrustVector {
    /// What the hardware's verdict and the policy's answer about configuration and executables amount to.
    pub fn new(hardware: Verdict, configuration: Verdict, executables: Verdict) -> Self {
        Self {
            configuration: match configuration {
                Verdict::Affirming => 2,
                Verdict::Warning => 32,
                Verdict::Contraindicated => 96,
                Verdict::Invalid => 99,
            },
            executables: match executables {
                Verdict::Affirming => 3,
                Verdict::Warning => 32,
                Verdict::Contraindicated => 33,
                Verdict::Invalid => 99,
            },
            hardware: match hardware {
                Verdict::Affirming => 2,
                Verdict::Warning => 32,
                Verdict::Contraindicated => 96,
                Verdict::Invalid => 99,
            },
            ..Self::default()
        }
    }
}

impl Submodule {
    /// The status that a verdict is written as. EAR knows no "invalid": evidence that does not verify is contraindicated.
    pub fn status_of(verdict: Verdict) -> &'static str {
        match verdict {
            Verdict::Affirming => "affirming",
            Verdict::Warning => "warning",
            Verdict::Contraindicated | Verdict::Invalid => "contraindicated",
        }
    }
}
