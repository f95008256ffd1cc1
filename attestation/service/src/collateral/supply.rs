//! What evidence needs and does not bring: found in the cache, or fetched into it while the guest waits a little.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coffer_attestation::snp::{Endorsement, Generation, SigningKey, UnverifiedReport, amd_authorities};
use coffer_attestation::tdx::{PlatformKind, UnverifiedQuote};
use coffer_attestation::time::UnixTime;
use coffer_attestation::x509::{Certificate, RevocationList};

use super::cache::Cache;
use super::fetch::{FetchError, Fetcher};
use super::item::Item;
use super::read::{Content, Kept};
use crate::source::Source;

/// Guests that wait for a maker's service at once. One more is told to come back.
const WAITING: usize = 8;
/// Those of one client.
const CLIENT_WAITING: usize = 6;

/// A cache, and what fills it.
#[derive(Debug)]
pub struct Collateral {
    cache: Arc<Cache>,
    /// One for AMD, one for Intel. Without them nothing is asked.
    fetchers: Option<[Fetcher; 2]>,
    patience: Duration,
    /// How many of each client wait.
    waiting: Mutex<HashMap<Source, usize>>,
}

/// Why a certificate is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Absent {
    /// The report does not name it.
    #[error("the evidence carries no certificate of its key, and its report does not name one: {why}")]
    Unnamed {
        /// What is missing.
        why: &'static str,
    },
    /// It is not kept, and nothing is fetched.
    #[error("the evidence carries no certificate of its key, and {item} is not kept here: send it along")]
    Unknown {
        /// What is wanted.
        item: String,
    },
    /// Later, perhaps.
    #[error("{item} is being fetched, or will be: try again in a few seconds")]
    Later {
        /// What is wanted.
        item: String,
    },
}

impl Collateral {
    /// Only what is kept.
    pub fn offline(cache: Arc<Cache>) -> Self {
        Self { cache, fetchers: None, patience: Duration::ZERO, waiting: Mutex::default() }
    }

    /// What is kept, and what AMD's and Intel's services have. A guest waits `patience` for it.
    pub fn online(cache: Arc<Cache>, [amd, intel]: [Fetcher; 2], patience: Duration) -> Self {
        Self { cache, fetchers: Some([amd, intel]), patience, waiting: Mutex::default() }
    }

    /// The cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The VCEK that `report`, which came from `from`, names, and the authorities above it if they are others than those that are built in.
    ///
    /// # Errors
    /// [`Absent`]
    pub fn vcek(
        &self,
        report: &UnverifiedReport,
        from: Source,
        at: UnixTime,
    ) -> Result<(Certificate, Vec<Certificate>), Absent> {
        let item = vcek_of(report)?;
        let Item::Vcek { generation, .. } = item else {
            return Err(Absent::Unknown { item: item.to_string() });
        };
        let text = || item.to_string();
        match self.find(&item, from, at) {
            Ok(Some(kept)) => match &kept.content {
                Content::Vcek(vcek) => Ok((Certificate::clone(vcek), self.above(vcek, generation, at))),
                _ => Err(Absent::Unknown { item: text() }),
            },
            Ok(None) | Err(FetchError::Refused) => Err(Absent::Unknown { item: text() }),
            Err(_) => Err(Absent::Later { item: text() }),
        }
    }

    /// The revocation list that speaks of what is above `vek`. One that is out of date is given too, so that the verdict says
    /// so.
    pub fn list(&self, vek: &Certificate, from: Source, at: UnixTime) -> Option<RevocationList> {
        let generation = Endorsement::read(vek).ok()?.generation;
        let simulated = !amd_authorities(generation).any(|authority| vek.names_as_issuer(authority));
        if simulated && self.cache.roots().snp.simulated().is_empty() {
            return None;
        }
        let found = self.find(&Item::List { generation, simulated }, from, at);
        match &found.ok().flatten()?.content {
            Content::List(list) => Some(RevocationList::clone(list)),
            _ => None,
        }
    }

