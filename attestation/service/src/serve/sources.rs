//! The table `[collateral]` of the configuration: where certificates and lists of makers are kept, and who is asked for more.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::collateral::{
    Cache, CacheError, Collateral, Fetcher, GetError, Https, Makers, Origin, OriginError,
};
use crate::collateral::{Pace, Roots};

/// How long a service may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What the operator wrote.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sources {
    directory: PathBuf,
    /// Whether evidence of SNP is worth nothing without AMD's revocation list.
    #[serde(default)]
    snp_revocation_list: Need,
    /// Whether the makers' services are asked.
    #[serde(default)]
    fetch: bool,
    #[serde(default = "amd")]
    amd: String,
    #[serde(default = "intel")]
    intel: String,
    #[serde(default = "intel_root")]
    intel_root: String,
    /// Who may have signed the services' TLS certificates.
    #[serde(default = "authorities")]
    authorities: PathBuf,
    #[serde(default = "requests")]
    requests_per_minute: u32,
    /// Certificates of chips that were fetched and are kept; the one that was not used for longest gives way.
    #[serde(default = "fetched")]
    most_fetched: usize,
    /// How long a guest waits for what is fetched.
    #[serde(default = "patience")]
    patience_seconds: u64,
}

/// Whether something must be there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Need {
    /// It is looked at if it is there.
    #[default]
    IfThere,
    /// Nothing is affirmed without it.
    Required,
}

/// Why they cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourcesError {
    /// The directory.
    #[error("the cache cannot be used")]
    Cache(#[from] CacheError),
    /// A service.
    #[error("a service of [collateral] cannot be asked")]
    Origin(#[from] OriginError),
    /// TLS.
    #[error("the services of [collateral] cannot be asked")]
    Https(#[from] GetError),
    /// No thread.
    #[error("nothing can be fetched")]
    Thread(#[source] std::io::Error),
}

fn amd() -> String {
    "https://kdsintf.amd.com".to_owned()
}

fn intel() -> String {
    "https://api.trustedservices.intel.com".to_owned()
}

fn intel_root() -> String {
    "https://certificates.trustedservices.intel.com".to_owned()
}

fn authorities() -> PathBuf {
    PathBuf::from("/etc/ssl/certs/ca-certificates.crt")
}

fn requests() -> u32 {
    20
}

fn fetched() -> usize {
    8192
}

fn patience() -> u64 {
    8
}

impl Sources {
    /// Whether evidence of SNP is worth nothing without a revocation list.
    pub fn needs_snp_revocation_list(&self) -> bool {
        self.snp_revocation_list == Need::Required
    }

    /// Opens the cache alone.
    ///
    /// # Errors
    /// [`SourcesError`]
    pub fn cache(&self, roots: Roots) -> Result<Cache, SourcesError> {
        Ok(Cache::open(&self.directory, roots)?.with_most_fetched(self.most_fetched))
    }

    /// Opens the cache, and begins to fetch if that is allowed.
    ///
    /// # Errors
    /// [`SourcesError`]
    pub fn open(&self, roots: Roots) -> Result<Collateral, SourcesError> {
        let cache = Arc::new(self.cache(roots)?);
        if !self.fetch {
            return Ok(Collateral::offline(cache));
        }
        let at = |text: &str| text.parse::<Origin>();
        let makers =
            Makers { amd: at(&self.amd)?, intel: at(&self.intel)?, intel_root: at(&self.intel_root)? };
        let https = Https::new(&self.authorities, TIMEOUT)?;
        let start = || {
            let pace = Pace::new(self.requests_per_minute);
            Fetcher::start(cache.clone(), https.clone(), makers.clone(), pace).map_err(SourcesError::Thread)
        };
        let fetchers = [start()?, start()?];
        Ok(Collateral::online(cache, fetchers, Duration::from_secs(self.patience_seconds)))
    }
}
