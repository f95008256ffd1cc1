//! What an administrator does to secrets. Whoever calls has checked that it is one.

use coffer_attestation::time::UnixTime;
use serde_json::json;

use super::refusal::Refusal;
use super::verifier::Verifier;
use crate::secrets::{PathError, ResourcePath};

impl Verifier {
    /// Keeps a secret as a new version, which is written down first. Answers its number.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn put_resource(&self, path: &str, secret: &[u8], now: UnixTime) -> Result<u64, Refusal> {
        let path = read(path)?;
        self.record(now, &json!({ "event": "put", "path": path.to_string(), "bytes": secret.len() }))?;
        Ok(self.store.put(&path, secret, None)?)
    }

    /// Deletes a secret. Answers how many versions it had.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn delete_resource(&self, path: &str, now: UnixTime) -> Result<usize, Refusal> {
        let path = read(path)?;
        self.record(now, &json!({ "event": "delete", "path": path.to_string() }))?;
        match self.store.delete(&path)? {
            0 => Err(Refusal::NotFound),
            versions => Ok(versions),
        }
    }
}

fn read(path: &str) -> Result<ResourcePath, Refusal> {
    path.parse().map_err(|error: PathError| Refusal::Malformed { reason: error.to_string() })
}
