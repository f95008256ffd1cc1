//! Whom reports are believed: AMD's roots, pinned by digest, and a simulated root only where an operator named it.

use std::sync::LazyLock;

use super::tcb::Generation;
use crate::x509::Certificate;

/// What this code ships of one generation.
struct Shipped {
    generation: Generation,
    /// SHA-256 of the ARK certificate's DER.
    root: [u8; 32],
    /// ASK, ARK and ASVK.
    pem: &'static [u8],
}

const SHIPPED: [Shipped; 3] = [
    Shipped {
        generation: Generation::Milan,
        root: digest(b"69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"),
        pem: include_bytes!("roots/milan.pem"),
    },
    Shipped {
        generation: Generation::Genoa,
        root: digest(b"4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"),
        pem: include_bytes!("roots/genoa.pem"),
    },
    Shipped {
        generation: Generation::Turin,
        root: digest(b"1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"),
        pem: include_bytes!("roots/turin.pem"),
    },
];

static AUTHORITIES: LazyLock<Vec<(Generation, Certificate)>> = LazyLock::new(|| {
    let each = SHIPPED.iter().flat_map(|shipped| {
        // Constants of this program: a test counts that all nine are read.
        let certificates = Certificate::from_file(shipped.pem).unwrap_or_default();
        certificates.into_iter().map(|certificate| (shipped.generation, certificate))
    });
    each.collect()
});

/// Roots that a chain may end in.
#[derive(Debug, Clone, Default)]
pub struct TrustedRoots {
    simulated: Vec<Certificate>,
}

/// A root that is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// AMD's, for one generation.
    Amd(Generation),
    /// A simulated processor's, because the operator configured exactly this certificate.
    Simulated,
}

impl TrustedRoots {
    /// AMD's roots and no other.
    pub fn amd() -> Self {
        Self::default()
    }

    /// Trusts one simulated root too. Whoever holds its key can make any evidence: for tests and trying out.
    pub fn and_simulated(mut self, root: Certificate) -> Self {
        self.simulated.push(root);
        self
    }

    /// Which trusted root `certificate` is, byte for byte.
    pub fn recognise(&self, certificate: &Certificate) -> Option<Root> {
        let fingerprint = certificate.fingerprint();
        let amd = SHIPPED.iter().find(|shipped| shipped.root == fingerprint);
        let simulated = || self.simulated.iter().any(|root| root.der() == certificate.der());
        amd.map(|shipped| Root::Amd(shipped.generation)).or_else(|| simulated().then_some(Root::Simulated))
    }

    /// The simulated roots.
    pub fn simulated(&self) -> &[Certificate] {
        &self.simulated
    }
}

/// AMD's authorities of a generation: ASK, ARK, ASVK.
pub fn amd_authorities(generation: Generation) -> impl Iterator<Item = &'static Certificate> {
    AUTHORITIES.iter().filter(move |(of, _)| *of == generation).map(|(_, certificate)| certificate)
}

/// Reads a digest from its hexadecimal form while this program is compiled.
pub(crate) const fn digest<const N: usize>(hex: &[u8]) -> [u8; N] {
    assert!(hex.len() == 2 * N);
    let mut bytes = [0; N];
    let mut index = 0;
    while index < N {
        bytes[index] = nibble(hex[2 * index]) << 4 | nibble(hex[2 * index + 1]);
        index += 1;
    }
    bytes
}

const fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => digit - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GENERATIONS: [Generation; 3] = [Generation::Milan, Generation::Genoa, Generation::Turin];

    #[test]
    fn three_authorities_are_shipped_of_each_generation() {
        assert_eq!(GENERATIONS.map(|generation| amd_authorities(generation).count()), [3, 3, 3]);
    }

    #[test]
    fn exactly_the_second_authority_of_each_generation_is_a_root() {
        let roots = TrustedRoots::amd();
        let known = |generation| {
            amd_authorities(generation).map(|certificate| roots.recognise(certificate)).collect::<Vec<_>>()
        };
        let expected = GENERATIONS.map(|generation| vec![None, Some(Root::Amd(generation)), None]);
        assert_eq!(GENERATIONS.map(known), expected);
    }

    #[test]
    fn a_simulated_root_is_trusted_only_where_it_was_named() {
        let any = amd_authorities(Generation::Milan).next().expect("an ASK").clone();
        let named = TrustedRoots::amd().and_simulated(any.clone());
        assert_eq!(
            (TrustedRoots::amd().recognise(&any), named.recognise(&any)),
            (None, Some(Root::Simulated))
        );
    }
}
