//! Transparency logs of signatures: Rekor's two versions take an envelope's signature up, each in its way.
//!
//! ```text
//! version 1   kind dsse 0.0.1, the whole envelope: a promise with a time, and a proof
//! version 2   kind hashedrekord 0.0.2, the hash of what was signed (there is no other kind): a proof, no time
//! ```

use std::collections::BTreeMap;

use anyhow::Context;
use base64ct::{Base64, Encoding};
use coffer_attestation::x509::Certificate;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::ask::{Asker, Question};
use super::services::{Log, Version};

/// What is logged.
pub(super) struct Logged<'a> {
    pub(super) envelope: &'a Value,
    /// What the signature is over.
    pub(super) covered: &'a [u8],
    pub(super) signature: &'a [u8],
    pub(super) leaf: &'a Certificate,
}

/// Entries by their names.
type Entries = BTreeMap<String, Entry>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    body: String,
    integrated_time: u64,
    #[serde(rename = "logID")]
    log_id: String,
    log_index: u64,
    verification: Verification,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Verification {
    inclusion_proof: Proof,
    signed_entry_timestamp: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Proof {
    checkpoint: String,
    hashes: Vec<String>,
    log_index: u64,
    root_hash: String,
    tree_size: u64,
}

impl Log {
    /// The entry, as bundles have it. What it is worth is found where the whole signature is confirmed.
    pub(super) fn add(&self, asker: &Asker<'_>, logged: &Logged<'_>) -> anyhow::Result<Value> {
        let (path, request) = match self.version {
            Version::V1 => ("api/v1", logged.first()),
            Version::V2 => ("api/v2", logged.second()),
        };
        let address = format!("{}/{path}/log/entries", self.address);
        let answer = asker.post(Question {
            service: "Rekor",
            address: address.clone(),
            what: "an entry of the signature",
            media_type: "application/json",
            body: request.to_string().as_bytes(),
        })?;
        let read = match self.version {
            Version::V1 => promised(&answer),
            Version::V2 => proven(&answer),
        };
        read.with_context(|| {
            format!("the answer of Rekor at {address} is no entry of a log: nothing was attached")
        })
    }
}

impl Logged<'_> {
    fn first(&self) -> Value {
        json!({
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": {"proposedContent": {
                "envelope": self.envelope.to_string(),
                "verifiers": [Base64::encode_string(self.leaf.to_pem().as_bytes())],
            }},
        })
    }

    fn second(&self) -> Value {
        json!({"hashedRekordRequestV002": {
            "digest": Base64::encode_string(&Sha256::digest(self.covered)),
            "signature": {
                "content": Base64::encode_string(self.signature),
                "verifier": {
                    "x509Certificate": {"rawBytes": Base64::encode_string(self.leaf.der())},
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                },
            },
        }})
    }
}

fn promised(answer: &[u8]) -> anyhow::Result<Value> {
    let entries: Entries = serde_json::from_slice(answer).context("reading it")?;
    let mut entries = entries.into_values();
    let (Some(entry), None) = (entries.next(), entries.next()) else { anyhow::bail!("it has not one entry") };
    let Verification { inclusion_proof: proof, signed_entry_timestamp: promise } = entry.verification;
    let hashes = proof.hashes.iter().map(|hash| in_base64(hash)).collect::<anyhow::Result<Vec<String>>>()?;
    Ok(json!({
        "logIndex": entry.log_index.to_string(),
        "logId": {"keyId": in_base64(&entry.log_id)?},
        "kindVersion": {"kind": "dsse", "version": "0.0.1"},
        "integratedTime": entry.integrated_time.to_string(),
        "inclusionPromise": {"signedEntryTimestamp": promise},
        "inclusionProof": {
            "logIndex": proof.log_index.to_string(),
            "rootHash": in_base64(&proof.root_hash)?,
            "treeSize": proof.tree_size.to_string(),
            "hashes": hashes,
            "checkpoint": {"envelope": proof.checkpoint},
        },
        "canonicalizedBody": entry.body,
    }))
}

/// It has the form already; members that are there without a value go.
fn proven(answer: &[u8]) -> anyhow::Result<Value> {
    let mut entry: serde_json::Map<String, Value> = serde_json::from_slice(answer).context("reading it")?;
    let says_nothing =
        |name: &str, value: &Value| value.is_null() || (name == "integratedTime" && is_zero(value));
    entry.retain(|name, value| !says_nothing(name, value));
    anyhow::ensure!(entry.contains_key("inclusionProof"), "it has no proof that the entry is in the log");
    Ok(Value::Object(entry))
}

fn is_zero(value: &Value) -> bool {
    value.as_str().map_or(value.as_u64() == Some(0), |text| text == "0")
}

fn in_base64(hex: &str) -> anyhow::Result<String> {
    Ok(Base64::encode_string(&hex::decode(hex).context("a hash or a name of it is not in hexadecimal")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(change: impl FnOnce(&mut Value)) -> anyhow::Result<Value> {
        let mut answer = json!({"name": {
            "body": "e30=", "integratedTime": 7, "logID": "00ff", "logIndex": 3,
            "verification": {
                "inclusionProof": {"checkpoint": "c", "hashes": ["0a"], "logIndex": 1, "rootHash": "0b", "treeSize": 2},
                "signedEntryTimestamp": "AA==",
            },
        }});
        change(&mut answer);
        promised(answer.to_string().as_bytes())
    }

    #[test]
    fn hexadecimal_of_the_first_version_becomes_base64() {
        let entry = answer(|_| {}).expect("an entry");
        assert_eq!(entry["logId"]["keyId"], "AP8=");
        assert_eq!(entry["inclusionProof"]["hashes"], json!(["Cg=="]));
        // The place in the log and the place in the tree differ.
        assert_eq!((&entry["logIndex"], &entry["inclusionProof"]["logIndex"]), (&json!("3"), &json!("1")));
    }

    #[test]
    fn an_answer_with_two_entries_or_without_a_proof_is_none() {
        assert!(answer(|answer| answer["other"] = answer["name"].clone()).is_err());
        assert!(answer(|answer| drop(answer["name"]["verification"]["inclusionProof"].take())).is_err());
        assert!(answer(|answer| answer["name"]["logID"] = json!("zz")).is_err());
        assert!(proven(b"{\"logIndex\":\"1\"}").is_err());
        assert!(proven(b"<html>").is_err());
    }

    #[test]
    fn members_of_the_second_version_without_a_value_go() {
        let entry = proven(br#"{"integratedTime":"0","inclusionPromise":null,"inclusionProof":{}}"#);
        assert_eq!(entry.expect("an entry"), json!({"inclusionProof": {}}));
    }
}
