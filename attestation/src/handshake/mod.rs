//! The conversation between a guest and a verifier: what the messages say, what is hashed into evidence, and how a secret
//! is sealed for the guest's key. Spoken by both sides; byte for byte that of Confidential Containers' KBS, version 0.4.0.
//!
//! ```text
//! guest                                     verifier
//!   Request {version, tee, hashes}   ->
//!                                    <-       Challenge {nonce, hash}
//!   Attestation {initdata, nonce, key, evidence}  ->
//!        report_data = H(JCS {additional-evidence, nonce, tee-pubkey})
//!                                    <-       token: an EAR, signed ES256
//!   resource path, token             ->
//!                                    <-       Sealed: a flattened JWE for the key
//! ```
//! Never here: network, clocks, files, randomness of its own. Nothing that comes in is taken in two ways: a JSON object
//! that names a member twice is refused, as are unknown members of a key.

mod attestation;
mod canonical;
mod claims;
mod hash;
mod images;
mod initdata;
mod jwe;
mod key;
mod open;
mod request;
mod sealed_secret;
mod strict;
mod token;
mod told;

pub use attestation::{Attestation, AttestationError, MAX_ADDITIONAL_BYTES};
pub use canonical::{CanonicalError, canonical};
pub use claims::{Ear, EarIdentity, Submodule, TrustVector};
pub use hash::{HashAlgorithm, ReportData};
pub use images::{ImageRecord, Images, ImagesError, MAX_IMAGES, MAX_IMAGES_BYTES, MAX_SIGNER_BYTES};
pub use initdata::{InitData, InitDataError, MAX_INITDATA_BYTES};
pub use jwe::{SealError, Sealed};
pub use key::{TeeKey, TeeKeyError};
pub use open::{GuestKey, OpenError};
pub use request::{Challenge, PROTOCOL_VERSION, Request, RequestError, Tee};
pub use sealed_secret::{ResourceName, SEALED_PREFIX, SealedSecretError, SealedString};
pub use strict::{JsonError, Limits, parse as parse_json, read as read_json};
pub use token::{PublicTokenKey, TokenError, TokenKey, Verified};
pub use told::refusal_told_by;
