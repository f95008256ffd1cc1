//! One file, written by one process.

use std::path::Path;

use redb::{ReadableDatabase, ReadableTable, TableDefinition};

use super::choice::{DatabaseError, DocumentRow, ListedRow, RevokedRow, SecretRow};

/// Tenant → id of the KEK ‖ wrapped data key.
const DATA_KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("data-keys");
/// Path and version → expiry, 8 bytes big endian ‖ ciphertext.
const SECRETS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("secrets");
/// Path → the last version given out; it stays when the secret is deleted, so that no number is used twice.
const VERSIONS: TableDefinition<'_, &str, u64> = TableDefinition::new("versions");
/// Collection, name and version → text; an empty text is one that was taken away.
const DOCUMENTS: TableDefinition<'_, (&str, &str, u64), &str> = TableDefinition::new("documents");
/// Kind and name → when.
const REVOKED: TableDefinition<'_, (&str, &str), u64> = TableDefinition::new("revoked");

/// The file.
pub struct Embedded(redb::Database);

type Answer<T> = Result<T, DatabaseError>;

fn failed(error: impl Into<redb::Error>) -> DatabaseError {
    DatabaseError::Embedded(Box::new(error.into()))
}

impl Embedded {
    pub(super) fn open(path: &Path) -> Answer<Self> {
        let database = redb::Database::create(path).map_err(failed)?;
        let write = database.begin_write().map_err(failed)?;
        write.open_table(DATA_KEYS).map_err(failed)?;
        write.open_table(SECRETS).map_err(failed)?;
        write.open_table(VERSIONS).map_err(failed)?;
        write.open_table(REVOKED).map_err(failed)?;
        write.open_table(DOCUMENTS).map_err(failed)?;
        write.commit().map_err(failed)?;
        Ok(Self(database))
    }

    pub(super) fn data_key(&self, tenant: &str) -> Answer<Option<Vec<u8>>> {
        let read = self.0.begin_read().map_err(failed)?;
        let table = read.open_table(DATA_KEYS).map_err(failed)?;
        Ok(table.get(tenant).map_err(failed)?.map(|wrapped| wrapped.value().to_vec()))
    }

    pub(super) fn data_keys(&self) -> Answer<Vec<(String, Vec<u8>)>> {
        let read = self.0.begin_read().map_err(failed)?;
        let table = read.open_table(DATA_KEYS).map_err(failed)?;
        let all = table.iter().map_err(failed)?.map(|entry| {
            let (tenant, wrapped) = entry.map_err(failed)?;
            Ok((tenant.value().to_owned(), wrapped.value().to_vec()))
        });
        all.collect()
    }

    pub(super) fn set_data_key(&self, tenant: &str, old: Option<&[u8]>, new: &[u8]) -> Answer<bool> {
        let write = self.0.begin_write().map_err(failed)?;
        let as_expected = {
            let mut table = write.open_table(DATA_KEYS).map_err(failed)?;
            let found = table.get(tenant).map_err(failed)?.map(|wrapped| wrapped.value().to_vec());
            let as_expected = found.as_deref() == old;
            if as_expected {
                table.insert(tenant, new).map_err(failed)?;
            }
            as_expected
        };
        write.commit().map_err(failed)?;
        Ok(as_expected)
    }

    pub(super) fn last_version(&self, path: &str) -> Answer<u64> {
        let read = self.0.begin_read().map_err(failed)?;
        let versions = read.open_table(VERSIONS).map_err(failed)?;
        Ok(versions.get(path).map_err(failed)?.map_or(0, |guard| guard.value()))
    }

    pub(super) fn add_secret(&self, path: &str, version: u64, value: &[u8]) -> Answer<bool> {
        let write = self.0.begin_write().map_err(failed)?;
        let next = {
            let mut versions = write.open_table(VERSIONS).map_err(failed)?;
            let last = versions.get(path).map_err(failed)?.map_or(0, |guard| guard.value());
            let next = last.checked_add(1) == Some(version);
            if next {
                let mut secrets = write.open_table(SECRETS).map_err(failed)?;
                secrets.insert((path, version), value).map_err(failed)?;
                versions.insert(path, version).map_err(failed)?;
            }
            next
        };
        write.commit().map_err(failed)?;
        Ok(next)
    }

    pub(super) fn secret(&self, path: &str, version: Option<u64>, tenant: &str) -> Answer<Option<SecretRow>> {
        let read = self.0.begin_read().map_err(failed)?;
        let secrets = read.open_table(SECRETS).map_err(failed)?;
        let (from, to) = version.map_or((0, u64::MAX), |version| (version, version));
        let range = secrets.range((path, from)..=(path, to)).map_err(failed)?;
        let Some((place, value)) = range.last().transpose().map_err(failed)? else { return Ok(None) };
        let keys = read.open_table(DATA_KEYS).map_err(failed)?;
        let data_key = keys.get(tenant).map_err(failed)?.map(|wrapped| wrapped.value().to_vec());
        Ok(Some(SecretRow { version: place.value().1, value: value.value().to_vec(), data_key }))
    }

