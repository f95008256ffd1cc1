//! A token in, a secret out: sealed for the key that the evidence was bound to.

use std::sync::PoisonError;

use coffer_attestation::handshake::{Ear, Sealed, TeeKey};
use coffer_attestation::time::UnixTime;
use getrandom::SysRng;
use serde_json::{Value, json};

use super::refusal::Refusal;
use super::verifier::Verifier;
use crate::secrets::{ResourcePath, Revocation};

impl Verifier {
    /// `GET /kbs/v0/resource/…`: `path` without a leading slash, `token` from the header or the cookie.
    ///
    /// # Errors
    /// [`Refusal`]. Whether a secret exists is not told to whom it would not be given.
    pub fn resource(&self, path: &str, token: Option<&str>, now: UnixTime) -> Result<Sealed, Refusal> {
        let Some(token) = token else {
            return Err(Refusal::Unauthenticated { reason: "attest first".to_owned() });
        };
        let shown: String = path.chars().take(400).collect();
        let mut event = json!({ "event": "release", "path": shown });
        let verified = self.token_key.public().verify(token, now);
        let verified = verified.map_err(|error| self.refuse(now, event.clone(), error.into()))?;
        let ear = verified.claims();
        set(&mut event, "token", json!(ear.jti));
        let found = self.release(path, ear, now);
        let (sealed, version) = found.map_err(|refusal| self.refuse(now, event.clone(), refusal))?;
        set(&mut event, "outcome", json!("released"));
        set(&mut event, "version", json!(version));
        self.record(now, &event)?;
        Ok(sealed)
    }

    fn release(&self, path: &str, ear: &Ear, now: UnixTime) -> Result<(Sealed, u64), Refusal> {
        let path: ResourcePath = path
            .parse()
            .map_err(|error: crate::secrets::PathError| Refusal::Malformed { reason: error.to_string() })?;
        let guest =
            Guest::of(ear).ok_or(Refusal::Denied { reason: "the token does not affirm a known guest" })?;
        self.check_tenant(&guest, path.tenant())?;
        self.check_revoked(&guest, ear)?;
        let found = self.store.get(&path, None, now)?;
        let sealed = Sealed::seal(&guest.key, found.secret.expose(), &mut SysRng);
        let sealed = sealed.map_err(|_| Refusal::Unavailable { reason: "nothing could be sealed" })?;
        Ok((sealed, found.version))
    }

    /// Held against what is known now, not when the token was made.
    fn check_tenant(&self, guest: &Guest, tenant: &str) -> Result<(), Refusal> {
        let references = self.references.read().unwrap_or_else(PoisonError::into_inner);
        let known = references.reference.iter().find(|known| known.name == guest.reference);
        let known = known.filter(|known| known.measurement.as_ref() == Some(&guest.measurement));
        match known {
            None => Err(Refusal::Denied { reason: "the guest is not known any more: attest again" }),
            Some(known) if known.tenants.iter().any(|of| of == tenant) => Ok(()),
            Some(_) => Err(Refusal::Denied { reason: "the guest may not have secrets of this tenant" }),
        }
    }

    fn check_revoked(&self, guest: &Guest, ear: &Ear) -> Result<(), Refusal> {
        if self.store.is_revoked(Revocation::Token, &ear.jti)? {
            return Err(Refusal::Unauthenticated { reason: "the token was revoked".to_owned() });
        }
        if self.store.is_revoked(Revocation::Measurement, &guest.measurement)? {
            return Err(Refusal::Denied { reason: "the guest's measurement was revoked" });
        }
        Ok(())
    }
}

/// What a token affirms.
struct Guest {
    reference: String,
    measurement: String,
    key: TeeKey,
}

impl Guest {
    /// `None` unless the token affirms one.
    fn of(ear: &Ear) -> Option<Self> {
        let submodule = ear.processor().filter(|processor| processor.status == "affirming")?;
        let evidence = &submodule.evidence;
        let known = evidence.get("coffer")?;
        let text = |name| known.get(name).and_then(Value::as_str).map(str::to_owned);
        let key = evidence.get("runtime_data_claims")?.get("tee-pubkey")?;
        Some(Self {
            reference: text("reference")?,
            measurement: text("measurement")?,
            key: TeeKey::parse(key).ok()?,
        })
    }
}

fn set(event: &mut Value, name: &str, value: Value) {
    if let Some(members) = event.as_object_mut() {
        members.insert(name.to_owned(), value);
    }
}
