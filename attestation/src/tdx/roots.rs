//! Whom quotes are believed: Intel's root, pinned by digest, and a simulated root only where an operator named it.

use crate::x509::Certificate;

/// SHA-256 of the certificate "Intel SGX Root CA", which was made in 2018 and is good until the end of 2049.
const INTEL: [u8; 32] = [
    0x44, 0xa0, 0x19, 0x6b, 0x2b, 0x99, 0xf8, 0x89, 0xb8, 0xe1, 0x49, 0xe9, 0x5b, 0x80, 0x7a, 0x35, 0x0e,
    0x74, 0x24, 0x96, 0x43, 0x99, 0xe8, 0x85, 0xa7, 0xcb, 0xb8, 0xcc, 0xfa, 0xb6, 0x74, 0xd3,
];

/// Roots that a chain may end in. Chains bring the certificate itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedRoots {
    fingerprints: Vec<[u8; 32]>,
}

/// A root that is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// Intel's.
    Intel,
    /// A simulated processor's, because the operator configured exactly this certificate.
    Simulated,
}

impl TrustedRoots {
    /// Intel's root and no other.
    pub fn intel() -> Self {
        Self { fingerprints: vec![INTEL] }
    }

    /// Trusts one simulated root too. Whoever holds its key can make any evidence: for tests and trying out.
    pub fn and_simulated(mut self, root: &Certificate) -> Self {
        self.fingerprints.push(root.fingerprint());
        self
    }

    /// Which trusted root `certificate` is, byte for byte.
    pub fn recognise(&self, certificate: &Certificate) -> Option<Root> {
        let fingerprint = certificate.fingerprint();
        let kind = if fingerprint == INTEL { Root::Intel } else { Root::Simulated };
        self.fingerprints.contains(&fingerprint).then_some(kind)
    }

    /// `root` alone, if it is trusted: collateral must be of the root that the quote's own chain ends in.
    pub(super) fn only(&self, root: &Certificate) -> Self {
        let trusted = self.fingerprints.iter().filter(|fingerprint| **fingerprint == root.fingerprint());
        Self { fingerprints: trusted.copied().collect() }
    }

    /// What a chain must end in, for people.
    pub(super) fn describe(&self) -> String {
        let each = self.fingerprints.iter().map(|fingerprint| {
            let owner = if *fingerprint == INTEL { "Intel's" } else { "a simulated" };
            format!("{owner} root with SHA-256 {}", hex::encode(fingerprint))
        });
        each.collect::<Vec<_>>().join(" or ")
    }
}
