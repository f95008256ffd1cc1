//! The policy's JSON as it is written; nothing in it is believed before `read` has looked at it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::identity::SignedIdentity;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    pub(super) default: Vec<RawRequirement>,
    #[serde(default)]
    pub(super) transports: BTreeMap<String, BTreeMap<String, Vec<RawRequirement>>>,
    #[serde(default)]
    pub(super) requirements: BTreeMap<String, RawRequirement>,
}

/// Bytes are in base64, as Go writes them.
#[derive(Clone, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum RawRequirement {
    InsecureAcceptAnything {},
    Reject {},
    SigstoreSigned(RawSigstore),
    Keyless(RawKeyless),
    Attestation(RawAttestation),
    KOfN { k: usize, of: Vec<String> },
    SignedBy(RawSignedBy),
    Notation(RawNotation),
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawSigstore {
    pub(super) key_path: Option<String>,
    pub(super) key_paths: Option<Vec<String>>,
    pub(super) key_data: Option<String>,
    pub(super) key_datas: Option<Vec<String>>,
    pub(super) fulcio: Option<serde_json::Value>,
    pub(super) pki: Option<serde_json::Value>,
    pub(super) rekor_public_key_path: Option<String>,
    pub(super) rekor_public_key_paths: Option<Vec<String>>,
    pub(super) rekor_public_key_data: Option<String>,
    pub(super) rekor_public_key_datas: Option<Vec<String>>,
    pub(super) signed_identity: Option<SignedIdentity>,
    pub(super) not_before: Option<String>,
}

/// OpenPGP keys.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawSignedBy {
    pub(super) key_type: String,
    pub(super) key_path: Option<String>,
    pub(super) key_paths: Option<Vec<String>>,
    pub(super) key_data: Option<String>,
    pub(super) signed_identity: Option<SignedIdentity>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawKeyless {
    pub(super) identities: Vec<RawIdentity>,
    pub(super) trusted_root_path: Option<String>,
    pub(super) trusted_root_data: Option<String>,
    pub(super) signed_identity: Option<SignedIdentity>,
    pub(super) not_before: Option<String>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawIdentity {
    pub(super) issuer: String,
    pub(super) subject: Option<String>,
    pub(super) subject_pattern: Option<String>,
}

/// Exactly one of the two says who must have made the statement.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawAttestation {
    pub(super) predicate_type: String,
    pub(super) sigstore_signed: Option<RawSigstore>,
    pub(super) keyless: Option<RawKeyless>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawNotation {
    pub(super) level: RawLevel,
    pub(super) verify_timestamp: Option<RawVerifyTimestamp>,
    pub(super) trust_stores: Vec<RawTrustStore>,
    pub(super) trusted_identities: Vec<String>,
    #[serde(default)]
    pub(super) revocation_list_datas: Vec<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum RawLevel {
    Strict,
    Permissive,
    Audit,
    Skip,
}

/// When a time stamp is asked for, where there are clocks.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum RawVerifyTimestamp {
    #[default]
    Always,
    AfterCertExpiry,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawTrustStore {
    #[serde(rename = "type")]
    pub(super) kind: RawStoreKind,
    pub(super) certificate_paths: Option<Vec<String>>,
    pub(super) certificate_datas: Option<Vec<String>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum RawStoreKind {
    Ca,
    Tsa,
}