    /// Intel's collateral for the platform that made `quote`, in JSON.
    pub fn platform(&self, quote: &[u8], from: Source, at: UnixTime) -> Option<Arc<Kept>> {
        let quote = UnverifiedQuote::parse(quote).ok()?;
        let kind = PlatformKind::of_quote(&quote, &self.cache.roots().tdx, at)?;
        self.find(&Item::Platform(kind), from, at).ok().flatten()
    }

    fn above(&self, vcek: &Certificate, generation: Generation, at: UnixTime) -> Vec<Certificate> {
        let built_in = amd_authorities(generation).any(|authority| vcek.check_issued_by(authority).is_ok());
        if built_in { Vec::new() } else { self.cache.authorities(generation, at) }
    }

    /// From the cache while it is good; what nears its end is renewed behind the guest's back.
    fn find(&self, item: &Item, from: Source, at: UnixTime) -> Result<Option<Arc<Kept>>, FetchError> {
        let known = self.cache.find(item, at);
        let Some([amd, intel]) = &self.fetchers else { return Ok(known) };
        let fetcher = if matches!(item, Item::Platform(_)) { intel } else { amd };
        match known {
            Some(kept) if kept.until >= at => {
                if kept.is_to_be_renewed(at) {
                    // Refused or later: the one that is here is good.
                    let _ = fetcher.want(item, from, at);
                }
                Ok(Some(kept))
            }
            known => match self.wait(fetcher, item, from, at) {
                Ok(()) => match self.cache.find(item, at) {
                    Some(kept) => Ok(Some(kept)),
                    // Refused meanwhile, or the service is away.
                    None => fetcher.want(item, from, at).and(Err(FetchError::Later)),
                },
                Err(_) if known.is_some() => Ok(known),
                Err(error) => Err(error),
            },
        }
    }

    fn wait(&self, fetcher: &Fetcher, item: &Item, from: Source, at: UnixTime) -> Result<(), FetchError> {
        let place = self.place(from);
        let patience = if place.is_some() { self.patience } else { Duration::ZERO };
        fetcher.wait(item, from, at, patience)
    }

    /// A place among those that wait, if there is one for this client.
    fn place(&self, from: Source) -> Option<Place<'_>> {
        let mut waiting = self.waiting();
        let mine = waiting.get(&from).copied().unwrap_or(0);
        if mine >= CLIENT_WAITING || waiting.values().sum::<usize>() >= WAITING {
            return None;
        }
        waiting.insert(from, mine + 1);
        Some(Place { collateral: self, from })
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Source, usize>> {
        // Counters only: whole even if a thread died with them.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guest that waits, until this is dropped.
struct Place<'a> {
    collateral: &'a Collateral,
    from: Source,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.collateral.waiting();
        let mine = waiting.remove(&self.from).unwrap_or(0);
        if mine > 1 {
            waiting.insert(self.from, mine - 1);
        }
    }
}

impl Kept {
    /// Past two thirds of its time.
    fn is_to_be_renewed(&self, at: UnixTime) -> bool {
        let third = self.until.0.saturating_sub(self.from.0) / 3;
        // A certificate of a chip is good for years, and there is no newer one.
        !matches!(self.content, Content::Vcek(_)) && self.until.0.saturating_sub(at.0) < third
    }
}

/// Which VCEK signed `report`, as it says itself.
fn vcek_of(report: &UnverifiedReport) -> Result<Item, Absent> {
    let unnamed = |why| Err(Absent::Unnamed { why });
    if report.signing_key == SigningKey::Vlek {
        return unnamed("a cloud provider's key signed it, and only the provider has its certificate");
    }
    if report.chip_id.iter().all(|byte| *byte == 0) {
        return unnamed("the platform masks its chip id");
    }
    let Some(generation) = report.generation else {
        return unnamed("a report of version 2 does not say which generation its chip is of");
    };
    // Turin's ids have 8 bytes, and zeros behind them.
    let length = if generation == Generation::Turin { 8 } else { report.chip_id.len() };
    let chip = report.chip_id.iter().take(length).copied().collect();
    Ok(Item::Vcek { generation, chip, tcb: report.reported_tcb })
}
