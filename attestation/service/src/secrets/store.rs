//! The database: versions, expiry, deletion, and replacement of the KEK.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use coffer_attestation::time::UnixTime;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;

use super::envelope::{DataKey, KEK_ID_BYTES, KeyEncryptionKey, NotEncrypted, Secret, bound};
use super::path::ResourcePath;

/// The longest secret, in bytes.
pub const MAX_SECRET_BYTES: usize = 1 << 20;

/// Tenant → id of the KEK ‖ wrapped data key.
const DATA_KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("data-keys");
/// Path and version → expiry, 8 bytes big endian ‖ ciphertext.
const SECRETS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("secrets");
/// Path → the last version given out; it stays when the secret is deleted, so that no number is used twice.
const VERSIONS: TableDefinition<'_, &str, u64> = TableDefinition::new("versions");
/// An expiry that never comes.
const NEVER: u64 = u64::MAX;

/// An open store.
pub struct SecretStore {
    pub(super) database: Database,
    /// The current key first, then those that data keys may still be wrapped with.
    keys: RwLock<Arc<Vec<KeyEncryptionKey>>>,
}

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
    Database(#[source] Box<redb::Error>),
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
    /// No key at all.
    #[error("no key-encryption key is configured")]
    NoKey,
}

impl From<NotEncrypted> for StoreError {
    fn from(_: NotEncrypted) -> Self {
        StoreError::Cipher
    }
}

pub(super) fn failed(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Database(Box::new(error.into()))
}

