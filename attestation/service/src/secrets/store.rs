//! The store: versions, expiry, deletion, and replacement of the KEK.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use coffer_attestation::time::UnixTime;
use serde::Serialize;

use super::envelope::{DataKey, KeyId, NotEncrypted, Secret, bound};
use super::keys::{KeyError, KeyService};
use super::path::ResourcePath;
use crate::database::{Database, DatabaseError};
use crate::hsm::HsmError;

/// The longest secret, in bytes.
pub const MAX_SECRET_BYTES: usize = 1 << 20;

/// An expiry that never comes.
const NEVER: u64 = u64::MAX;
/// Whose key texts are encrypted with that others could change. No tenant can have this name.
pub(super) const TEXTS: &str = "*";

/// An open store.
pub struct SecretStore {
    pub(super) database: Database,
    /// The current key first, then those that data keys may still be wrapped with.
    keys: RwLock<Keys>,
}

/// Key-encryption keys, the current one first.
pub type Keys = Arc<Vec<Arc<dyn KeyService>>>;

/// One version of a secret, as those may see it who may not see the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Where it is.
    pub path: String,
    /// Its number, from 1.
    pub version: u64,
    /// From when on it cannot be had; `None` is never. As the file says it: nothing vouches for it here.
    pub expiry: Option<UnixTime>,
}

/// One version of a secret.
pub struct Found {
    /// Its number, from 1.
    pub version: u64,
    /// What it is.
    pub secret: Secret,
}

/// Why the store does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database.
    #[error("the secret store cannot be read or written")]
    Database(#[from] DatabaseError),
    /// No such secret or version, or it was deleted.
    #[error("there is no secret {path}")]
    NotFound {
        /// Its path.
        path: ResourcePath,
    },
    /// Too old.
    #[error("the secret {path} expired at {expiry}")]
    Expired {
        /// Its path.
        path: ResourcePath,
        /// When.
        expiry: UnixTime,
    },
    /// Larger than allowed.
    #[error("a secret may have {MAX_SECRET_BYTES} bytes, this one has {found}")]
    TooLong {
        /// Length found.
        found: usize,
    },
    /// No key that opens the tenant's.
    #[error("no key-encryption key that is configured opens the data key of tenant {tenant:?}")]
    WrongKey {
        /// The tenant.
        tenant: String,
    },
    /// The database was changed by somebody else.
    #[error("the secret {path} does not decrypt: the store was changed")]
    Damaged {
        /// Its path.
        path: ResourcePath,
    },
    /// Somebody was faster.
    #[error("the newest version is {found}, another one was expected")]
    Version {
        /// The newest one.
        found: u64,
    },
    /// No randomness.
    #[error("nothing could be encrypted: there is no randomness")]
    Cipher,
    /// The token that has the key.
    #[error("the data key of tenant {tenant:?} needs a token that does not serve")]
    Token {
        /// The tenant.
        tenant: String,
        /// What is wrong.
        source: HsmError,
    },
    /// Two keys that could not be told apart.
    #[error(
        "two key-encryption keys are the same, or have the same names: label of the token, label and id of the key; one of \
         them needs another name"
    )]
    SameKey,
    /// A policy or reference value that no replica wrote.
    #[error("the document {name:?} does not decrypt: the database was changed")]
    Text {
        /// Collection and name.
        name: String,
    },
    /// No key at all.
    #[error("no key-encryption key is configured")]
    NoKey,
}

impl From<NotEncrypted> for StoreError {
    fn from(_: NotEncrypted) -> Self {
        StoreError::Cipher
    }
}

