//! Signing without a key of one's own: an identity token (OpenID Connect) buys a certificate of minutes for a key of minutes, a
//! transparency log takes the signature up, and clocks say when they saw it.
//!
//! ```text
//! token ──────────── refused before anybody is asked: expired, for somebody else, by nobody in particular
//!   └ certificate    Fulcio, version 2: for our key and the token's holder, or nothing goes on
//!       └ clocks     RFC 3161: the signature's time; must be there where the log says none
//!           └ logs   Rekor, version 1 or 2: the signature becomes public here
//!               └ confirm    what was made, by the code that verifies it; only then anybody may attach it
//! ```
//! No service is asked that was not named: certificates and logs publish the token's name, for ever. The token goes to Fulcio and
//! to nobody else, is in no error, and is wiped. Never here: where a signature is put.

mod ask;
mod certificate;
mod clock;
mod confirm;
mod log;
mod options;
mod services;
mod sign;
mod token;

pub(crate) use options::KeylessArguments;
pub(crate) use sign::{Keyless, Made, envelope};
