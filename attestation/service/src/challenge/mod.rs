//! Challenges without a session: the nonce itself says what was asked and until when, under a key that all replicas share.
//!
//! ```text
//! nonce = base64(version 1 ‖ kind of evidence 1 ‖ hash 1 ‖ expiry 8, big endian ‖ random 16 ‖ HMAC-SHA-256 of all before, 32)
//! issue ── nothing is stored ── redeem: tag, expiry, then burnt for good whatever becomes of the evidence
//! ```
//! Never here: memory that a stranger can fill. An unanswered challenge costs nothing; an answered one costs one entry of
//! a list of fixed size until it expires, and a full list refuses instead of forgetting. Replicas have that list in their database.

mod issue;
mod spent;

pub use issue::{ChallengeError, ChallengeKey, Challenger, IssueError, Redeemed};
pub use spent::{Spent, SpentError};
