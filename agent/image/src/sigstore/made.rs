//! Looks at a bundle that was just made, with no trusted root: what of it must hold whomever one trusts.

use coffer_attestation::dsse::signed_bytes;

use super::signed::{Message, Signed, SignedError};
use super::{body, bundle};
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
/// its proof leads to the root that it names; that each time stamp is of it. Who signed those is not looked at.
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
            .and_then(|()| entry.check_leads_to_root(proof).map(drop));
        holds.map_err(|reason| MadeError::Entry { reason })?;
    }
    for stamp in &signed.timestamps {
        let claimed = timestamp::claimed(stamp, signature);
        claimed.map_err(|error| MadeError::Stamp { reason: error.to_string() })?;
    }
    Ok(())
}