    pub(super) fn delete_secret(&self, path: &str) -> Answer<usize> {
        let write = self.0.begin_write().map_err(failed)?;
        let count = {
            let mut secrets = write.open_table(SECRETS).map_err(failed)?;
            let range = secrets.range((path, 0)..=(path, u64::MAX)).map_err(failed)?;
            let versions: Result<Vec<u64>, _> =
                range.map(|entry| entry.map(|(key, _)| key.value().1)).collect();
            let versions = versions.map_err(failed)?;
            for version in &versions {
                secrets.remove((path, *version)).map_err(failed)?;
            }
            versions.len()
        };
        write.commit().map_err(failed)?;
        Ok(count)
    }

    pub(super) fn secrets(&self, tenant: &str) -> Answer<Vec<ListedRow>> {
        let read = self.0.begin_read().map_err(failed)?;
        let table = read.open_table(SECRETS).map_err(failed)?;
        // Paths begin with the tenant and a slash, which comes directly before the digit 0.
        let (from, to) = (format!("{tenant}/"), format!("{tenant}0"));
        let range = table.range((from.as_str(), 0)..(to.as_str(), 0)).map_err(failed)?;
        let all = range.map(|entry| {
            let (place, value) = entry.map_err(failed)?;
            let (path, version) = place.value();
            Ok(ListedRow { path: path.to_owned(), version, expiry: value.value().first_chunk().copied() })
        });
        all.collect()
    }

    pub(super) fn last_document(&self, collection: &str, name: &str) -> Answer<u64> {
        let read = self.0.begin_read().map_err(failed)?;
        let table = read.open_table(DOCUMENTS).map_err(failed)?;
        last(&table, collection, name)
    }

    pub(super) fn add_document(
        &self,
        (collection, name): (&str, &str),
        version: u64,
        text: &str,
    ) -> Answer<bool> {
        let write = self.0.begin_write().map_err(failed)?;
        let next = {
            let mut table = write.open_table(DOCUMENTS).map_err(failed)?;
            let next = last(&table, collection, name)?.checked_add(1) == Some(version);
            if next {
                table.insert((collection, name, version), text).map_err(failed)?;
            }
            next
        };
        write.commit().map_err(failed)?;
        Ok(next)
    }

    pub(super) fn documents(&self, collection: &str, name: Option<&str>) -> Answer<Vec<DocumentRow>> {
        let read = self.0.begin_read().map_err(failed)?;
        let table = read.open_table(DOCUMENTS).map_err(failed)?;
        let mut all = Vec::new();
        for entry in table.range((collection, name.unwrap_or(""), 0)..).map_err(failed)? {
            let (place, text) = entry.map_err(failed)?;
            let (of, found, version) = place.value();
            if of != collection || name.is_some_and(|name| name != found) {
                break;
            }
            all.push(DocumentRow { name: found.to_owned(), version, text: text.value().to_owned() });
        }
        Ok(all)
    }

    pub(super) fn revoke(&self, kind: &str, name: &str, at: u64) -> Answer<()> {
        let write = self.0.begin_write().map_err(failed)?;
        {
            let mut table = write.open_table(REVOKED).map_err(failed)?;
            let known = table.get((kind, name)).map_err(failed)?.is_some();
            if !known {
                table.insert((kind, name), at).map_err(failed)?;
            }
        }
        write.commit().map_err(failed)
    }

    pub(super) fn any_revoked(&self, of: &[(&str, &str)]) -> Answer<Option<usize>> {
        let read = self.0.begin_read().map_err(failed)?;
        let table = read.open_table(REVOKED).map_err(failed)?;
        for (number, place) in of.iter().enumerate() {
            if table.get(*place).map_err(failed)?.is_some() {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    pub(super) fn revoked(&self) -> Answer<Vec<RevokedRow>> {
        let read = self.0.begin_read().map_err(failed)?;
        let table = read.open_table(REVOKED).map_err(failed)?;
        let all = table.iter().map_err(failed)?.map(|entry| {
            let (place, at) = entry.map_err(failed)?;
            let (kind, name) = place.value();
            Ok(RevokedRow { kind: kind.to_owned(), name: name.to_owned(), at: at.value() })
        });
        all.collect()
    }
}

/// The newest version of a document.
fn last(
    table: &impl ReadableTable<(&'static str, &'static str, u64), &'static str>,
    collection: &str,
    name: &str,
) -> Answer<u64> {
    let mut range = table.range((collection, name, 0)..=(collection, name, u64::MAX)).map_err(failed)?;
    Ok(range.next_back().transpose().map_err(failed)?.map_or(0, |(place, _)| place.value().2))
}
