//! What auditors read: entries of the log, proofs, checkpoints.

use std::io::BufRead;

use base64ct::{Base64, Encoding};
use coffer_attestation::audit::{inclusion_proof, leaf_hash};
use serde_json::{Value, json};

use super::admin::By;
use super::refusal::Refusal;
use super::verifier::Verifier;
use crate::operators::{Kind, Verb};

/// Most entries in one answer, and most bytes of them.
const MAX_ENTRIES: usize = 1000;
const MAX_BYTES: usize = 1 << 20;

/// Which entries are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    /// From this number on.
    pub from: u64,
    /// At most so many; 1000 are the most.
    pub limit: Option<usize>,
    /// `attest`, `release`, `put`, …
    pub event: Option<String>,
    /// `token`, `released`, `refused`.
    pub outcome: Option<String>,
    /// Path of a secret.
    pub path: Option<String>,
    /// Who did it.
    pub operator: Option<String>,
    /// Which guest.
    pub sandbox: Option<String>,
}

impl Verifier {
    /// Entries as the log has them, so that whoever asked can hash them, and the number to go on from, if there are more.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn query_audit(&self, by: By<'_>, wanted: &Wanted) -> Result<Value, Refusal> {
        self.permit(by, Verb::List, Kind::Audit, None)?;
        let limit = wanted.limit.unwrap_or(100).min(MAX_ENTRIES);
        let (mut found, mut bytes, mut next) = (Vec::new(), 0, None::<u64>);
        for (number, line) in
            (0..).zip(self.lines()?).skip(usize::try_from(wanted.from).unwrap_or(usize::MAX))
        {
            let line = line.map_err(|_| unreadable())?;
            let Some(entry) = line.splitn(3, ' ').nth(2) else { return Err(unreadable()) };
            if !wanted.fits(entry) {
                continue;
            }
            if found.len() >= limit || bytes + entry.len() > MAX_BYTES {
                next = Some(number);
                break;
            }
            bytes += entry.len();
            found.push(json!({ "number": number, "entry": entry }));
        }
        Ok(json!({ "entries": found, "next": next }))
    }

    /// One entry, the proof that it is in the log, and the checkpoint that the proof leads to.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn prove_audit(&self, by: By<'_>, number: u64) -> Result<Value, Refusal> {
        self.permit(by, Verb::Get, Kind::Audit, None)?;
        let (lines, checkpoint) = {
            let log = self.audit.log();
            (log.reader()?, log.checkpoint(by.at))
        };
        let (mut leaves, mut entry) = (Vec::new(), None);
        for line in lines.lines() {
            let line = line.map_err(|_| unreadable())?;
            let text = line.splitn(3, ' ').nth(2).ok_or_else(unreadable)?;
            if leaves.len() as u64 == number {
                entry = Some(text.to_owned());
            }
            leaves.push(leaf_hash(text.as_bytes()));
        }
        let entry = entry.ok_or(Refusal::NotFound)?;
        let index = usize::try_from(number).map_err(|_| Refusal::NotFound)?;
        let proof = inclusion_proof(&leaves, index).map_err(|_| Refusal::NotFound)?;
        Ok(json!({
            "number": number,
            "entry": entry,
            "proof": proof.iter().map(hex::encode).collect::<Vec<_>>(),
            "checkpoint": checkpoint.sign(&self.audit_key),
        }))
    }

    /// What the log is now, signed, and the public key.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn audit_checkpoint(&self, by: By<'_>) -> Result<Value, Refusal> {
        self.permit(by, Verb::Get, Kind::Audit, None)?;
        let checkpoint = self.audit.log().checkpoint(by.at);
        Ok(json!({ "checkpoint": checkpoint.sign(&self.audit_key), "key": self.audit_public_key() }))
    }

    /// The key that checkpoints are verified with: a point on P-256 in SEC 1's compressed form, in base64.
    pub fn audit_public_key(&self) -> String {
        Base64::encode_string(&self.audit_key.verifying_key().to_sec1_bytes())
    }

    fn lines(&self) -> Result<impl Iterator<Item = std::io::Result<String>> + use<>, Refusal> {
        let reader = self.audit.log().reader()?;
        Ok(reader.lines())
    }
}

impl Wanted {
    fn fits(&self, entry: &str) -> bool {
        let Ok(entry) = serde_json::from_str::<Value>(entry) else { return false };
        let what = entry.get("what");
        let at = |name: &str| what.and_then(|what| what.get(name)).and_then(Value::as_str);
        let sandbox = || {
            let identity = what.and_then(|what| what.get("identity"));
            at("sandbox").or(identity.and_then(|known| known.get("sandbox")).and_then(Value::as_str))
        };
        let is =
            |wanted: &Option<String>, found: Option<&str>| wanted.is_none() || wanted.as_deref() == found;
        is(&self.event, at("event"))
            && is(&self.outcome, at("outcome"))
            && is(&self.path, at("path"))
            && is(&self.operator, at("operator"))
            && (self.sandbox.is_none() || is(&self.sandbox, sandbox()))
    }
}

fn unreadable() -> Refusal {
    Refusal::Unavailable { reason: "the audit log cannot be read now" }
}
