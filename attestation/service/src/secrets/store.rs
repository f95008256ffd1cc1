//! The database: versions, expiry, deletion, replacement of the KEK, and what was revoked.

use std::collections::BTreeSet;
use std::path::Path;

use coffer_attestation::time::UnixTime;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

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
/// Kind and name → when.
const REVOKED: TableDefinition<'_, (&str, &str), u64> = TableDefinition::new("revoked");

/// An expiry that never comes.
const NEVER: u64 = u64::MAX;

/// An open store.
pub struct SecretStore {
    database: Database,
    /// The current key first, then those that data keys may still be wrapped with.
    keys: Vec<KeyEncryptionKey>,
}

/// One version of a secret.
pub struct Found {
    /// Its number, from 1.
    pub version: u64,
    /// What it is.
    pub secret: Secret,
}

/// What can be revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// A launch digest or MRTD, in hexadecimal.
    Measurement,
    /// A token, by its `jti`.
    Token,
    /// A sandbox, by its id.
    Sandbox,
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

fn failed(error: impl Into<redb::Error>) -> StoreError {
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
        write.open_table(REVOKED).map_err(failed)?;
        write.commit().map_err(failed)?;
        Ok(Self { database, keys })
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

    /// Wraps every data key that an older KEK wraps with the current one. Secrets stay as they are, and readable
    /// throughout. Answers how many were wrapped anew; afterwards the older KEKs are not needed.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn rewrap(&self) -> Result<usize, StoreError> {
        let current = self.keys.first().ok_or(StoreError::NoKey)?;
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

    /// Revokes; what was revoked stays so.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn revoke(&self, kind: Revocation, name: &str, at: UnixTime) -> Result<(), StoreError> {
        let write = self.database.begin_write().map_err(failed)?;
        {
            let mut table = write.open_table(REVOKED).map_err(failed)?;
            table.insert((kind.name(), name), at.0).map_err(failed)?;
        }
        write.commit().map_err(failed)
    }

    /// Whether it was revoked, as of this call.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn is_revoked(&self, kind: Revocation, name: &str) -> Result<bool, StoreError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(REVOKED).map_err(failed)?;
        Ok(table.get((kind.name(), name)).map_err(failed)?.is_some())
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
        let current = self.keys.first().ok_or(StoreError::NoKey)?;
        table.insert(tenant, wrapped_by(current, &key, tenant)?.as_slice()).map_err(failed)?;
        Ok(key)
    }

    fn unwrapped(&self, wrapped: &[u8], tenant: &str) -> Result<DataKey, StoreError> {
        let wrong = || StoreError::WrongKey { tenant: tenant.to_owned() };
        let (id, sealed) = wrapped.split_first_chunk::<KEK_ID_BYTES>().ok_or_else(wrong)?;
        let key = self.keys.iter().find(|key| key.id() == *id).ok_or_else(wrong)?;
        key.unwrap_key(sealed, tenant).ok_or_else(wrong)
    }
}

impl Revocation {
    fn name(self) -> &'static str {
        match self {
            Revocation::Measurement => "measurement",
            Revocation::Token => "token",
            Revocation::Sandbox => "sandbox",
        }
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
