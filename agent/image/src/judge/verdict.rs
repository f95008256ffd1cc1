//! What was decided, with everything that it follows from.

use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::Appraisal;
use serde::Serialize;

use crate::artefact::{Digest, Manifest, Subject};

/// Whether an image may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// Every requirement is met.
    Admitted,
    /// One is not.
    Refused,
}

/// The verdict about one image.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Judgement {
    pub(super) decision: Decision,
    pub(super) image: String,
    pub(super) digest: Digest,
    pub(super) at: UnixTime,
    pub(super) rule: String,
    pub(super) requirements: Vec<Judged>,
    pub(super) verifications: usize,
    #[serde(skip)]
    pub(super) subject: Subject,
}

/// One requirement and what was found of it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Judged {
    /// Where it stands in the policy, as a JSON pointer.
    pub pointer: String,
    /// Its type, as the policy writes it.
    pub kind: &'static str,
    /// Whether it is met.
    pub met: bool,
    /// Why, in a sentence.
    pub reason: String,
    /// Who met it.
    pub signers: Vec<Signer>,
    /// Each signature that was held against it.
    pub attempts: Vec<Attempt>,
    /// The named requirements behind it, if it is `kOfN`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub of: Vec<Judged>,
}

/// Somebody whose signature met a requirement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Signer {
    /// The key, or name and issuer.
    pub name: String,
    /// The earliest time that others vouch for.
    pub time: Option<UnixTime>,
}

/// One signature against one requirement.
#[derive(Debug, Clone, Serialize)]
pub struct Attempt {
    /// Its kind, and its place among the signature objects, from 0.
    pub signature: String,
    /// Its checks.
    #[serde(flatten)]
    pub appraisal: Appraisal,
}

/// An image that the policy lets run; made by nothing but [`Judgement::into_admitted`].
#[derive(Debug, Clone)]
pub struct Admitted {
    subject: Subject,
    rule: String,
    signers: Vec<Signer>,
}

/// Why an image may not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the image {image} ({digest}) is refused by {rule} of the policy: {reason}")]
pub struct Refusal {
    /// The name that was asked for.
    pub image: String,
    /// Digest of its manifest.
    pub digest: Digest,
    /// The requirement that was not met, as a JSON pointer.
    pub rule: String,
    /// Why.
    pub reason: String,
}

impl Judgement {
    /// Whether it may run.
    pub fn decision(&self) -> Decision {
        self.decision
    }

    /// The scope whose list decided, as a JSON pointer.
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// Every requirement of that list, in its order.
    pub fn requirements(&self) -> &[Judged] {
        &self.requirements
    }

    /// How many signatures were verified for it, those of certificates, logs and clocks among them.
    pub fn verifications(&self) -> usize {
        self.verifications
    }

    /// The image, or the first requirement that was not met.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn into_admitted(self) -> Result<Admitted, Refusal> {
        let missed = self.requirements.iter().find(|judged| !judged.met);
        match (self.decision, missed) {
            (Decision::Admitted, None) => {
                let signers = self.requirements.into_iter().flat_map(|judged| judged.signers).collect();
                Ok(Admitted { subject: self.subject, rule: self.rule, signers })
            }
            (_, missed) => Err(Refusal {
                image: self.image,
                digest: self.digest,
                rule: missed.map_or(self.rule, |judged| judged.pointer.clone()),
                reason: missed.map_or_else(String::new, |judged| judged.reason.clone()),
            }),
        }
    }
}

impl Admitted {
    /// The name that was asked for.
    pub fn image(&self) -> String {
        self.subject.reference().to_string()
    }

    /// Digest of its manifest.
    pub fn digest(&self) -> &Digest {
        self.subject.digest()
    }

    /// Its manifest: configuration and layers by their digests.
    pub fn manifest(&self) -> &Manifest {
        self.subject.manifest()
    }

    /// The scope whose list decided, as a JSON pointer.
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// Who signed, for the attestation's claims. Nobody where the policy takes anything.
    pub fn signers(&self) -> &[Signer] {
        &self.signers
    }
}
