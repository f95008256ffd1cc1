//! Transparency logs of signatures (Rekor, versions 1 and 2): that an entry is in one of them, and since when.

use base64ct::{Base64, Encoding};
use coffer_attestation::time::UnixTime;

use super::{checkpoint, merkle};
use crate::trusted_root::LogKey;

/// What a signature says of its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The log's name for its key.
    pub(super) log: Vec<u8>,
    pub(super) body: Vec<u8>,
    pub(super) promise: Option<Promise>,
    pub(super) proof: Option<Proof>,
}

/// The log's word that it will take up the entry, and when it heard of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) signature: Vec<u8>,
    /// Seconds since 1970.
    pub(super) time: u64,
    pub(super) index: u64,
}

/// The way from the entry to a root that the log signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proof {
    pub(super) index: u64,
    pub(super) size: u64,
    pub(super) root: Vec<u8>,
    pub(super) hashes: Vec<Vec<u8>>,
    pub(super) checkpoint: String,
}

/// Checks that one of `logs` has the entry: all that it brings of promise and proof must hold, and one must be there. Answers
/// when the log heard of it, if it signed that.
pub(super) fn verify(entry: &Entry, logs: &[LogKey]) -> Result<Option<UnixTime>, String> {
    let mut why =
        format!("no trusted log is called {}", hex::encode(entry.log.get(..8).unwrap_or(&entry.log)));
    for log in logs.iter().filter(|log| log.may_be(&entry.log)) {
        match by_log(entry, log) {
            Ok(time) => return Ok(time),
            Err(reason) => why = reason,
        }
    }
    Err(why)
}

fn by_log(entry: &Entry, log: &LogKey) -> Result<Option<UnixTime>, String> {
    if entry.promise.is_none() && entry.proof.is_none() {
        return Err("the entry has neither the log's promise nor its proof".to_owned());
    }
    if let Some(proof) = &entry.proof {
        check_proof(entry, proof, log)?;
    }
    let time = entry.promise.as_ref().map(|promise| check_promise(entry, promise, log)).transpose()?;
    if time.is_some_and(|time| !log.counts_at(time)) {
        return Err("the log does not count at the entry's time".to_owned());
    }
    Ok(time)
}

fn check_proof(entry: &Entry, proof: &Proof, log: &LogKey) -> Result<(), String> {
    let found = merkle::root(&entry.body, proof.index, proof.size, &proof.hashes);
    let found = found.ok_or("the log's proof has not the form of one")?;
    if proof.root != found {
        return Err("the log's proof leads to another root".to_owned());
    }
    let (size, root) = checkpoint::verify(&proof.checkpoint, log.key.public())?;
    if root != found || size != proof.size {
        return Err("the log's checkpoint is of another tree".to_owned());
    }
    Ok(())
}

/// The promise covers the entry, its time, its place and the log in canonical JSON (RFC 8785).
fn check_promise(entry: &Entry, promise: &Promise, log: &LogKey) -> Result<UnixTime, String> {
    let message = format!(
        r#"{{"body":"{}","integratedTime":{},"logID":"{}","logIndex":{}}}"#,
        Base64::encode_string(&entry.body),
        promise.time,
        hex::encode(&entry.log),
        promise.index
    );
    let key = log.key.public();
    key.verify(key.usual_algorithm(), message.as_bytes(), &promise.signature)
        .map_err(|_| "the log's promise does not hold".to_owned())?;
    Ok(UnixTime(promise.time))
}
