//! Texts that operators keep, with every version that there was: policies and reference values. They are not secret, and
//! decide over secrets: where others could change them they are encrypted like those.

use base64ct::{Base64, Encoding};
use serde::Serialize;

use super::envelope::{DataKey, bound};
use super::store::{SecretStore, StoreError, TEXTS};
use crate::database::DocumentRow;

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
        loop {
            let newest = self.database.last_document(collection, name)?;
            if expected.is_some_and(|expected| expected != newest) {
                return Err(StoreError::Version { found: newest });
            }
            let version = newest + 1;
            let kept = match self.database.replicas() {
                Some(_) => self.sealed((collection, name), version, text)?,
                None => text.to_owned(),
            };
            if self.database.add_document((collection, name), version, &kept)? {
                return Ok(version);
            }
        }
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
        let rows = self.database.documents(collection, name)?;
        if rows.is_empty() || self.database.replicas().is_none() {
            let plain = |row: DocumentRow| Document { name: row.name, version: row.version, text: row.text };
            return Ok(rows.into_iter().map(plain).collect());
        }
        let key = self.data_key(TEXTS)?;
        let opened = rows.into_iter().map(|row| {
            let text = opened(&key, collection, &row);
            let text = text.ok_or_else(|| StoreError::Text { name: format!("{collection}/{}", row.name) })?;
            Ok(Document { name: row.name, version: row.version, text })
        });
        opened.collect()
    }

    /// Whoever may write to a database that is shared could put a reference there that lets in a guest of theirs: what is read
    /// back must have been written by a replica.
    fn sealed(&self, place: (&str, &str), version: u64, text: &str) -> Result<String, StoreError> {
        let key = self.data_key(TEXTS)?;
        Ok(Base64::encode_string(&key.seal(text.as_bytes(), &bound_to(place, version))?))
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

fn opened(key: &DataKey, collection: &str, row: &DocumentRow) -> Option<String> {
    let sealed = Base64::decode_vec(&row.text).ok()?;
    let text = key.open(&sealed, &bound_to((collection, &row.name), row.version))?;
    str::from_utf8(&text).ok().map(str::to_owned)
}

/// What a text's ciphertext is bound to.
fn bound_to((collection, name): (&str, &str), version: u64) -> Vec<u8> {
    bound("text", &[collection.as_bytes(), name.as_bytes(), &version.to_be_bytes()])
}
