//! What operators do to secrets, and the question that everything they do begins with.

use coffer_attestation::time::UnixTime;
use serde_json::{Value, json};

use super::refusal::Refusal;
use super::verifier::{Verifier, set};
use crate::operators::{Kind, Permit, Verb, Who};
use crate::secrets::{Keys, PathError, ResourcePath, Revocation, StoreError};

/// Who asks, and when.
#[derive(Debug, Clone, Copy)]
pub struct By<'a> {
    /// Whose certificate or token was shown.
    pub who: Option<&'a Who>,
    /// Now.
    pub at: UnixTime,
}

impl Verifier {
    /// Keeps a secret as a new version, until `expiry` if there is one. Answers its number.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn put_secret(
        &self,
        by: By<'_>,
        path: &str,
        secret: &[u8],
        expiry: Option<UnixTime>,
    ) -> Result<u64, Refusal> {
        let path = read(path)?;
        let permit = self.permit(by, Verb::Put, Kind::Secret, Some(path.tenant()))?;
        let what = json!({ "path": path.to_string(), "bytes": secret.len(), "expiry": expiry });
        self.record_change(by, &permit, what)?;
        Ok(self.store.put(&path, secret, expiry)?)
    }

    /// Deletes a secret. Answers how many versions it had.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn delete_secret(&self, by: By<'_>, path: &str) -> Result<usize, Refusal> {
        let path = read(path)?;
        let permit = self.permit(by, Verb::Delete, Kind::Secret, Some(path.tenant()))?;
        self.record_change(by, &permit, json!({ "path": path.to_string() }))?;
        match self.store.delete(&path)? {
            0 => Err(Refusal::NotFound),
            versions => Ok(versions),
        }
    }

    /// Names, versions and expiries of a tenant's secrets.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn list_secrets(&self, by: By<'_>, tenant: &str) -> Result<Value, Refusal> {
        self.permit(by, Verb::List, Kind::Secret, Some(tenant))?;
        Ok(json!({ "secrets": self.store.list(tenant)? }))
    }

    /// Counters for Prometheus.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn metrics(&self, by: By<'_>) -> Result<String, Refusal> {
        self.permit(by, Verb::Get, Kind::Metrics, None)?;
        Ok(self.counters.text())
    }

    /// Replaces the key-encryption keys: the current one first. Data keys that another one wraps are wrapped anew, while
    /// secrets are read and written. Answers how many there were. Whoever runs the verifier calls it.
    ///
    /// # Errors
    /// [`StoreError`]; afterwards the new keys are in use all the same, and what the old one wraps is not readable unless it
    /// is among them.
    pub fn replace_keys(&self, keys: Keys) -> Result<usize, StoreError> {
        self.store.set_keys(keys)?;
        self.store.rewrap()
    }

    /// Asks the directory; a no is written down.
    pub(super) fn permit(
        &self,
        by: By<'_>,
        verb: Verb,
        kind: Kind,
        tenant: Option<&str>,
    ) -> Result<Permit, Refusal> {
        let permitted = self
            .check_not_revoked(by.who)
            .and_then(|()| self.operators.permit(by.who, verb, kind, tenant).map_err(Refusal::from));
        permitted.map_err(|refusal| {
            let tenant = tenant.map(|tenant| tenant.chars().take(128).collect::<String>());
            let event = json!({
                "event": verb.name(), "of": kind.name(), "tenant": tenant, "operator": by.who.map(Who::name),
            });
            self.refuse(by.at, event, refusal)
        })
    }

    /// Certificates are revoked by their serial number, operators by their name, whatever they show.
    fn check_not_revoked(&self, who: Option<&Who>) -> Result<(), Refusal> {
        let Some(who) = who else { return Ok(()) };
        let serial = match who {
            Who::Certificate { serial, .. } => Some((Revocation::Certificate, serial.as_str())),
            Who::Token { .. } => None,
        };
        let names: Vec<_> = serial.into_iter().chain([(Revocation::Operator, who.name())]).collect();
        self.none_revoked(&names)
    }

    /// Writes down that something is changed, and how; before it is.
    pub(super) fn record_change(&self, by: By<'_>, permit: &Permit, what: Value) -> Result<(), Refusal> {
        let mut event = what;
        set(&mut event, "event", json!(permit.verb().name()));
        set(&mut event, "of", json!(permit.kind().name()));
        set(&mut event, "tenant", json!(permit.tenant()));
        set(&mut event, "operator", json!(permit.operator()));
        self.record(by.at, &event)?;
        Ok(())
    }
}

fn read(path: &str) -> Result<ResourcePath, Refusal> {
    path.parse().map_err(|error: PathError| Refusal::Malformed { reason: error.to_string() })
}
