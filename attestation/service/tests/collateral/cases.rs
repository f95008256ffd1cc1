//! What the tests share: times, caches, and a verifier's supply of what is kept.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coffer_attestation::snp;
use coffer_attestation::tdx;
use coffer_attestation::time::UnixTime;
use coffer_verifier::collateral::{Cache, Collateral, Fetcher, Https, Makers, Pace, Roots};
use coffer_verifier::source::Source;

use crate::forged;
use crate::played::Played;

/// 2026-11-21T12:00:00Z.
pub(crate) const NOW: UnixTime = UnixTime(1_795_262_400);
/// Within the dates of Intel's recorded collateral.
pub(crate) const INTELS_TIME: &str = "2025-06-19T11:00:00Z";
/// Who asks, where that makes no difference.
pub(crate) const HERE: Source = Source::V4([192, 0, 2, 1]);
/// Longer than anything on this machine takes; nothing waits for its end.
pub(crate) const LONG: Duration = Duration::from_secs(300);
pub(crate) const QUOTE: &[u8] = include_bytes!("../../../testdata/tdx/quote4-uptodate-phala/quote.bin");
pub(crate) const INTELS: &[u8] =
    include_bytes!("../../../testdata/tdx/quote4-uptodate-phala/collateral.json");
pub(crate) const MILAN: &[u8] = include_bytes!("../../../testdata/snp/milan-v3-oak/report.bin");
pub(crate) const MILAN_VCEK: &[u8] = include_bytes!("../../../testdata/snp/milan-v3-oak/vcek.der");

pub(crate) fn roots() -> Roots {
    Roots { snp: snp::TrustedRoots::amd().and_simulated(forged::root()), tdx: tdx::TrustedRoots::intel() }
}

pub(crate) fn cache(directory: &Path) -> Arc<Cache> {
    Arc::new(Cache::open(directory, roots()).expect("a cache"))
}

/// What `played` answers, waited for at most for `patience`.
pub(crate) fn online(directory: &Path, played: &Played, patience: Duration) -> Collateral {
    supplied(directory, played, [patience; 2])
}

/// The same with a service that may take longer for an answer than a guest waits for it.
pub(crate) fn supplied(directory: &Path, played: &Played, [timeout, patience]: [Duration; 2]) -> Collateral {
    let cache = cache(directory);
    let origin = || played.origin().parse().expect("a service");
    let makers = Makers { amd: origin(), intel: origin(), intel_root: origin() };
    let https = Https::new(&played.authority(), timeout).expect("TLS");
    let start = || {
        let pace = Pace::new(6000);
        Fetcher::start(cache.clone(), https.clone(), makers.clone(), pace).expect("a thread")
    };
    Collateral::online(cache.clone(), [start(), start()], patience)
}
