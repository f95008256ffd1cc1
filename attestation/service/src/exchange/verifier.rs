//! What a verifier is made of.

use std::sync::{Mutex, PoisonError, RwLock};

use coffer_attestation::handshake::{Challenge, PublicTokenKey, Request, TokenKey};
use coffer_attestation::time::UnixTime;
use serde_json::{Value, json};

use super::refusal::Refusal;
use crate::appraisal::{References, Trust};
use crate::audit::{AuditLog, LogError};
use crate::challenge::Challenger;
use crate::secrets::SecretStore;

/// Everything that a verifier needs.
pub struct Parts {
    /// Gives out challenges.
    pub challenger: Challenger,
    /// Whom it believes.
    pub trust: Trust,
    /// Which guests it knows.
    pub references: References,
    /// Signs tokens.
    pub token_key: TokenKey,
    /// How long a token is good, in seconds.
    pub token_lifetime: u64,
    /// Keeps secrets.
    pub store: SecretStore,
    /// Remembers decisions.
    pub audit: AuditLog,
}

/// A verifier. Every message may come from many threads at once.
pub struct Verifier {
    pub(super) challenger: Challenger,
    pub(super) trust: Trust,
    pub(super) references: RwLock<References>,
    pub(super) token_key: TokenKey,
    pub(super) token_lifetime: u64,
    pub(super) store: SecretStore,
    audit: Mutex<AuditLog>,
}

impl Verifier {
    /// Puts one together.
    pub fn new(parts: Parts) -> Self {
        Self {
            challenger: parts.challenger,
            trust: parts.trust,
            references: RwLock::new(parts.references),
            token_key: parts.token_key,
            token_lifetime: parts.token_lifetime,
            store: parts.store,
            audit: Mutex::new(parts.audit),
        }
    }

    /// `POST /kbs/v0/auth`: a challenge for whoever asks.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn auth(&self, body: &[u8], now: UnixTime) -> Result<Challenge, Refusal> {
        let request = Request::parse(body)?;
        Ok(self.challenger.issue(&request, now)?)
    }

    /// Replaces what is known. Tokens of guests that are not known any more open nothing from now on.
    pub fn set_references(&self, references: References) {
        *self.references.write().unwrap_or_else(PoisonError::into_inner) = references;
    }

    /// The keys that tokens are verified with, as a JSON Web Key Set.
    pub fn token_keys(&self) -> Value {
        json!({ "keys": [self.token_key.public().jwk()] })
    }

    /// The key that tokens are verified with.
    pub fn token_key(&self) -> PublicTokenKey {
        self.token_key.public()
    }

    /// The store, for whoever administers it.
    pub fn store(&self) -> &SecretStore {
        &self.store
    }

    /// Writes a decision down.
    pub(super) fn record(&self, at: UnixTime, what: &Value) -> Result<u64, LogError> {
        self.audit.lock().unwrap_or_else(PoisonError::into_inner).append(at, what)
    }

    /// Writes a refusal down and hands it on; a log that cannot be written is the worse news.
    pub(super) fn refuse(&self, at: UnixTime, mut what: Value, refusal: Refusal) -> Refusal {
        if let Some(members) = what.as_object_mut() {
            members.insert("outcome".to_owned(), json!("refused"));
            members.insert("kind".to_owned(), json!(refusal.kind()));
            members.insert("detail".to_owned(), json!(refusal.to_string()));
        }
        match self.record(at, &what) {
            Ok(_) => refusal,
            Err(error) => error.into(),
        }
    }
}
