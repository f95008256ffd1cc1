//! What a verifier is made of.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError, RwLock};

use coffer_attestation::handshake::{Challenge, PublicTokenKey, Request, TokenKey};
use coffer_attestation::time::UnixTime;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::counters::Counters;
use super::refusal::Refusal;
use crate::appraisal::{References, Signers, Trust};
use crate::audit::{AuditLog, Journal, LogError};
use crate::challenge::Challenger;
use crate::operators::Directory;
use crate::policy::{Policies, Recorded};
use crate::secrets::SecretStore;

/// Everything that a verifier needs.
pub struct Parts {
    /// Gives out challenges.
    pub challenger: Challenger,
    /// Whom it believes.
    pub trust: Trust,
    /// Which guests it knows without any that operators added.
    pub references: References,
    /// Who may sign those that operators add.
    pub signers: Signers,
    /// Signs tokens.
    pub token_key: TokenKey,
    /// How long a token is good, in seconds.
    pub token_lifetime: u64,
    /// Keeps secrets, and what operators added.
    pub store: SecretStore,
    /// Remembers decisions.
    pub audit: AuditLog,
    /// Signs checkpoints of the log.
    pub audit_key: p256::ecdsa::SigningKey,
    /// Who may administer.
    pub operators: Directory,
}

/// A verifier. Every message may come from many threads at once.
pub struct Verifier {
    pub(super) challenger: Challenger,
    pub(super) trust: Trust,
    /// Those of the file.
    pub(super) given: RwLock<Given>,
    /// Those of the file and those that operators added.
    pub(super) references: RwLock<References>,
    pub(super) policies: RwLock<Policies>,
    /// Which state of the documents that replicas share those are of.
    pub(super) caught_up: AtomicU64,
    pub(super) recorded: Mutex<Recorded>,
    pub(super) token_key: TokenKey,
    pub(super) token_lifetime: u64,
    pub(super) store: SecretStore,
    pub(super) audit: Journal,
    pub(super) audit_key: p256::ecdsa::SigningKey,
    pub(super) operators: Directory,
    pub(super) changed: watch::Sender<u64>,
    pub(super) counters: Counters,
}

/// What whoever runs the verifier says about guests.
#[derive(Debug, Clone, Default)]
pub(super) struct Given {
    pub(super) references: References,
    pub(super) signers: Signers,
}

impl Verifier {
    /// Puts one together.
    ///
    /// # Errors
    /// [`Refusal`], when what operators added cannot be read, or does not fit what is given.
    pub fn new(parts: Parts) -> Result<Self, Refusal> {
        let verifier = Self {
            challenger: parts.challenger,
            trust: parts.trust,
            given: RwLock::default(),
            references: RwLock::default(),
            policies: RwLock::default(),
            // No state: the first who asks reads.
            caught_up: AtomicU64::new(u64::MAX),
            recorded: Mutex::default(),
            token_key: parts.token_key,
            token_lifetime: parts.token_lifetime,
            store: parts.store,
            audit: Journal::new(parts.audit),
            audit_key: parts.audit_key,
            operators: parts.operators,
            changed: watch::Sender::new(0),
            counters: Counters::default(),
        };
        verifier.set_references(parts.references, parts.signers)?;
        verifier.read_policies()?;
        Ok(verifier)
    }

    /// `POST /kbs/v0/auth`: a challenge for whoever asks.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn auth(&self, body: &[u8], now: UnixTime) -> Result<Challenge, Refusal> {
        let request = Request::parse(body)?;
        let challenge = self.challenger.issue(&request, now)?;
        self.counters.count("auth", "challenge");
        Ok(challenge)
    }

    /// Replaces what is given, and who may sign what operators add: what they added before counts only if one of these signed
    /// it. Tokens of guests that are not known any more open nothing from now on.
    ///
    /// # Errors
    /// [`Refusal`], when what operators added does not fit; then nothing changes.
    pub fn set_references(&self, references: References, signers: Signers) -> Result<(), Refusal> {
        let given = Given { references, signers };
        let mut current = self.given.write().unwrap_or_else(PoisonError::into_inner);
        let all = self.with_added(&given)?;
        *current = given;
        *self.references.write().unwrap_or_else(PoisonError::into_inner) = all;
        drop(current);
        self.tell_guests();
        Ok(())
    }

    /// Has files that were put into the cache of collateral seen.
    pub fn forget_collateral(&self) {
        if let Some(collateral) = &self.trust.collateral {
            collateral.cache().forget();
        }
    }

    /// Wakes guests that wait to hear that they stand otherwise.
    pub(super) fn tell_guests(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// The keys that tokens are verified with, as a JSON Web Key Set.
    pub fn token_keys(&self) -> Value {
        json!({ "keys": [self.token_key.public().jwk()] })
    }

    /// The key that tokens are verified with.
    pub fn token_key(&self) -> PublicTokenKey {
        self.token_key.public()
    }

    /// The store, for whoever runs the verifier.
    pub fn store(&self) -> &SecretStore {
        &self.store
    }

    /// Counters of what was decided.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Writes a decision down, and counts it.
    pub(super) fn record(&self, at: UnixTime, what: &Value) -> Result<u64, LogError> {
        let number = self.audit.record(at, what)?;
        let text = |name| what.get(name).and_then(Value::as_str);
        let outcome = text("kind").filter(|_| text("outcome") == Some("refused")).or(text("outcome"));
        self.counters.count(text("event").unwrap_or("other"), outcome.unwrap_or("done"));
        Ok(number)
    }

    /// Writes a refusal down and hands it on; a log that cannot be written is the worse news.
    pub(super) fn refuse(&self, at: UnixTime, mut what: Value, refusal: Refusal) -> Refusal {
        set(&mut what, "outcome", json!("refused"));
        set(&mut what, "kind", json!(refusal.kind()));
        set(&mut what, "detail", json!(refusal.to_string()));
        let recorded = match self.record(at, &what) {
            // Whoever was refused has a say in how long the reasons are, but not in whether there is an entry.
            Err(LogError::Entry { .. }) => {
                set(&mut what, "reasons", Value::Null);
                set(&mut what, "detail", json!(refusal.to_string().chars().take(1024).collect::<String>()));
                self.record(at, &what)
            }
            recorded => recorded,
        };
        match recorded {
            Ok(_) => refusal,
            Err(error) => error.into(),
        }
    }
}

/// Sets a member of an object.
pub(super) fn set(event: &mut Value, name: &str, value: Value) {
    if let Some(members) = event.as_object_mut() {
        members.insert(name.to_owned(), value);
    }
}