impl SecretStore {
    /// Opens or makes the database. `keys`: the current key first, then older ones that may still be in use.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn open(path: &Path, keys: Vec<KeyEncryptionKey>) -> Result<Self, StoreError> {
        let database = Database::create(path).map_err(failed)?;
        let write = database.begin_write().map_err(failed)?;
        write.open_table(DATA_KEYS).map_err(failed)?;
        write.open_table(SECRETS).map_err(failed)?;
        write.open_table(VERSIONS).map_err(failed)?;
        write.open_table(super::revoked::REVOKED).map_err(failed)?;
        write.open_table(super::documents::DOCUMENTS).map_err(failed)?;
        write.commit().map_err(failed)?;
        Ok(Self { database, keys: RwLock::new(Arc::new(keys)) })
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
        let write = self.database.begin_write().map_err(failed)?;
        let version = {
            let key = self.data_key_for_writing(&write, path.tenant())?;
            let name = path.to_string();
            let mut versions = write.open_table(VERSIONS).map_err(failed)?;
            let last = versions.get(name.as_str()).map_err(failed)?.map_or(0, |guard| guard.value());
            let version = last + 1;
            let expiry = expiry.map_or(NEVER, |time| time.0);
            let sealed = key.seal(secret, &place(path, version, expiry))?;
            let value = [expiry.to_be_bytes().to_vec(), sealed].concat();
            let mut secrets = write.open_table(SECRETS).map_err(failed)?;
            secrets.insert((name.as_str(), version), value.as_slice()).map_err(failed)?;
            versions.insert(name.as_str(), version).map_err(failed)?;
            version
        };
        write.commit().map_err(failed)?;
        Ok(version)
    }

    /// Finds a version, or the newest one that there is.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn get(&self, path: &ResourcePath, version: Option<u64>, now: UnixTime) -> Result<Found, StoreError> {
        let read = self.database.begin_read().map_err(failed)?;
        let secrets = read.open_table(SECRETS).map_err(failed)?;
        let name = path.to_string();
        let (from, to) = version.map_or((0, u64::MAX), |version| (version, version));
        let range = secrets.range((name.as_str(), from)..=(name.as_str(), to)).map_err(failed)?;
        let newest = range.last().transpose().map_err(failed)?;
        let (place_of, value) = newest.ok_or_else(|| StoreError::NotFound { path: path.clone() })?;
        let (_, version) = place_of.value();
        let damaged = || StoreError::Damaged { path: path.clone() };
        let (expiry, sealed) = value.value().split_first_chunk().ok_or_else(damaged)?;
        let expiry = u64::from_be_bytes(*expiry);
        let keys = read.open_table(DATA_KEYS).map_err(failed)?;
        let wrapped = keys.get(path.tenant()).map_err(failed)?.ok_or_else(damaged)?;
        let key = self.unwrapped(wrapped.value(), path.tenant())?;
        // Opened before the expiry is believed: it is part of what is authenticated.
        let secret = key.open(sealed, &place(path, version, expiry)).ok_or_else(damaged)?;
        if now.0 >= expiry {
            return Err(StoreError::Expired { path: path.clone(), expiry: UnixTime(expiry) });
        }
        Ok(Found { version, secret: Secret::new(secret) })
    }

    /// Deletes every version. Answers how many there were.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn delete(&self, path: &ResourcePath) -> Result<usize, StoreError> {
        let name = path.to_string();
        let write = self.database.begin_write().map_err(failed)?;
        let count = {
            let mut secrets = write.open_table(SECRETS).map_err(failed)?;
            let range = secrets.range((name.as_str(), 0)..=(name.as_str(), u64::MAX)).map_err(failed)?;
            let versions: Result<Vec<u64>, _> =
                range.map(|entry| entry.map(|(key, _)| key.value().1)).collect();
            let versions = versions.map_err(failed)?;
            for version in &versions {
                secrets.remove((name.as_str(), *version)).map_err(failed)?;
            }
            versions.len()
        };
        write.commit().map_err(failed)?;
        Ok(count)
    }

    /// Replaces the keys, for what is read and written from now on: the current one first, then all that data keys may still
    /// be wrapped with.
    pub fn set_keys(&self, keys: Vec<KeyEncryptionKey>) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    fn keys(&self) -> Arc<Vec<KeyEncryptionKey>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What there is of a tenant, without any secret: each path with the versions that can be had.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn list(&self, tenant: &str) -> Result<Vec<Kept>, StoreError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(SECRETS).map_err(failed)?;
        // Paths begin with the tenant and a slash, which comes directly before the digit 0.
        let (from, to) = (format!("{tenant}/"), format!("{tenant}0"));
        let range = table.range((from.as_str(), 0)..(to.as_str(), 0)).map_err(failed)?;
        let mut all = Vec::new();
        for entry in range {
            let (place, value) = entry.map_err(failed)?;
            let (path, version) = place.value();
            let expiry = value.value().first_chunk().map_or(0, |expiry| u64::from_be_bytes(*expiry));
            let expiry = (expiry != NEVER).then_some(UnixTime(expiry));
            all.push(Kept { path: path.to_owned(), version, expiry });
        }
        Ok(all)
    }

    /// Wraps every data key that an older KEK wraps with the current one. Secrets stay as they are, and readable
    /// throughout. Answers how many were wrapped anew; afterwards the older KEKs are not needed.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn rewrap(&self) -> Result<usize, StoreError> {
        let keys = self.keys();
        let current = keys.first().ok_or(StoreError::NoKey)?;
        let write = self.database.begin_write().map_err(failed)?;
        let count = {
            let mut table = write.open_table(DATA_KEYS).map_err(failed)?;
            let mut anew = Vec::new();
            for entry in table.iter().map_err(failed)? {
                let (tenant, wrapped) = entry.map_err(failed)?;
                if !wrapped.value().starts_with(&current.id()) {
                    let tenant = tenant.value().to_owned();
                    let key = self.unwrapped(wrapped.value(), &tenant)?;
                    anew.push((wrapped_by(current, &key, &tenant)?, tenant));
                }
            }
            for (wrapped, tenant) in &anew {
                table.insert(tenant.as_str(), wrapped.as_slice()).map_err(failed)?;
            }
            anew.len()
        };
        write.commit().map_err(failed)?;
        Ok(count)
    }

    /// Tenants that have a data key.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn tenants(&self) -> Result<BTreeSet<String>, StoreError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(DATA_KEYS).map_err(failed)?;
        let all = table.iter().map_err(failed)?;
        all.map(|entry| entry.map(|(tenant, _)| tenant.value().to_owned()).map_err(failed)).collect()
    }

    fn data_key_for_writing(&self, write: &WriteTransaction, tenant: &str) -> Result<DataKey, StoreError> {
        let mut table = write.open_table(DATA_KEYS).map_err(failed)?;
        let known = table.get(tenant).map_err(failed)?.map(|guard| guard.value().to_vec());
        if let Some(wrapped) = known {
            return self.unwrapped(&wrapped, tenant);
        }
        let key = DataKey::generate()?;
        let keys = self.keys();
        let current = keys.first().ok_or(StoreError::NoKey)?;
        table.insert(tenant, wrapped_by(current, &key, tenant)?.as_slice()).map_err(failed)?;
        Ok(key)
    }

    fn unwrapped(&self, wrapped: &[u8], tenant: &str) -> Result<DataKey, StoreError> {
        let wrong = || StoreError::WrongKey { tenant: tenant.to_owned() };
        let (id, sealed) = wrapped.split_first_chunk::<KEK_ID_BYTES>().ok_or_else(wrong)?;
        let keys = self.keys();
        let key = keys.iter().find(|key| key.id() == *id).ok_or_else(wrong)?;
        key.unwrap_key(sealed, tenant).ok_or_else(wrong)
    }
}

fn wrapped_by(kek: &KeyEncryptionKey, key: &DataKey, tenant: &str) -> Result<Vec<u8>, StoreError> {
    Ok([kek.id().to_vec(), kek.wrap(key, tenant)?].concat())
}

/// What a secret's ciphertext is bound to.
fn place(path: &ResourcePath, version: u64, expiry: u64) -> Vec<u8> {
    let name = path.to_string();
    let parts: [&[u8]; 4] =
        [path.tenant().as_bytes(), name.as_bytes(), &version.to_be_bytes(), &expiry.to_be_bytes()];
    bound("secret", &parts)
}
