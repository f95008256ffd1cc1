//! What a guest said of a container's image, as it is kept in a pod's record and in the trace of its start.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How many a record keeps; the oldest goes first.
const MOST: usize = 32;

/// The longest judgement that is kept with every signature that was tried, in bytes of JSON.
const MAX_JUDGEMENT: usize = 8 << 10;

/// How many encrypted layers are told: as many as an image can have that runs.
const MOST_ENCRYPTED: usize = 128;

/// The longest reason that is kept, in characters.
const MAX_REASON: usize = 2000;

/// What became of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The policy lets it run.
    Admitted,
    /// It does not run.
    Refused,
    /// It runs, and would not if the policy were more than a dry run.
    WouldBeRefused,
    /// The guest has no policy.
    NotJudged,
}

/// A layer that only guests with its key can read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncryptedLayer {
    /// Of the encrypted blob.
    pub digest: String,
    /// Where its key is asked for, as the manifest says it; not there: it does not say so.
    pub key: Option<String>,
}

/// What a guest said of a container's image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldImage {
    /// The container.
    pub container: String,
    /// The name that the pod asked for.
    pub image: String,
    /// Digest of its manifest.
    pub digest: Option<String>,
    /// Its encrypted layers, lowest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub encrypted: Vec<EncryptedLayer>,
    /// What became of it.
    pub outcome: Outcome,
    /// Why, where it was or would be refused.
    pub reason: Option<String>,
    /// The guest's judgement: the rule, who signed, what was checked.
    pub judgement: Option<Value>,
}

impl ToldImage {
    /// The same, cut to what is kept. `judgement` is the guest's JSON; what is none is left out.
    pub fn with(mut self, judgement: &[u8]) -> Self {
        self.reason = self.reason.map(|reason| reason.chars().take(MAX_REASON).collect());
        self.encrypted.truncate(MOST_ENCRYPTED);
        self.judgement = serde_json::from_slice(judgement).ok().and_then(bounded);
        self
    }

    /// Adds it to those that are kept.
    pub fn keep(self, kept: &mut Vec<Self>) {
        kept.push(self);
        let surplus = kept.len().saturating_sub(MOST);
        kept.drain(..surplus);
    }
}

/// A long judgement without the single attempts, which are most of it.
fn bounded(mut judgement: Value) -> Option<Value> {
    if judgement.to_string().len() > MAX_JUDGEMENT {
        without_attempts(&mut judgement);
    }
    (judgement.to_string().len() <= MAX_JUDGEMENT).then_some(judgement)
}

fn without_attempts(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.remove("attempts");
            members.values_mut().for_each(without_attempts);
        }
        Value::Array(items) => items.iter_mut().for_each(without_attempts),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(judgement: &Value) -> ToldImage {
        let told = ToldImage {
            container: "c".to_owned(),
            image: "r.example.com/app:v1".to_owned(),
            digest: None,
            encrypted: Vec::new(),
            outcome: Outcome::Admitted,
            reason: None,
            judgement: None,
        };
        told.with(judgement.to_string().as_bytes())
    }

    #[test]
    fn a_judgement_is_kept_whole() {
        let judgement = json!({"requirements": [{"signers": [{"name": "k"}], "attempts": [1]}]});
        assert_eq!(told(&judgement).judgement, Some(judgement));
    }

    #[test]
    fn a_long_judgement_loses_its_attempts_and_keeps_who_signed() {
        let signers = json!([{"name": "k"}]);
        let judgement =
            json!({"requirements": [{"signers": signers, "attempts": vec!["x".repeat(100); 100]}]});
        assert_eq!(told(&judgement).judgement, Some(json!({"requirements": [{"signers": signers}]})));
    }

    #[test]
    fn a_judgement_that_is_too_long_all_the_same_is_left_out() {
        assert_eq!(told(&json!({"image": "x".repeat(MAX_JUDGEMENT)})).judgement, None);
    }

    #[test]
    fn bytes_that_are_no_json_are_left_out() {
        assert_eq!(told(&Value::Null).with(b"{").judgement, None);
    }

    #[test]
    fn the_newest_are_kept() {
        let mut kept = Vec::new();
        for number in 0..MOST + 2 {
            ToldImage { container: number.to_string(), ..told(&Value::Null) }.keep(&mut kept);
        }
        assert_eq!((kept.len(), kept[0].container.as_str()), (MOST, "2"));
    }
}
