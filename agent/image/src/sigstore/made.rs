//! Looks at a bundle that was just made, with no trusted root: what of it must hold whomever one trusts.

use coffer_attestation::dsse::signed_bytes;
use coffer_attestation::time::UnixTime;
use coffer_attestation::x509::Certificate;

use super::signed::{Message, Signed, SignedError};
use super::{body, bundle, certificate};
use crate::keys::verify_as_cosign;
use crate::timestamp;
use crate::work::Work;

/// Why a new bundle cannot be a good one.
#[derive(Debug, thiserror::Error)]
pub enum MadeError {
    /// No verifier of ours could read it.
    #[error("it cannot be read: {reason}")]
    Form {
        /// What is wrong.
        reason: String,
    },
    /// A keyless signature has more parts.
    #[error("it has no {part}")]
    Missing {
        /// The part.
        part: &'static str,
    },
    /// The certificate's key did not make the signature.
    #[error("its certificate's key did not sign it: {reason}")]
    Signature {
        /// What is wrong.
        reason: String,
    },
    /// Its certificate is for something else, or it was not in force.
    #[error("its certificate does not serve: {reason}")]
    Certificate {
        /// What is wrong.
        reason: String,
    },
    /// The log answered for something else.
    #[error("the log's entry is not of it: {reason}")]
    Entry {
        /// What is wrong.
        reason: String,
    },
    /// The clock answered for something else.
    #[error("the time stamp is not of it: {reason}")]
    Stamp {
        /// What is wrong.
        reason: String,
    },
}

/// Checks that the bundle `made` is a keyless signature in an envelope, by its certificate's key; that each log's entry is of it and
/// its proof leads to the checkpoint that it names; that each time stamp is of it; and that the certificate was in force at each time
/// that is said. Who signed those is not looked at.
///
/// # Errors
/// [`MadeError`]
pub fn check_made(made: &[u8]) -> Result<(), MadeError> {
    let signed =
        bundle::read(made).map_err(|error: SignedError| MadeError::Form { reason: error.to_string() })?;
    let Message::Envelope { payload, kind } = &signed.message else {
        return Err(MadeError::Missing { part: "envelope" });
    };
    let Signed { certificate: Some(leaf), signature, .. } = &signed else {
        return Err(MadeError::Missing { part: "certificate" });
    };
    let (bytes, work) = (signed_bytes(kind, payload), Work::default());
    let verified = verify_as_cosign(leaf.key(), &bytes, signature, &work);
    verified.map_err(|reason| MadeError::Signature { reason })?;
    if signed.entries.is_empty() {
        return Err(MadeError::Missing { part: "entry of a log" });
    }
    for entry in &signed.entries {
        let proof = entry.proof.as_ref().ok_or(MadeError::Missing { part: "proof that it is in the log" })?;
        let holds = body::check(&entry.body, &signed, &bytes, leaf.der())
            .and_then(|()| entry.leads_to(proof).map(drop));
        holds.map_err(|reason| MadeError::Entry { reason })?;
        if let Some(promise) = &entry.promise {
            check_in_force(leaf, UnixTime(promise.time))?;
        }
    }
    signed.timestamps.iter().try_for_each(|stamp| check_stamp(stamp, signature, leaf))
}

/// Checks that a time stamp is of `signature`, at a time at which its certificate `leaf` was in force. Who signed it is not looked
/// at.
///
/// # Errors
/// [`MadeError::Stamp`], [`MadeError::Certificate`]
pub fn check_stamp(stamp: &[u8], signature: &[u8], leaf: &Certificate) -> Result<(), MadeError> {
    let claimed = timestamp::claimed(stamp, signature);
    check_in_force(leaf, claimed.map_err(|error| MadeError::Stamp { reason: error.to_string() })?)
}

/// Checks that `leaf` is for signing code, and for that alone.
///
/// # Errors
/// [`MadeError::Certificate`]
pub fn check_use(leaf: &Certificate) -> Result<(), MadeError> {
    certificate::check_use(leaf).map_err(|reason| MadeError::Certificate { reason })
}

fn check_in_force(leaf: &Certificate, time: UnixTime) -> Result<(), MadeError> {
    if leaf.not_before() <= time && time <= leaf.not_after() {
        return Ok(());
    }
    let (from, until) = (leaf.not_before(), leaf.not_after());
    Err(MadeError::Certificate {
        reason: format!("it counts from {from} until {until}, and the signature was seen at {time}"),
    })
}
