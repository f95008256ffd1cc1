//! What Intel publishes, judged before there is a quote: whoever keeps collateral keeps nothing that does not verify.

use super::chain::Terms;
use super::collateral::UnverifiedCollateral;
use super::quote::UnverifiedQuote;
use super::roots::TrustedRoots;
use crate::time::UnixTime;
use crate::verdict::{Appraisal, Checks, Claims, Verdict};
use crate::x509::{Certificate, Edition, RevocationList};

/// Which of Intel's two authorities issued a PCK certificate; each has a revocation list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PckAuthority {
    /// For machines of several sockets.
    Platform,
    /// For machines of one.
    Processor,
}

/// Which collateral a quote needs: there is one for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlatformKind {
    /// Family, model, stepping, platform type and custom SKU.
    pub fmspc: [u8; 6],
    /// Whose revocation list speaks of its PCK certificates.
    pub authority: PckAuthority,
}

/// Collateral that verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// What it is about.
    pub kind: PlatformKind,
    /// When the newest part of it was issued.
    pub issued: UnixTime,
    /// When the first part of it is to be replaced.
    pub next_update: UnixTime,
    /// Which TCB info, QE identity (both by Intel's evaluation), list of the root and list of PCK certificates it holds.
    pub editions: [Edition; 4],
}

impl PckAuthority {
    /// As Intel's service names it.
    pub fn name(self) -> &'static str {
        match self {
            PckAuthority::Platform => "platform",
            PckAuthority::Processor => "processor",
        }
    }

    fn of(certificate: &Certificate) -> Option<Self> {
        match certificate.common_name().as_deref() {
            Some("Intel SGX PCK Platform CA") => Some(PckAuthority::Platform),
            Some("Intel SGX PCK Processor CA") => Some(PckAuthority::Processor),
            _ => None,
        }
    }
}

impl PlatformKind {
    /// What a quote's PCK certificate names, if a trusted root stands above it: a stranger's names nothing.
    pub fn of_quote(quote: &UnverifiedQuote, trust: &TrustedRoots, at: UnixTime) -> Option<Self> {
        let terms = Terms { roots: trust, at };
        let pck = terms.pck(&mut Checks::default(), &quote.certificates)?;
        let authority = pck.authority().and_then(PckAuthority::of)?;
        Some(Self { fmspc: pck.platform.as_ref()?.fmspc, authority })
    }
}

/// Judges collateral alone as of the time `at`. Without a failed check the second part says what it is about.
pub fn appraise_collateral(
    json: &[u8],
    trust: &TrustedRoots,
    at: UnixTime,
) -> (Appraisal, Option<Published>) {
    let mut checks = Checks::default();
    let form = "TCB info, QE identity and revocation lists";
    let parsed = checks.settle("collateral-format", form, UnverifiedCollateral::parse(json));
    let published =
        parsed.and_then(|collateral| publish(&mut checks, &collateral, Terms { roots: trust, at }));
    let sound = checks.verdict() == Verdict::Affirming;
    (Appraisal::new(checks, Claims::new()), published.filter(|_| sound))
}

fn publish(checks: &mut Checks, collateral: &UnverifiedCollateral, terms: Terms<'_>) -> Option<Published> {
    let authority = terms.lists(checks, collateral);
    let info = terms.tcb_info(checks, collateral);
    let identity = terms.qe_identity(checks, collateral);
    let (authority, info, identity) = (authority?, info?, identity?);
    let lists = [&collateral.root_crl, &collateral.pck_crl];
    let issued = lists.map(RevocationList::this_update);
    let next = lists.map(|list| list.next_update().unwrap_or(list.this_update()));
    Some(Published {
        kind: PlatformKind { fmspc: info.fmspc, authority: PckAuthority::of(authority.certificate)? },
        issued: issued.into_iter().chain([info.issue_date, identity.issue_date]).max()?,
        next_update: next.into_iter().chain([info.next_update, identity.next_update]).min()?,
        editions: [
            Edition::new(&info.tcb_evaluation_data_number.to_be_bytes(), info.issue_date),
            Edition::new(&identity.tcb_evaluation_data_number.to_be_bytes(), identity.issue_date),
            collateral.root_crl.edition(),
            collateral.pck_crl.edition(),
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &[u8] = include_bytes!("../../testdata/tdx/quote4-uptodate-phala/collateral.json");
    const QUOTE: &[u8] = include_bytes!("../../testdata/tdx/quote4-uptodate-phala/quote.bin");
    const GOOD: &str = "2025-06-19T11:00:00Z";

    fn judged(file: &[u8], at: &str) -> (Appraisal, Option<Published>) {
        appraise_collateral(file, &TrustedRoots::intel(), at.parse().expect("a time"))
    }

    #[test]
    fn collateral_is_about_the_platform_that_the_quote_names() {
        let (appraisal, published) = judged(FILE, GOOD);
        assert_eq!(appraisal.verdict(), Verdict::Affirming, "{:?}", appraisal.checks());
        let quote = UnverifiedQuote::parse(QUOTE).expect("a quote");
        let at = GOOD.parse().expect("a time");
        let kind = PlatformKind::of_quote(&quote, &TrustedRoots::intel(), at);
        let published = published.expect("published");
        assert_eq!(Some(published.kind), kind);
        assert!(published.issued <= at && at <= published.next_update);
    }

    #[test]
    fn collateral_of_another_time_or_with_a_changed_statement_is_about_nothing() {
        assert_eq!(judged(FILE, "2027-06-19T11:00:00Z").1, None);
        let changed = String::from_utf8_lossy(FILE).replace("UpToDate", "UpToDatE");
        let (appraisal, published) = judged(changed.as_bytes(), GOOD);
        assert_eq!(published, None);
        assert!(appraisal.reasons().any(|check| check.name == "tcb-info-signature"));
    }

    #[test]
    fn a_quote_below_a_root_that_is_not_trusted_names_no_platform() {
        let quote = UnverifiedQuote::parse(QUOTE).expect("a quote");
        let nobody = TrustedRoots::intel().only(quote_leaf(&quote).first().expect("a leaf"));
        assert_eq!(PlatformKind::of_quote(&quote, &nobody, GOOD.parse().expect("a time")), None);
    }

    fn quote_leaf(quote: &UnverifiedQuote) -> Vec<Certificate> {
        let text = quote.certificates.strip_suffix(&[0]).unwrap_or(&quote.certificates);
        Certificate::from_file(text).expect("certificates")
    }
}
