//! Makes a disk that the host can neither read nor change unseen, with an empty file system, of one that it gave.
//!
//! ```text
//! disk ── dm-integrity: room for a tag beside each block ── dm-crypt: AES-256-XTS and HMAC-SHA256, key made here ── ext4
//!         └ layout: how much room is left ─────────────────────────────────────────────────────────────── ext4 ┘
//! ```
//!
//! It never reads what the disk held, and never lets the key out: neither into a file, a log or an error, nor to the host.

mod encrypted;
mod ext4;
mod layout;

pub(crate) use encrypted::{EncryptedError, make};
