//! Where things are kept: an embedded file of one verifier.
//!
//! Never here: keys or plain secrets. What comes in is encrypted already, and what goes out is believed by nobody before it opens.

mod choice;
mod embedded;

pub use choice::{Database, DatabaseError, DocumentRow, RevokedRow, SecretRow};
