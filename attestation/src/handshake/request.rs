//! The first two messages: who asks, and the challenge.

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

use super::hash::HashAlgorithm;
use super::strict::{JsonError, Limits, read};

/// The one version of the protocol.
pub const PROTOCOL_VERSION: &str = "0.4.0";

const LIMITS: Limits = Limits { bytes: 16 << 10, depth: 8 };

/// Kinds of evidence that can be judged here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tee {
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
    /// SEV-SNP behind Azure's virtual TPM.
    AzSnpVtpm,
    /// Confidential Containers' stand-in without any hardware.
    Sample,
}

/// A guest that wants to attest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What kind of evidence it will send.
    pub tee: Tee,
    /// The hash that follows from what it offers.
    pub hash: HashAlgorithm,
}

/// What the evidence must be bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Opaque to the guest.
    pub nonce: String,
    /// The hash to bind with.
    pub hash: HashAlgorithm,
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Not JSON of this form.
    #[error("this is no request of the protocol")]
    Json(#[from] JsonError),
    /// Another version.
    #[error("the request is of version {found:?}, {PROTOCOL_VERSION:?} is spoken here")]
    Version {
        /// Version found, cut to 32 characters.
        found: String,
    },
    /// Evidence that cannot be judged.
    #[error("evidence of kind {found:?} cannot be judged here: snp, tdx, az-snp-vtpm and sample can")]
    Tee {
        /// Kind found, cut to 32 characters.
        found: String,
    },
    /// No hash in common.
    #[error("none of the hashes offered is spoken here: sha384, sha512 and sha256 are")]
    Hashes,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Wire {
    version: String,
    tee: String,
    extra_params: Value,
}

impl Tee {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Tee::Snp => "snp",
            Tee::Tdx => "tdx",
            Tee::AzSnpVtpm => "az-snp-vtpm",
            Tee::Sample => "sample",
        }
    }

    /// By its name on the wire.
    pub fn from_name(name: &str) -> Option<Self> {
        [Tee::Snp, Tee::Tdx, Tee::AzSnpVtpm, Tee::Sample].into_iter().find(|tee| tee.name() == name)
    }
}

impl Request {
    /// Reads the body of `POST /kbs/v0/auth`: at most 16 KiB.
    ///
    /// # Errors
    /// [`RequestError`]
    pub fn parse(body: &[u8]) -> Result<Self, RequestError> {
        let wire: Wire = read(body, LIMITS)?;
        let cut = |text: &str| text.chars().take(32).collect();
        if wire.version != PROTOCOL_VERSION {
            return Err(RequestError::Version { found: cut(&wire.version) });
        }
        let tee = Tee::from_name(&wire.tee).ok_or_else(|| RequestError::Tee { found: cut(&wire.tee) })?;
        Ok(Self { tee, hash: negotiated(&wire.extra_params)? })
    }

    /// As the guest writes it.
    pub fn to_json(&self) -> Value {
        let hashes = [self.hash.name()];
        json!({
            "version": PROTOCOL_VERSION,
            "tee": self.tee.name(),
            "extra-params": { "supported-hash-algorithms": hashes },
        })
    }
}

/// SHA-384 when nothing is offered, as clients assume; else the best of the offered ones in our order.
fn negotiated(extra: &Value) -> Result<HashAlgorithm, RequestError> {
    let Some(offered) = extra.get("supported-hash-algorithms") else {
        return Ok(HashAlgorithm::Sha384);
    };
    let offered: Vec<&str> = offered.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let ours = [HashAlgorithm::Sha384, HashAlgorithm::Sha512, HashAlgorithm::Sha256];
    ours.into_iter().find(|hash| offered.contains(&hash.name())).ok_or(RequestError::Hashes)
}

/// As the verifier writes it, the nonce first: nothing is said about SHA-384, which is what clients assume.
impl Serialize for Challenge {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "kebab-case")]
        struct Wire<'a> {
            nonce: &'a str,
            extra_params: Value,
        }
        let extra_params = match self.hash {
            HashAlgorithm::Sha384 => json!(""),
            other => json!({ "selected-hash-algorithm": other.name() }),
        };
        Wire { nonce: &self.nonce, extra_params }.serialize(serializer)
    }
}

impl Challenge {
    /// Reads what a verifier answered.
    ///
    /// # Errors
    /// [`RequestError`]
    pub fn parse(body: &[u8]) -> Result<Self, RequestError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct Wire {
            nonce: String,
            extra_params: Value,
        }
        let wire: Wire = read(body, LIMITS)?;
        let hash = match wire.extra_params.get("selected-hash-algorithm") {
            None => HashAlgorithm::Sha384,
            Some(name) => name.as_str().and_then(HashAlgorithm::from_name).ok_or(RequestError::Hashes)?,
        };
        Ok(Self { nonce: wire.nonce, hash })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(extra: &str) -> String {
        format!(r#"{{"version":"0.4.0","tee":"snp","extra-params":{extra}}}"#)
    }

    fn hash(extra: &str) -> Option<HashAlgorithm> {
        Request::parse(body(extra).as_bytes()).ok().map(|request| request.hash)
    }

    #[test]
    fn sha384_is_chosen_whenever_it_is_offered() {
        let offered = r#"{"supported-hash-algorithms":["sha256","sha384","sha512","sm3"]}"#;
        assert_eq!([offered, r#""""#, "null"].map(hash), [Some(HashAlgorithm::Sha384); 3]);
    }

    #[test]
    fn a_hash_that_alone_is_offered_is_taken() {
        assert_eq!(hash(r#"{"supported-hash-algorithms":["sha256"]}"#), Some(HashAlgorithm::Sha256));
    }

    #[test]
    fn a_guest_that_offers_only_sm3_is_refused() {
        assert_eq!(hash(r#"{"supported-hash-algorithms":["sm3"]}"#), None);
    }

    #[test]
    fn another_version_is_refused() {
        let refused = Request::parse(br#"{"version":"0.4.1","tee":"snp","extra-params":""}"#);
        assert!(matches!(refused, Err(RequestError::Version { found }) if found == "0.4.1"));
    }

    #[test]
    fn a_kind_of_evidence_that_nobody_can_judge_is_refused() {
        let refused = Request::parse(br#"{"version":"0.4.0","tee":"tpm","extra-params":""}"#);
        assert!(matches!(refused, Err(RequestError::Tee { found }) if found == "tpm"));
    }

    #[test]
    fn an_unknown_member_is_refused() {
        let refused = Request::parse(br#"{"version":"0.4.0","tee":"snp","extra-params":"","x":1}"#);
        assert!(matches!(refused, Err(RequestError::Json(_))));
    }

    #[test]
    fn a_challenge_reads_as_it_was_written() {
        let one = Challenge { nonce: "abc".to_owned(), hash: HashAlgorithm::Sha512 };
        let written = serde_json::to_vec(&one).expect("JSON");
        assert_eq!(Challenge::parse(&written).expect("a challenge"), one);
    }

    #[test]
    fn sha384_is_not_mentioned_in_a_challenge() {
        let one = Challenge { nonce: "abc".to_owned(), hash: HashAlgorithm::Sha384 };
        assert_eq!(serde_json::to_string(&one).expect("JSON"), r#"{"nonce":"abc","extra-params":""}"#);
    }
}
