//! Arithmetic on P-256 and P-384: by code in Rust alone, which every guest can be built with, or by code that a service brings
//! along. What a TLS library has in assembly takes a fifth of the time, and a verifier does little else.
//!
//! ```text
//! signature, key ── numbers and point read and bounded here ── built-in code, or the one that was chosen ── holds, or not
//! ```
//! Both must say the same of everything: it is arithmetic, and a test of whoever brings other code holds both against each
//! other. Never here: keys that last, and what is signed or by whom.

use std::sync::OnceLock;

use p256::elliptic_curve::Generate;
use p256::elliptic_curve::sec1::ToSec1Point;
use p384::ecdsa::signature::Verifier;
use rand_core::TryCryptoRng;
use zeroize::Zeroizing;

/// A curve, and the hash that is signed with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// P-256 with SHA-256.
    P256,
    /// P-384 with SHA-384.
    P384,
}

/// Other code for what is asked most.
pub trait Curves: Send + Sync {
    /// Whether `signature` (r ‖ s, big endian, each as long as the field) of `message` is by the key whose public point is
    /// `point` (SEC 1, uncompressed).
    fn verifies(&self, curve: Curve, point: &[u8], message: &[u8], signature: &[u8]) -> bool;

    /// Makes a key on P-256 for one message and agrees with the holder of `peer` (SEC 1, uncompressed). `None` without
    /// randomness.
    fn agree_p256(&self, peer: &[u8]) -> Option<Agreed>;
}

/// What two keys on P-256 agree on (SP 800-56A, section 5.7.1.2).
pub struct Agreed {
    /// The public point of the key that was made: SEC 1, uncompressed.
    pub point: Vec<u8>,
    /// The first coordinate of the point that both can compute: 32 bytes.
    pub shared: Zeroizing<Vec<u8>>,
}

static CHOSEN: OnceLock<&'static dyn Curves> = OnceLock::new();

/// Computes with `curves` in this process from now on. The first choice stays.
pub fn choose(curves: &'static dyn Curves) {
    let _ = CHOSEN.set(curves);
}

pub(crate) fn verifies_p256(
    key: &p256::ecdsa::VerifyingKey,
    message: &[u8],
    signature: &p256::ecdsa::Signature,
) -> bool {
    match CHOSEN.get() {
        Some(curves) => {
            let point = key.to_sec1_point(false);
            curves.verifies(Curve::P256, point.as_bytes(), message, &signature.to_bytes())
        }
        None => key.verify(message, signature).is_ok(),
    }
}

pub(crate) fn verifies_p384(
    key: &p384::ecdsa::VerifyingKey,
    message: &[u8],
    signature: &p384::ecdsa::Signature,
) -> bool {
    match CHOSEN.get() {
        Some(curves) => {
            let point = key.to_sec1_point(false);
            curves.verifies(Curve::P384, point.as_bytes(), message, &signature.to_bytes())
        }
        None => key.verify(message, signature).is_ok(),
    }
}

/// Agrees with the holder of `peer` by a key that is made for this. `None` without randomness.
pub(crate) fn agree_p256<R: TryCryptoRng>(peer: &p256::PublicKey, random: &mut R) -> Option<Agreed> {
    if let Some(curves) = CHOSEN.get() {
        return curves.agree_p256(peer.to_sec1_point(false).as_bytes());
    }
    let own = p256::SecretKey::try_generate_from_rng(random).ok()?;
    let point = own.public_key().to_sec1_point(false).as_bytes().to_vec();
    let shared = own.diffie_hellman(peer);
    Some(Agreed { point, shared: Zeroizing::new(shared.raw_secret_bytes().to_vec()) })
}
