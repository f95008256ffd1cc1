//! Encrypted layers, in the form of ocicrypt with a key provider of the attestation agent: the blob is encrypted by AES-256 in
//! counter mode, and the layer's annotations hold its HMAC-SHA256 and its key, wrapped under a key that a verifier releases.
//!
//! ```text
//! annotations ── Envelope (bounded, nothing unknown) ── open, with the verifier's key ── LayerKey
//! blob, first time  ── authenticate: size, digest, HMAC ── Authenticated: the SHA-256 up to each MiB
//! blob, second time ── decrypt: each MiB is held against its SHA-256, and only then decrypted ──► unpack
//! ```
//! The HMAC covers the whole blob, so nothing of a layer is authentic before its last byte. Who wants no plaintext of bytes that
//! are not must therefore see the blob twice, or keep all of it. [`encrypt`] goes the other way.
//!
//! Never here: asking for keys, randomness, other providers' keys (`jwe`, `pgp`, `pkcs7`, `pkcs11`), which are passed over.

mod encrypt;
mod envelope;
mod error;
mod key;
mod media_type;
mod passes;
mod placeholder;

pub use encrypt::{Encrypting, Fresh, encrypt};
pub use envelope::Envelope;
pub use error::{EnvelopeError, KeyError, PassError};
pub use key::LayerKey;
pub use media_type::{decrypted_type, encrypted_type};
pub use passes::{Authenticated, Plain, Source};
pub use placeholder::{PLACEHOLDER_PREFIX, placeholder};

/// Of a layer: its key, wrapped.
pub const KEY_ANNOTATION: &str = "org.opencontainers.image.enc.keys.provider.attestation-agent";

/// Of a layer: how it is encrypted, and its HMAC.
pub const OPTIONS_ANNOTATION: &str = "org.opencontainers.image.enc.pubopts";

/// Bytes of the key that a layer's key is wrapped under.
pub const WRAPPING_KEY_BYTES: usize = 32;

/// Bytes that are authenticated and decrypted at once.
const CHUNK: u64 = 1 << 20;

/// The longest blob, in bytes: 32 bytes of each MiB are kept.
const MAX_BYTES: u64 = 64 << 30;
