//! Texts that operators keep, with every version that there was: policies and reference values. They are not secret.

use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;

use super::store::{SecretStore, StoreError, failed};

/// Collection, name and version → text; an empty text is one that was taken away.
pub(super) const DOCUMENTS: TableDefinition<'_, (&str, &str, u64), &str> = TableDefinition::new("documents");

/// One version of a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Document {
    /// Its name.
    pub name: String,
    /// Its number, from 1.
    pub version: u64,
    /// What it says; empty if it was taken away.
    pub text: String,
}

impl SecretStore {
    /// Keeps `text` as a new version of a document, if the newest one is still `expected` (0: there is none). An empty text
    /// takes it away. Answers the new version.
    ///
    /// # Errors
    /// [`StoreError::Version`] when somebody was faster.
    pub fn put_document(
        &self,
        (collection, name): (&str, &str),
        text: &str,
        expected: Option<u64>,
    ) -> Result<u64, StoreError> {
        let write = self.database.begin_write().map_err(failed)?;
        let version = {
            let mut table = write.open_table(DOCUMENTS).map_err(failed)?;
            let range = table.range((collection, name, 0)..=(collection, name, u64::MAX)).map_err(failed)?;
            let newest = range.last().transpose().map_err(failed)?.map_or(0, |(place, _)| place.value().2);
            if expected.is_some_and(|expected| expected != newest) {
                return Err(StoreError::Version { found: newest });
            }
            table.insert((collection, name, newest + 1), text).map_err(failed)?;
            newest + 1
        };
        write.commit().map_err(failed)?;
        Ok(version)
    }

    /// Every version of every document of a collection, or of one of them; oldest first.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn document_versions(
        &self,
        collection: &str,
        name: Option<&str>,
    ) -> Result<Vec<Document>, StoreError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(DOCUMENTS).map_err(failed)?;
        let mut all = Vec::new();
        for entry in table.range((collection, name.unwrap_or(""), 0)..).map_err(failed)? {
            let (place, text) = entry.map_err(failed)?;
            let (of, found, version) = place.value();
            if of != collection || name.is_some_and(|name| name != found) {
                break;
            }
            all.push(Document { name: found.to_owned(), version, text: text.value().to_owned() });
        }
        Ok(all)
    }

    /// The newest version of every document of a collection that was not taken away.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn documents(&self, collection: &str) -> Result<Vec<Document>, StoreError> {
        let mut newest: Vec<Document> = Vec::new();
        for document in self.document_versions(collection, None)? {
            match newest.last_mut() {
                Some(last) if last.name == document.name => *last = document,
                _ => newest.push(document),
            }
        }
        newest.retain(|document| !document.text.is_empty());
        Ok(newest)
    }
}