impl SecretStore {
    /// Opens or makes a file. `keys`: the current key first, then older ones that may still be in use.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn open(path: &Path, keys: Keys) -> Result<Self, StoreError> {
        Self::over(Database::embedded(path)?, keys)
    }

    /// The same over a database that is open.
    ///
    /// # Errors
    /// [`StoreError::SameKey`]
    pub fn over(database: Database, keys: Keys) -> Result<Self, StoreError> {
        Ok(Self { database, keys: RwLock::new(distinct(keys)?) })
    }

    /// Where it keeps things.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Keeps `secret` as a new version. Answers its number.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn put(
        &self,
        path: &ResourcePath,
        secret: &[u8],
        expiry: Option<UnixTime>,
    ) -> Result<u64, StoreError> {
        if secret.len() > MAX_SECRET_BYTES {
            return Err(StoreError::TooLong { found: secret.len() });
        }
        let key = self.data_key(path.tenant())?;
        let (name, expiry) = (path.to_string(), expiry.map_or(NEVER, |time| time.0));
        // Each round that somebody else was faster kept a version: nobody waits for nothing.
        loop {
            let version = self.database.last_version(&name)? + 1;
            let sealed = key.seal(secret, &place(path, version, expiry))?;
            let value = [expiry.to_be_bytes().to_vec(), sealed].concat();
            if self.database.add_secret(&name, version, &value)? {
                return Ok(version);
            }
        }
    }

    /// Finds a version, or the newest one that there is.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn get(&self, path: &ResourcePath, version: Option<u64>, now: UnixTime) -> Result<Found, StoreError> {
        let row = self.database.secret(&path.to_string(), version, path.tenant())?;
        let row = row.ok_or_else(|| StoreError::NotFound { path: path.clone() })?;
        let damaged = || StoreError::Damaged { path: path.clone() };
        let (expiry, sealed) = row.value.split_first_chunk().ok_or_else(damaged)?;
        let expiry = u64::from_be_bytes(*expiry);
        let key = self.unwrapped(&row.data_key.ok_or_else(damaged)?, path.tenant())?;
        // Opened before the expiry is believed: it is part of what is authenticated.
        let secret = key.open(sealed, &place(path, row.version, expiry)).ok_or_else(damaged)?;
        if now.0 >= expiry {
            return Err(StoreError::Expired { path: path.clone(), expiry: UnixTime(expiry) });
        }
        Ok(Found { version: row.version, secret: Secret::new(secret) })
    }

    /// Deletes every version. Answers how many there were.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn delete(&self, path: &ResourcePath) -> Result<usize, StoreError> {
        Ok(self.database.delete_secret(&path.to_string())?)
    }

    /// Replaces the keys, for what is read and written from now on: the current one first, then all that data keys may still
    /// be wrapped with.
    ///
    /// # Errors
    /// [`StoreError::SameKey`]; then the keys stay as they are.
    pub fn set_keys(&self, keys: Keys) -> Result<(), StoreError> {
        let keys = distinct(keys)?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    fn keys(&self) -> Keys {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What there is of a tenant, without any secret: each path with the versions that can be had.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn list(&self, tenant: &str) -> Result<Vec<Kept>, StoreError> {
        let all = self.database.secrets(tenant)?.into_iter().map(|row| {
            let expiry = row.expiry.map_or(0, u64::from_be_bytes);
            Kept {
                path: row.path,
                version: row.version,
                expiry: (expiry != NEVER).then_some(UnixTime(expiry)),
            }
        });
        Ok(all.collect())
    }

    /// Wraps every data key that an older KEK wraps with the current one. Secrets stay as they are, and readable
    /// throughout. Answers how many were wrapped anew; afterwards the older KEKs are not needed.
    ///
    /// # Errors
    /// [`StoreError`] of the first that could not be wrapped; all others were.
    pub fn rewrap(&self) -> Result<usize, StoreError> {
        let keys = self.keys();
        let current = keys.first().ok_or(StoreError::NoKey)?;
        let (mut count, mut failure) = (0, None);
        for (tenant, wrapped) in self.database.data_keys()? {
            if wrapped.starts_with(&current.id()) {
                continue;
            }
            match self.rewrap_one(current.as_ref(), &tenant, &wrapped) {
                Ok(anew) => count += usize::from(anew),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(count), Err)
    }

    /// Answers whether it was done here: another replica may have been faster, with one of the same keys.
    fn rewrap_one(&self, current: &dyn KeyService, tenant: &str, wrapped: &[u8]) -> Result<bool, StoreError> {
        let key = self.unwrapped(wrapped, tenant)?;
        let anew = wrapped_by(current, &key, tenant)?;
        Ok(self.database.set_data_key(tenant, Some(wrapped), &anew)?)
    }

    /// Tenants that have a data key.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn tenants(&self) -> Result<BTreeSet<String>, StoreError> {
        let all = self.database.data_keys()?.into_iter().map(|(tenant, _)| tenant);
        Ok(all.filter(|tenant| tenant != TEXTS).collect())
    }

    /// The tenant's key, made if there is none. While a token is waited for nothing else is held up.
    pub(super) fn data_key(&self, tenant: &str) -> Result<DataKey, StoreError> {
        loop {
            if let Some(wrapped) = self.database.data_key(tenant)? {
                return self.unwrapped(&wrapped, tenant);
            }
            let key = DataKey::generate()?;
            let keys = self.keys();
            let current = keys.first().ok_or(StoreError::NoKey)?;
            let wrapped = wrapped_by(current.as_ref(), &key, tenant)?;
            if self.database.set_data_key(tenant, None, &wrapped)? {
                self.wrap_with_newest(current.id(), (tenant, &wrapped), &key)?;
                return Ok(key);
            }
        }
    }

    /// While a new data key was wrapped and kept the keys may have been replaced, and all data keys wrapped anew but this one.
    fn wrap_with_newest(&self, used: KeyId, kept: (&str, &[u8]), key: &DataKey) -> Result<(), StoreError> {
        let (tenant, wrapped) = kept;
        let keys = self.keys();
        let newest = keys.first().ok_or(StoreError::NoKey)?;
        if newest.id() != used {
            let anew = wrapped_by(newest.as_ref(), key, tenant)?;
            self.database.set_data_key(tenant, Some(wrapped), &anew)?;
        }
        Ok(())
    }

    fn unwrapped(&self, wrapped: &[u8], tenant: &str) -> Result<DataKey, StoreError> {
        let wrong = || StoreError::WrongKey { tenant: tenant.to_owned() };
        let (id, sealed) = wrapped.split_first_chunk::<{ size_of::<KeyId>() }>().ok_or_else(wrong)?;
        let keys = self.keys();
        let key = keys.iter().find(|key| key.id() == *id).ok_or_else(wrong)?;
        key.unwrap_key(sealed, tenant).map_err(|error| told(error, tenant))
    }
}

/// Keys that have a name each.
fn distinct(keys: Keys) -> Result<Keys, StoreError> {
    let names: BTreeSet<KeyId> = keys.iter().map(|key| key.id()).collect();
    if names.len() == keys.len() { Ok(keys) } else { Err(StoreError::SameKey) }
}

fn wrapped_by(kek: &dyn KeyService, key: &DataKey, tenant: &str) -> Result<Vec<u8>, StoreError> {
    let wrapped = kek.wrap(key, tenant).map_err(|error| told(error, tenant))?;
    Ok([kek.id().to_vec(), wrapped].concat())
}

fn told(error: KeyError, tenant: &str) -> StoreError {
    let tenant = tenant.to_owned();
    match error {
        KeyError::NotOpened => StoreError::WrongKey { tenant },
        KeyError::Cipher => StoreError::Cipher,
        KeyError::Token(source) => StoreError::Token { tenant, source },
    }
}

/// What a secret's ciphertext is bound to.
fn place(path: &ResourcePath, version: u64, expiry: u64) -> Vec<u8> {
    let name = path.to_string();
    let parts: [&[u8]; 4] =
        [path.tenant().as_bytes(), name.as_bytes(), &version.to_be_bytes(), &expiry.to_be_bytes()];
    bound("secret", &parts)
}
