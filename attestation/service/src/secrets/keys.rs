//! Who wraps the tenants' keys: a key from a file, or one in a token that never shows it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::envelope::{DataKey, KeyEncryptionKey, KeyId, bound, first_bytes};
use crate::hsm::{HsmError, HsmKey};

/// Data keys that are kept in memory, of one key in a token.
const KEPT: usize = 4096;

/// A service that wraps data keys and unwraps them.
pub trait KeyService: Send + Sync {
    /// Its key's name: another one for each version of the key.
    fn id(&self) -> KeyId;

    /// Wraps a tenant's key. Only the same tenant's opens from what comes out.
    ///
    /// # Errors
    /// [`KeyError`]
    fn wrap(&self, key: &DataKey, tenant: &str) -> Result<Vec<u8>, KeyError>;

    /// Unwraps a tenant's key.
    ///
    /// # Errors
    /// [`KeyError`]
    fn unwrap_key(&self, wrapped: &[u8], tenant: &str) -> Result<DataKey, KeyError>;
}

/// Why a key is not wrapped or unwrapped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Another key wrapped it, or it is another tenant's.
    #[error("the data key does not unwrap")]
    NotOpened,
    /// No randomness.
    #[error("nothing could be encrypted: there is no randomness")]
    Cipher,
    /// The token.
    #[error("the token that holds the key-encryption key does not serve")]
    Token(#[source] HsmError),
}

impl KeyService for KeyEncryptionKey {
    fn id(&self) -> KeyId {
        self.digest(b"coffer kek id 1")
    }

    fn wrap(&self, key: &DataKey, tenant: &str) -> Result<Vec<u8>, KeyError> {
        self.key().seal(key.expose(), &place(tenant)).map_err(|_| KeyError::Cipher)
    }

    fn unwrap_key(&self, wrapped: &[u8], tenant: &str) -> Result<DataKey, KeyError> {
        let opened = self.key().open(wrapped, &place(tenant)).ok_or(KeyError::NotOpened)?;
        DataKey::of(&opened).ok_or(KeyError::NotOpened)
    }
}

/// A key in a token. What it unwrapped is remembered for a while: a token takes milliseconds, and may be away.
pub struct TokenKek {
    key: HsmKey,
    id: KeyId,
    lifetime: Duration,
    known: Mutex<Known>,
}

/// A tenant, and its wrapped key: a key that is wrapped anew is unwrapped anew.
type Wrapped = (String, Vec<u8>);
/// The keys, and until when.
type Known = HashMap<Wrapped, (DataKey, Instant)>;

impl TokenKek {
    /// `lifetime`: how long a data key that was unwrapped is remembered.
    pub fn new(key: HsmKey, lifetime: Duration) -> Self {
        let named = bound("coffer kek id 1: token", &key.names());
        Self { id: first_bytes(&named), key, lifetime, known: Mutex::default() }
    }

    fn known(&self, place: &Wrapped) -> Option<DataKey> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        known.retain(|_, (_, until)| now < *until);
        known.get(place).map(|(key, _)| key.clone())
    }

    fn keep(&self, place: Wrapped, key: &DataKey) {
        let now = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (_, until)| now < *until);
        if known.len() < KEPT {
            known.insert(place, (key.clone(), now + self.lifetime));
        }
    }
}

impl KeyService for TokenKek {
    fn id(&self) -> KeyId {
        self.id
    }

    fn wrap(&self, key: &DataKey, tenant: &str) -> Result<Vec<u8>, KeyError> {
        let wrapped = self.key.seal(key.expose(), &place(tenant))?;
        self.keep((tenant.to_owned(), wrapped.clone()), key);
        Ok(wrapped)
    }

    fn unwrap_key(&self, wrapped: &[u8], tenant: &str) -> Result<DataKey, KeyError> {
        let at = (tenant.to_owned(), wrapped.to_vec());
        if let Some(known) = self.known(&at) {
            return Ok(known);
        }
        let opened = self.key.open_sealed(wrapped, &place(tenant))?;
        let key = DataKey::of(&opened).ok_or(KeyError::NotOpened)?;
        self.keep(at, &key);
        Ok(key)
    }
}

impl From<HsmError> for KeyError {
    fn from(error: HsmError) -> Self {
        match error {
            HsmError::NotOpened { .. } => KeyError::NotOpened,
            other => KeyError::Token(other),
        }
    }
}

/// What a wrapped key is bound to.
fn place(tenant: &str) -> Vec<u8> {
    bound("data key", &[tenant.as_bytes()])
}
