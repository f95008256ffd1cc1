//! A token in, a secret out: sealed for the key that the evidence was bound to.

use std::sync::PoisonError;

use coffer_attestation::handshake::{Ear, Sealed, Tee};
use coffer_attestation::time::UnixTime;
use getrandom::SysRng;
use serde_json::{Value, json};

use super::guest::Guest;
use super::refusal::Refusal;
use super::verifier::{Verifier, set};
use crate::appraisal::{Reference, all_that_hold};
use crate::policy::Purpose;
use crate::secrets::{PathError, ResourcePath};

impl Verifier {
    /// `GET /kbs/v0/resource/…`: `path` without a leading slash, `token` from the header or the cookie, the newest version
    /// unless one is named.
    ///
    /// # Errors
    /// [`Refusal`]. Whether a secret exists is not told to whom it would not be given.
    pub fn resource(
        &self,
        path: &str,
        version: Option<u64>,
        token: Option<&str>,
        now: UnixTime,
    ) -> Result<Sealed, Refusal> {
        let Some(token) = token else {
            return Err(Refusal::Unauthenticated { reason: "attest first".to_owned() });
        };
        let shown: String = path.chars().take(400).collect();
        let mut event = json!({ "event": "release", "path": shown });
        let verified = self.token_key.public().verify(token, now);
        let verified = verified.map_err(|error| self.refuse(now, event.clone(), error.into()))?;
        let ear = verified.claims();
        set(&mut event, "token", json!(ear.jti));
        let found = self.release((path, version), ear, &mut event, now);
        let (sealed, version) = found.map_err(|refusal| self.refuse(now, event.clone(), refusal))?;
        set(&mut event, "outcome", json!("released"));
        set(&mut event, "version", json!(version));
        self.record(now, &event)?;
        Ok(sealed)
    }

    fn release(
        &self,
        (path, version): (&str, Option<u64>),
        ear: &Ear,
        event: &mut Value,
        now: UnixTime,
    ) -> Result<(Sealed, u64), Refusal> {
        let path: ResourcePath =
            path.parse().map_err(|error: PathError| Refusal::Malformed { reason: error.to_string() })?;
        let guest =
            Guest::of(ear).ok_or(Refusal::Denied { reason: "the token does not affirm a known guest" })?;
        set(event, "sandbox", json!(guest.identity.sandbox));
        set(event, "reference", json!(guest.reference));
        self.check_standing(&guest)?;
        self.check_tenant(&guest, path.tenant())?;
        self.check_images(&guest, &path)?;
        self.check_policy(&guest, &path, event, now)?;
        let found = self.store.get(&path, version, now)?;
        let sealed = Sealed::seal(&guest.key, found.secret.expose(), &mut SysRng);
        let sealed = sealed.map_err(|_| Refusal::Unavailable { reason: "nothing could be sealed" })?;
        Ok((sealed, found.version))
    }

    /// By every reference that the guest is now, not only the one that its token names: a rule that came later, or stands behind
    /// another reference, must not be silent.
    fn check_images(&self, guest: &Guest, path: &ResourcePath) -> Result<(), Refusal> {
        let unknown = || Refusal::Denied { reason: "the guest is not known any more: attest again" };
        let tee = Tee::from_name(&guest.tee).ok_or_else(unknown)?;
        let references = self.references.read().unwrap_or_else(PoisonError::into_inner);
        let rules = |known: &Reference| known.is_for(path.tenant()) && !known.images_signed_by.is_empty();
        if !references.reference.iter().any(rules) {
            return Ok(());
        }
        let references = references.with_revoked(&self.revoked_signers(&references)?);
        let mut named = false;
        for known in all_that_hold(tee, &guest.claims, &references) {
            named = named || known.name == guest.reference;
            if known.is_for(path.tenant()) {
                known.images_signed_by.hold(&known.name, path, guest.images.as_ref())?;
            }
        }
        // The one that the token was made by holds, or the guest would not stand well.
        if named { Ok(()) } else { Err(unknown()) }
    }

    fn check_policy(
        &self,
        guest: &Guest,
        path: &ResourcePath,
        event: &mut Value,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let [tenant, kind, tag] = path.names();
        let input = json!({
            "at": now,
            "path": path.to_string(),
            "tenant": tenant,
            "type": kind,
            "tag": tag,
            "guest": {
                "tee": guest.tee,
                "reference": guest.reference,
                "identity": guest.identity.to_json(),
                "key": guest.key.describe(),
                "images": guest.images,
            },
        });
        let policies = self.policies.read().unwrap_or_else(PoisonError::into_inner);
        let decision = policies.decide(Purpose::Release, Some(tenant), &input);
        drop(policies);
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.keep(Purpose::Release, Some(tenant), &input, decision.allowed);
        drop(recorded);
        set(event, "policies", json!(decision.asked));
        if decision.allowed { Ok(()) } else { Err(Refusal::Denied { reason: "the release policy says no" }) }
    }
}
