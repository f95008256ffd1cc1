//! Evidence that no machine made: TDX quotes and collateral below a root of our own, every field of which a test can change
//! before everything is signed. What a real machine signs, these keys sign, in the same formats.

pub(crate) mod asn1;
pub(crate) mod collateral;
pub(crate) mod pki;
pub(crate) mod quote;

use coffer_attestation::tdx::{Evidence, Expectations, TrustedRoots, appraise};
use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::Appraisal;
use coffer_attestation::x509::Certificate;

use collateral::Collateral;
use pki::Pki;
use quote::Quote;

/// Everything that evidence is made of, before it is signed.
pub(crate) struct Forge {
    /// Certificates and revocation lists.
    pub(crate) pki: Pki,
    /// The quote.
    pub(crate) quote: Quote,
    /// Intel's statements.
    pub(crate) collateral: Collateral,
    /// The root that the verifier trusts; `None` is the forge's own.
    pub(crate) trusted: Option<TrustedRoots>,
}

impl Forge {
    /// Evidence that is affirmed.
    pub(crate) fn new() -> Self {
        Self { pki: Pki::new(), quote: Quote::new(), collateral: Collateral::new(), trusted: None }
    }

    /// Makes, signs and appraises the evidence.
    pub(crate) fn appraise(&self, expected: &Expectations, at: &str) -> Appraisal {
        let at: UnixTime = at.parse().expect("a time");
        let quote = self.quote.build(&self.pki);
        let collateral = self.collateral.build(&self.pki);
        let evidence = Evidence { quote: &quote, collateral: Some(&collateral), event_log: None };
        let root = || Certificate::from_der(&self.pki.root.build()).expect("the root");
        let trusted = self.trusted.clone().unwrap_or_else(|| TrustedRoots::intel().and_simulated(&root()));
        appraise(&evidence, expected, &trusted, at)
    }
}
