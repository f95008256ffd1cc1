//! Simple signing with OpenPGP keys, as GnuPG, podman and skopeo make it: a signed message around a payload in JSON.
//!
//! ```text
//! keyring of a policy ─ packets ─> Key: its own signatures say until when it may sign, and whether it was taken back
//! message             ─ packets ─> Message: payload and one signature, which is held against a key
//! ```
//! Of RFC 4880 and RFC 9580 this is the little that such messages need: keys and signatures of version 4 by RSA, ECDSA and
//! Ed25519, with SHA-2. Lengths are bounded before anything is kept, and compressed messages while they grow.
//!
//! Never here: a policy, encryption, the web of trust, keys that a message brings along, signatures by subkeys.

mod armor;
mod key;
mod message;
mod packet;
mod signature;

pub(crate) use key::Key;
pub(crate) use message::Message;
