//! Signatures as Notation makes them: an envelope around a descriptor, signed by the holder of a certificate.
//!
//! ```text
//! JWS, COSE -> Envelope ── verify ── signature by the leaf -> a whole chain -> trust store -> holder -> dates, expiry, revocation, time stamp
//! ```
//! Never here: fetching of revocation lists.

mod cbor;
mod chain;
mod cose;
mod envelope;
mod jws;
mod verify;

pub(crate) use envelope::Envelope;
pub(crate) use verify::verify;
