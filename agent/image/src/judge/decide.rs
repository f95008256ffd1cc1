//! Goes through the requirements of the rule that decides.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::{Appraisal, Checks, Claims, Outcome, Verdict};

use super::verdict::{Attempt, Decision, Judged, Judgement, Signer};
use crate::artefact::{Attached, Evidence, Subject};
use crate::notation::{self, Envelope};
use crate::openpgp::Message;
use crate::policy::{Kind, Notation, Policy, Predicate, Requirement, SignedBy, Sigstore};
use crate::sigstore::{self, Signed};
use crate::simple_signing;
use crate::work::Work;

const NO_SIGNATURE: &str = "no signature of this kind is attached to the image";

/// Judges the image `subject` by `policy` with the signatures in `evidence`, as of `at`. What that costs is bounded by
/// [`MAX_VERIFICATIONS`](crate::MAX_VERIFICATIONS), whatever the evidence is.
pub fn judge(policy: &Policy, subject: Subject, evidence: &Evidence, at: UnixTime) -> Judgement {
    let rule = policy.rule_for(subject.reference());
    let objects = if rule.looks_at_signatures() { Object::read_all(evidence) } else { Vec::new() };
    let case = Case { subject: &subject, objects, at, work: Work::default() };
    let requirements: Vec<Judged> = rule.requirements.iter().map(|wanted| case.judge(wanted)).collect();
    let all_met = !requirements.is_empty() && requirements.iter().all(|judged| judged.met);
    let verifications = case.work.done();
    Judgement {
        decision: if all_met { Decision::Admitted } else { Decision::Refused },
        image: subject.reference().to_string(),
        digest: *subject.digest(),
        at,
        rule: rule.pointer.clone(),
        requirements,
        verifications,
        subject,
    }
}

struct Case<'a> {
    subject: &'a Subject,
    objects: Vec<Object<'a>>,
    at: UnixTime,
    work: Work,
}

/// A signature object that was read, once for all requirements.
struct Object<'a> {
    place: usize,
    attached: &'a Attached,
    content: Content,
}

enum Content {
    Sigstore(Result<Box<Signed>, String>),
    Notation(Result<Box<Envelope>, String>),
    OpenPgp(Result<Box<Message>, String>),
}

impl<'a> Object<'a> {
    /// All that this code knows the kind of.
    fn read_all(evidence: &'a Evidence) -> Vec<Self> {
        let all = evidence.attached().iter().enumerate();
        all.filter_map(|(place, attached)| Some(Self { place, attached, content: Content::read(attached)? }))
            .collect()
    }
}

impl Content {
    fn read(attached: &Attached) -> Option<Self> {
        let sigstore = Signed::read(attached)
            .map(|read| Self::Sigstore(read.map(Box::new).map_err(|error| error.to_string())));
        let notation = || {
            let envelope = Envelope::read(attached)?;
            Some(Self::Notation(envelope.map(Box::new).map_err(|error| error.to_string())))
        };
        let message = || {
            let message = Message::read(attached)?;
            Some(Self::OpenPgp(message.map(Box::new).map_err(|error| error.to_string())))
        };
        sigstore.or_else(notation).or_else(message)
    }
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
            Kind::SignedBy(by) => conclude(plain(false, ""), self.messages(by), NO_SIGNATURE.to_owned()),
            Kind::AtLeast { k, of } => {
                let of: Vec<Judged> = of.iter().map(|(_, wanted)| self.judge(wanted)).collect();
                at_least(plain(false, ""), *k, of)
            }
        }
    }

    /// Holds every signature of the kind against the requirement. A statement of another type is another thing, no attempt.
    fn attempts(&self, wanted: &Sigstore) -> Vec<(Attempt, Option<Signer>)> {
        let fits = |signed: &Signed| match &wanted.predicate {
            Predicate::Signature => true,
            Predicate::Attestation(kind) => signed.predicate() == Some(kind),
        };
        let held = self.objects.iter().filter_map(|object| match &object.content {
            Content::Sigstore(Ok(signed)) if fits(signed) => {
                let found = sigstore::verify(wanted, signed, self.subject, self.at, &self.work);
                let signer = found.signer.map(|name| Signer { name, time: found.time });
                Some((attempt(object, found.checks), signer))
            }
            Content::Sigstore(Err(error)) => Some(unreadable(object, error)),
            _ => None,
        });
        held.collect()
    }

    /// The same for Notation's.
    fn envelopes(&self, wanted: &Notation) -> Vec<(Attempt, Option<Signer>)> {
        let held = self.objects.iter().filter_map(|object| match &object.content {
            Content::Notation(Ok(envelope)) => {
                let (checks, name, time) =
                    notation::verify(wanted, envelope, self.subject, self.at, &self.work);
                Some((attempt(object, checks), name.map(|name| Signer { name, time })))
            }
            Content::Notation(Err(error)) => Some(unreadable(object, error)),
            Content::Sigstore(_) | Content::OpenPgp(_) => None,
        });
        held.collect()
    }

    /// The same for OpenPGP's messages.
    fn messages(&self, wanted: &SignedBy) -> Vec<(Attempt, Option<Signer>)> {
        let held = self.objects.iter().filter_map(|object| match &object.content {
            Content::OpenPgp(Ok(message)) => {
                let (checks, name) =
                    simple_signing::verify(wanted, message, self.subject, self.at, &self.work);
                // When it was made is the signer's own word.
                Some((attempt(object, checks), name.map(|name| Signer { name, time: None })))
            }
            Content::OpenPgp(Err(error)) => Some(unreadable(object, error)),
            Content::Sigstore(_) | Content::Notation(_) => None,
        });
        held.collect()
    }
}

fn unreadable(object: &Object<'_>, error: &str) -> (Attempt, Option<Signer>) {
    let mut checks = Checks::default();
    checks.record("form", Outcome::Failed, "a signature that can be read", error);
    (attempt(object, checks), None)
}

fn attempt(object: &Object<'_>, checks: Checks) -> Attempt {
    let signature = format!("{} {}", object.attached.kind(), object.place);
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
    let passed = |attempt: &Attempt| {
        attempt.appraisal.checks().iter().filter(|check| check.result == Outcome::Passed).count()
    };
    // The first of those that came equally far.
    let Some(best) = attempts.iter().min_by_key(|attempt| Reverse(passed(attempt))) else { return missing };
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
