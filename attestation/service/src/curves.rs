//! Arithmetic on curves by the library that the service has for TLS anyway.

use aws_lc_rs::agreement::{self, ECDH_P256, EphemeralPrivateKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use coffer_attestation::curves::{Agreed, Curve, Curves};
use zeroize::Zeroizing;

/// First byte of a point with both coordinates (SEC 1, section 2.3.3).
const UNCOMPRESSED: u8 = 4;

/// AWS-LC's.
pub struct AwsLc;

impl Curves for AwsLc {
    fn verifies(&self, curve: Curve, point: &[u8], message: &[u8], signature: &[u8]) -> bool {
        let algorithm = match curve {
            Curve::P256 => &ECDSA_P256_SHA256_FIXED,
            Curve::P384 => &ECDSA_P384_SHA384_FIXED,
        };
        // The library reads other forms too, among them one that has a second spelling.
        point.first() == Some(&UNCOMPRESSED)
            && UnparsedPublicKey::new(algorithm, point).verify(message, signature).is_ok()
    }

    fn agree_p256(&self, peer: &[u8]) -> Option<Agreed> {
        let own = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()).ok()?;
        let point = own.compute_public_key().ok()?.as_ref().to_vec();
        let peer = agreement::UnparsedPublicKey::new(&ECDH_P256, peer);
        let shared =
            agreement::agree_ephemeral(own, peer, Unspecified, |shared| Ok(Zeroizing::new(shared.to_vec())));
        Some(Agreed { point, shared: shared.ok()? })
    }
}
