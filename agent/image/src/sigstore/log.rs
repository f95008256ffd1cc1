//! Transparency logs of signatures (Rekor, versions 1 and 2): that an entry is in one of them, and since when.

use base64ct::{Base64, Encoding};
use coffer_attestation::time::UnixTime;

use super::checkpoint::Checkpoint;
use super::merkle;
use crate::trusted_root::LogKey;
use crate::work::Work;

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

impl Entry {
    /// The checkpoint that the proof leads to, if it names the same tree; whoever signed that was not looked at.
    pub(super) fn leads_to<'a>(&self, proof: &'a Proof) -> Result<Checkpoint<'a>, String> {
        let found = merkle::root(&self.body, proof.index, proof.size, &proof.hashes);
        let found = found.ok_or("the log's proof has not the form of one")?;
        if proof.root != found {
            return Err("the log's proof leads to another root".to_owned());
        }
        let checkpoint = Checkpoint::read(&proof.checkpoint)?;
        if checkpoint.root != found || checkpoint.size != proof.size {
            return Err("the log's checkpoint is of another tree".to_owned());
        }
        Ok(checkpoint)
    }
}

/// What a log was found to say of an entry.
pub(super) struct Logged<'a> {
    /// When it heard of it, if it signed that.
    pub(super) time: Option<UnixTime>,
    log: &'a LogKey,
}

impl Logged<'_> {
    /// Checks that the log counts: at the time that it signed, or else at each of `times`, at which others saw the signature.
    pub(super) fn check_counts(&self, times: &[UnixTime]) -> Result<(), String> {
        let signed = self.time.as_ref().map_or(times, std::slice::from_ref);
        match signed.iter().find(|time| !self.log.counts_at(**time)) {
            Some(time) => Err(format!("the log does not count at the entry's time, {time}")),
            None => Ok(()),
        }
    }
}

/// Checks that one of `logs` has the entry: all that it brings of promise and proof must hold, and one must be there.
pub(super) fn verify<'a>(entry: &Entry, logs: &'a [LogKey], work: &Work) -> Result<Logged<'a>, String> {
    let mut why =
        format!("no trusted log is called {}", hex::encode(entry.log.get(..8).unwrap_or(&entry.log)));
    for log in logs.iter().filter(|log| log.may_be(&entry.log)) {
        match by_log(entry, log, work) {
            Ok(time) => return Ok(Logged { time, log }),
            Err(reason) => why = reason,
        }
    }
    Err(why)
}

fn by_log(entry: &Entry, log: &LogKey, work: &Work) -> Result<Option<UnixTime>, String> {
    if entry.promise.is_none() && entry.proof.is_none() {
        return Err("the entry has neither the log's promise nor its proof".to_owned());
    }
    if let Some(proof) = &entry.proof {
        entry.leads_to(proof)?.check_signed_by(log, work)?;
    }
    entry.promise.as_ref().map(|promise| check_promise(entry, promise, log, work)).transpose()
}

/// The promise covers the entry, its time, its place and the log in canonical JSON (RFC 8785).
fn check_promise(entry: &Entry, promise: &Promise, log: &LogKey, work: &Work) -> Result<UnixTime, String> {
    let message = format!(
        r#"{{"body":"{}","integratedTime":{},"logID":"{}","logIndex":{}}}"#,
        Base64::encode_string(&entry.body),
        promise.time,
        hex::encode(&entry.log),
        promise.index
    );
    let holds = log.key.verify_usual(message.as_bytes(), &promise.signature, work);
    holds.map_err(|reason| format!("the log's promise does not hold: {reason}"))?;
    Ok(UnixTime(promise.time))
}
