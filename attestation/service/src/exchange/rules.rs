//! What operators do to the rules: reference values, policies, revocations.

use std::sync::PoisonError;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::admin::By;
use super::refusal::Refusal;
use super::verifier::{Given, Verifier};
use crate::appraisal::{Reference, References};
use crate::operators::{Kind, Verb};
use crate::policy::{Policies, Purpose, Rules};
use crate::secrets::{Document, Revocation};

const REFERENCES: &str = "reference";
/// The longest name of a policy, a reference or something revoked, in bytes.
const MAX_NAME: usize = 256;

impl Verifier {
    /// Adds or replaces a reference: a signed list of one. Answers its version.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn put_reference(&self, by: By<'_>, text: &str, expected: Option<u64>) -> Result<u64, Refusal> {
        let permit = self.permit(by, Verb::Put, Kind::Reference, None)?;
        // One change at a time: what is put together here must be what is in force afterwards.
        let given = self.given.write().unwrap_or_else(PoisonError::into_inner);
        let reference = given.signers.read_one(text)?;
        check_name(&reference.name)?;
        if let Some(signer) = &reference.signed_by {
            self.none_revoked(&[(Revocation::Signer, &signer.id)])?;
        }
        given.references.and([reference.clone()])?;
        if reference.signed_by.is_none() {
            tracing::warn!(
                reference = reference.name,
                "insecure-unsigned-references: nobody signed what is put"
            );
        }
        let what = json!({ "name": reference.name, "digest": digest(text), "signer": &reference.signed_by });
        self.record_change(by, &permit, what)?;
        let version = self.store.put_document((REFERENCES, &reference.name), text, expected)?;
        let all = self.with_added(&given)?;
        *self.references.write().unwrap_or_else(PoisonError::into_inner) = all;
        drop(given);
        self.tell_guests();
        Ok(version)
    }

    /// Takes a reference away that an operator added. Its guests are not known any more.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn delete_reference(&self, by: By<'_>, name: &str) -> Result<(), Refusal> {
        let permit = self.permit(by, Verb::Delete, Kind::Reference, None)?;
        let given = self.given.write().unwrap_or_else(PoisonError::into_inner);
        if !self.store.documents(REFERENCES)?.iter().any(|document| document.name == name) {
            return Err(Refusal::NotFound);
        }
        self.record_change(by, &permit, json!({ "name": name }))?;
        self.store.put_document((REFERENCES, name), "", None)?;
        let all = self.with_added(&given)?;
        *self.references.write().unwrap_or_else(PoisonError::into_inner) = all;
        drop(given);
        self.tell_guests();
        Ok(())
    }

    /// Every reference that is in force, and every version of those that operators added.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn list_references(&self, by: By<'_>) -> Result<Value, Refusal> {
        self.permit(by, Verb::List, Kind::Reference, None)?;
        self.catch_up()?;
        let in_force = self.references.read().unwrap_or_else(PoisonError::into_inner);
        let revoked = self.revoked_signers(&in_force)?;
        let in_force = in_force.with_revoked(&revoked);
        let names: Vec<&str> = in_force.reference.iter().map(|known| known.name.as_str()).collect();
        let signed = in_force.reference.iter().map(|known| (known.name.clone(), json!(known.signed_by)));
        let signed: Map<String, Value> = signed.collect();
        let added = self.store.document_versions(REFERENCES, None)?;
        Ok(json!({ "in_force": names, "signed_by": signed, "added": added }))
    }

    /// Puts a policy in force. `name` is a tenant, or `*`. Answers its version.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn put_policy(
        &self,
        by: By<'_>,
        (purpose, name): (&str, &str),
        text: &str,
        expected: Option<u64>,
    ) -> Result<u64, Refusal> {
        let place = place(purpose, name)?;
        let permit = self.permit(by, Verb::Put, Kind::Policy, tenant_of(place.1))?;
        Rules::compile(place.0, text)?;
        let what = json!({ "purpose": purpose, "name": name, "digest": digest(text) });
        self.change_policy(place, text, expected, || self.record_change(by, &permit, what))
    }

    /// Takes a policy out of force.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn delete_policy(&self, by: By<'_>, (purpose, name): (&str, &str)) -> Result<(), Refusal> {
        let place = place(purpose, name)?;
        let permit = self.permit(by, Verb::Delete, Kind::Policy, tenant_of(place.1))?;
        let known = self.store.documents(collection(place.0))?;
        if !known.iter().any(|document| document.name == name) {
            return Err(Refusal::NotFound);
        }
        let what = json!({ "purpose": purpose, "name": name });
        self.change_policy(place, "", None, || self.record_change(by, &permit, what)).map(|_| ())
    }

    /// Every version of a policy, oldest first.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn policy_versions(&self, by: By<'_>, (purpose, name): (&str, &str)) -> Result<Value, Refusal> {
        let (purpose, name) = place(purpose, name)?;
        self.permit(by, Verb::Get, Kind::Policy, tenant_of(name))?;
        Ok(json!({ "versions": self.store.document_versions(collection(purpose), Some(name))? }))
    }

    /// Compiles a policy and asks it what was asked lately; nothing changes.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn test_policy(
        &self,
        by: By<'_>,
        (purpose, name): (&str, &str),
        text: &str,
    ) -> Result<Value, Refusal> {
        let (purpose, name) = place(purpose, name)?;
        self.permit(by, Verb::Test, Kind::Policy, tenant_of(name))?;
        let rules = Rules::compile(purpose, text)?;
        let recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let replayed = recorded.replay(purpose, tenant_of(name), &rules);
        drop(recorded);
        let changed = replayed.iter().filter(|one| one.was_allowed != one.would_be_allowed).count();
        Ok(json!({ "asked": replayed.len(), "changed": changed, "replayed": replayed }))
    }

    /// Revokes. It is in force for every request that begins after this returns.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn revoke(&self, by: By<'_>, kind: Revocation, name: &str) -> Result<(), Refusal> {
        let permit = self.permit(by, Verb::Put, Kind::Revocation, None)?;
        check_name(name)?;
        let name = kind.canonical(name).ok_or_else(|| {
            let reason = format!("what is revoked as {} is named in hexadecimal", kind.name());
            Refusal::Malformed { reason }
        })?;
        self.record_change(by, &permit, json!({ "what": kind.name(), "name": name }))?;
        self.store.revoke(kind, &name, by.at)?;
        self.tell_guests();
        Ok(())
    }

    /// Everything that was revoked.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn list_revoked(&self, by: By<'_>) -> Result<Value, Refusal> {
        self.permit(by, Verb::List, Kind::Revocation, None)?;
        Ok(json!({ "revoked": self.store.revoked()? }))
    }

    /// What is given, and what operators added. Of that what nobody vouches for any more counts for nothing.
    pub(super) fn with_added(&self, given: &Given) -> Result<References, Refusal> {
        let added = self.store.documents(REFERENCES)?;
        let read = |document: &Document| match given.signers.read_one(&document.text) {
            Ok(reference) => Some(reference),
            Err(error) => {
                let name = document.name.as_str();
                tracing::warn!(name, %error, "a reference that was added counts for nothing");
                None
            }
        };
        Ok(given.references.and(added.iter().filter_map(read).collect::<Vec<Reference>>())?)
    }

    /// Compiles every policy that is kept. One that does not compile stops the verifier: without it more would be allowed.
    pub(super) fn read_policies(&self) -> Result<(), Refusal> {
        let mut policies = Policies::default();
        for purpose in [Purpose::Appraisal, Purpose::Release] {
            for kept in self.store.documents(collection(purpose))? {
                policies.set(purpose, &kept.name, kept.version, &kept.text)?;
            }
        }
        *self.policies.write().unwrap_or_else(PoisonError::into_inner) = policies;
        Ok(())
    }

    fn change_policy(
        &self,
        (purpose, name): (Purpose, &str),
        text: &str,
        expected: Option<u64>,
        record: impl FnOnce() -> Result<(), Refusal>,
    ) -> Result<u64, Refusal> {
        // Held over the whole change: decisions wait, and see all of it or nothing.
        let mut policies = self.policies.write().unwrap_or_else(PoisonError::into_inner);
        record()?;
        let version = self.store.put_document((collection(purpose), name), text, expected)?;
        match text {
            "" => policies.remove(purpose, name),
            text => policies.set(purpose, name, version, text)?,
        }
        Ok(version)
    }
}

fn collection(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Appraisal => "policy/appraisal",
        Purpose::Release => "policy/release",
    }
}

/// Appraisal happens before a tenant is known: its one policy is that of all.
fn place<'a>(purpose: &str, name: &'a str) -> Result<(Purpose, &'a str), Refusal> {
    let purpose = Purpose::of(purpose).ok_or(Refusal::NotFound)?;
    check_name(name)?;
    if purpose == Purpose::Appraisal && name != "*" {
        return Err(Refusal::Malformed {
            reason: "the policy for appraisal is that of all: name it *".to_owned(),
        });
    }
    Ok((purpose, name))
}

fn tenant_of(name: &str) -> Option<&str> {
    Some(name).filter(|name| *name != "*")
}

fn check_name(name: &str) -> Result<(), Refusal> {
    if (1..=MAX_NAME).contains(&name.len()) {
        return Ok(());
    }
    Err(Refusal::Malformed { reason: format!("a name has 1 to {MAX_NAME} bytes") })
}

fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}
