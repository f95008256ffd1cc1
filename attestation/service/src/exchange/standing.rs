//! Whether a guest is still what its token says: asked at each release, and by guests themselves.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use coffer_attestation::time::UnixTime;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::guest::{Guest, Identity};
use super::refusal::Refusal;
use super::verifier::Verifier;
use crate::appraisal::References;
use crate::secrets::Revocation;

impl Verifier {
    /// `GET /coffer/v1/standing`: what a guest must know to keep the secrets that it has. A refusal with status 403 says
    /// that it must drop them; one with 401, that it must attest again before it knows.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn standing(&self, token: Option<&str>, now: UnixTime) -> Result<Value, Refusal> {
        let Some(token) = token else {
            return Err(Refusal::Unauthenticated { reason: "attest first".to_owned() });
        };
        let verified = self.token_key.public().verify(token, now)?;
        let guest = Guest::of(verified.claims())
            .ok_or(Refusal::Denied { reason: "the token does not affirm a known guest" })?;
        self.check_standing(&guest)?;
        Ok(json!({ "standing": "good", "expires": UnixTime(verified.claims().exp) }))
    }

    /// Marks a change after which guests may stand otherwise. It comes after the change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Held against what is known now, not when the token was made.
    pub(super) fn check_standing(&self, guest: &Guest) -> Result<(), Refusal> {
        self.catch_up()?;
        let references = self.references.read().unwrap_or_else(PoisonError::into_inner);
        let known = references.reference.iter().find(|known| known.name == guest.reference);
        let known =
            known.map(|known| (known.digest(), known.signed_by.as_ref().map(|signer| signer.id.clone())));
        drop(references);
        // A signer's values count for nothing once it is revoked, whoever else signed the same.
        let signer = known.as_ref().and_then(|(_, signer)| signer.as_deref());
        let signer = signer.map(|id| (Revocation::Signer, id));
        let token = [(Revocation::Token, guest.token.as_str())];
        let names: Vec<_> = token.into_iter().chain(guest.identity.names()).chain(signer).collect();
        self.none_revoked(&names)?;
        match &known {
            Some((digest, _)) if *digest == guest.reference_digest => Ok(()),
            Some(_) => Err(Refusal::Unauthenticated {
                reason: format!("the reference {:?} is another one now: attest again", guest.reference),
            }),
            None => Err(Refusal::Denied { reason: "the guest is not known any more: attest again" }),
        }
    }

    /// Keys of those who signed references and were revoked.
    pub(super) fn revoked_signers(&self, references: &References) -> Result<BTreeSet<String>, Refusal> {
        let signed = references.reference.iter().filter_map(|reference| reference.signed_by.as_ref());
        let signers: BTreeSet<&String> = signed.map(|by| &by.id).collect();
        let mut revoked = BTreeSet::new();
        for id in signers {
            if self.store.is_revoked(Revocation::Signer, id)? {
                revoked.insert(id.clone());
            }
        }
        Ok(revoked)
    }

    pub(super) fn check_revoked(&self, identity: &Identity) -> Result<(), Refusal> {
        self.none_revoked(&identity.names().collect::<Vec<_>>())
    }

    pub(super) fn none_revoked(&self, names: &[(Revocation, &str)]) -> Result<(), Refusal> {
        match self.store.first_revoked(names)? {
            Some(kind) => Err(Refusal::Revoked { what: kind.name() }),
            None => Ok(()),
        }
    }

    pub(super) fn check_tenant(&self, guest: &Guest, tenant: &str) -> Result<(), Refusal> {
        let references = self.references.read().unwrap_or_else(PoisonError::into_inner);
        let known = references.reference.iter().find(|known| known.name == guest.reference);
        match known {
            Some(known) if known.is_for(tenant) => Ok(()),
            _ => Err(Refusal::Denied { reason: "the guest may not have secrets of this tenant" }),
        }
    }
}
