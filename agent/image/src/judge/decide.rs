//! Goes through the requirements of the rule that decides.

use std::collections::BTreeSet;
use std::fmt::Display;

use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::{Appraisal, Checks, Claims, Outcome, Verdict};

use super::verdict::{Attempt, Decision, Judged, Judgement, Signer};
use crate::artefact::{Attached, Evidence, Subject};
use crate::notation::{self, Envelope};
use crate::policy::{Kind, Notation, Policy, Predicate, Requirement, Sigstore};
use crate::sigstore::{self, Signed};

const NO_SIGNATURE: &str = "no signature of this kind is attached to the image";

/// Judges the image `subject` by `policy` with the signatures in `evidence`, as of `at`.
pub fn judge(policy: &Policy, subject: Subject, evidence: &Evidence, at: UnixTime) -> Judgement {
    let rule = policy.rule_for(subject.reference());
    let case = Case { subject: &subject, evidence, at };
    let requirements: Vec<Judged> = rule.requirements.iter().map(|wanted| case.judge(wanted)).collect();
    let all_met = !requirements.is_empty() && requirements.iter().all(|judged| judged.met);
    Judgement {
        decision: if all_met { Decision::Admitted } else { Decision::Refused },
        image: subject.reference().to_string(),
        digest: *subject.digest(),
        at,
        rule: rule.pointer.clone(),
        requirements,
        subject,
    }
}

struct Case<'a> {
    subject: &'a Subject,
    evidence: &'a Evidence,
    at: UnixTime,
}

impl Case<'_> {
    fn judge(&self, wanted: &Requirement) -> Judged {
        let (pointer, kind) = (wanted.pointer.clone(), wanted.kind());
        let plain = |met, reason: &str| Judged {
            pointer: pointer.clone(),
            kind,
            met,
            reason: reason.to_owned(),
            signers: Vec::new(),
            attempts: Vec::new(),
            of: Vec::new(),
        };
        match &wanted.kind {
            Kind::Accept => plain(true, "the policy takes anything here"),
            Kind::Reject => plain(false, "the policy takes nothing here"),
            Kind::Sigstore(sigstore) => {
                let missing = match &sigstore.predicate {
                    Predicate::Signature => NO_SIGNATURE.to_owned(),
                    Predicate::Attestation(kind) => {
                        format!("no statement of type {kind} is attached to the image")
                    }
                };
                conclude(plain(false, ""), self.attempts(sigstore), missing)
            }
            Kind::Notation(notation) => {
                conclude(plain(false, ""), self.envelopes(notation), NO_SIGNATURE.to_owned())
            }
            Kind::AtLeast { k, of } => {
                let of: Vec<Judged> = of.iter().map(|(_, wanted)| self.judge(wanted)).collect();
                at_least(plain(false, ""), *k, of)
            }
        }
    }

    /// Holds every signature of the kind against the requirement. A statement of another type is another thing, no attempt.
    fn attempts(&self, wanted: &Sigstore) -> Vec<(Attempt, Option<Signer>)> {
        let read = self.evidence.attached().iter().enumerate().filter_map(|(place, attached)| {
            let signed = Signed::read(attached)?;
            let fits = |signed: &Signed| match &wanted.predicate {
                Predicate::Signature => true,
                Predicate::Attestation(kind) => signed.predicate() == Some(kind),
            };
            signed.as_ref().map_or(true, fits).then_some((place, attached, signed))
        });
        read.map(|(place, attached, signed)| match signed {
            Ok(signed) => {
                let found = sigstore::verify(wanted, &signed, self.subject, self.at);
                let signer = found.signer.map(|name| Signer { name, time: found.time });
                (attempt(place, attached, found.checks), signer)
            }
            Err(error) => unreadable(place, attached, error),
        })
        .collect()
    }

    /// The same for Notation's.
    fn envelopes(&self, wanted: &Notation) -> Vec<(Attempt, Option<Signer>)> {
        let all = self.evidence.attached().iter().enumerate();
        let read = all.filter_map(|(place, attached)| Some((place, attached, Envelope::read(attached)?)));
        read.map(|(place, attached, envelope)| match envelope {
            Ok(envelope) => {
                let (checks, name, time) = notation::verify(wanted, &envelope, self.subject, self.at);
                (attempt(place, attached, checks), name.map(|name| Signer { name, time }))
            }
            Err(error) => unreadable(place, attached, error),
        })
        .collect()
    }
}

fn unreadable(place: usize, attached: &Attached, error: impl Display) -> (Attempt, Option<Signer>) {
    let mut checks = Checks::default();
    checks.record("form", Outcome::Failed, "a signature that can be read", error);
    (attempt(place, attached, checks), None)
}

fn attempt(place: usize, attached: &Attached, checks: Checks) -> Attempt {
    let signature = format!("{} {place}", attached.kind());
    Attempt { signature, appraisal: Appraisal::new(checks, Claims::new()) }
}

/// A warning is what the policy's level lets pass.
fn conclude(mut judged: Judged, attempts: Vec<(Attempt, Option<Signer>)>, missing: String) -> Judged {
    for (attempt, signer) in attempts {
        if matches!(attempt.appraisal.verdict(), Verdict::Affirming | Verdict::Warning) {
            judged.signers.extend(signer.filter(|signer| !judged.signers.contains(signer)));
        }
        judged.attempts.push(attempt);
    }
    judged.met = !judged.signers.is_empty();
    judged.reason = if judged.met {
        let names: Vec<&str> = judged.signers.iter().map(|signer| signer.name.as_str()).collect();
        format!("signed by {}", names.join(", "))
    } else {
        why_not(&judged.attempts, missing)
    };
    judged
}

/// The signature that came furthest, and the first check that it failed.
fn why_not(attempts: &[Attempt], missing: String) -> String {
    let failed = |attempt: &&Attempt| attempt.appraisal.reasons().count();
    let Some(best) = attempts.iter().min_by_key(failed) else { return missing };
    let reason = best.appraisal.reasons().next();
    let reason =
        reason.map(|check| format!("{}: expected {}, found {}", check.name, check.expected, check.found));
    format!("{}: {}", best.signature, reason.unwrap_or_default())
}

/// Whether `k` of the requirements are met by different signers.
fn at_least(mut judged: Judged, k: usize, of: Vec<Judged>) -> Judged {
    let mut names = BTreeSet::new();
    let mut met = 0;
    // Who could count for one requirement only goes first.
    let mut order: Vec<&Judged> = of.iter().filter(|one| one.met).collect();
    order.sort_by_key(|one| one.signers.len());
    for one in order {
        // The first that counted for no requirement before.
        let fresh = one.signers.iter().find(|signer| !names.contains(&signer.name));
        if let Some(signer) = fresh {
            names.insert(signer.name.clone());
            judged.signers.push(signer.clone());
            met += 1;
        }
    }
    judged.met = met >= k;
    judged.reason = format!("{met} of {k} different signers");
    judged.of = of;
    judged
}
