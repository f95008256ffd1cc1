//! The root of trust, by its fingerprint: chains bring the certificate itself.

use std::fmt::{self, Display};

use crate::x509::Certificate;

/// A root of trust: SHA-256 of its certificate in DER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root {
    fingerprint: [u8; 32],
}

impl Root {
    /// Intel SGX Root CA, made in 2018, good until the end of 2049.
    pub const INTEL: Self = Self {
        fingerprint: [
            0x44, 0xa0, 0x19, 0x6b, 0x2b, 0x99, 0xf8, 0x89, 0xb8, 0xe1, 0x49, 0xe9, 0x5b, 0x80, 0x7a, 0x35,
            0x0e, 0x74, 0x24, 0x96, 0x43, 0x99, 0xe8, 0x85, 0xa7, 0xcb, 0xb8, 0xcc, 0xfa, 0xb6, 0x74, 0xd3,
        ],
    };

    /// Trusts another root than Intel's: simulated evidence, or a verifier's own tests.
    pub fn insecure_other(certificate: &Certificate) -> Self {
        Self { fingerprint: certificate.fingerprint() }
    }

    /// Whether `certificate` is this root.
    pub fn is(&self, certificate: &Certificate) -> bool {
        self.fingerprint == certificate.fingerprint()
    }

    /// Whose root it is, for claims.
    pub(super) fn owner(&self) -> &'static str {
        if *self == Self::INTEL { "Intel" } else { "not Intel" }
    }
}

impl Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} root with SHA-256 {}", self.owner(), hex::encode(self.fingerprint))
    }
}
