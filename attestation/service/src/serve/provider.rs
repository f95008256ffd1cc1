//! The table `[oidc]` of the configuration, and the provider's keys: read from a file, or asked for now and then.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::http::Uri;
use coffer_attestation::time::UnixTime;
use serde::Deserialize;

use crate::collateral::{GetError, Https, Origin, OriginError};
use crate::operators::{MAX_KEY_SET, Oidc, OidcError, Operator};

/// How long the provider may take.
const TIMEOUT: Duration = Duration::from_secs(20);
/// How often it is asked for its keys.
const PERIOD: Duration = Duration::from_secs(600);
/// How often at most, also when tokens name keys that it did not have.
const LEAST: Duration = Duration::from_secs(10);

/// What the operator wrote.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Provider {
    issuer: String,
    audience: String,
    /// A file, or `https://…`: a JSON Web Key Set.
    keys: String,
    /// Who may have signed the provider's TLS certificate.
    #[serde(default = "authorities")]
    authorities: PathBuf,
    /// Which claim lists groups.
    #[serde(default = "roles")]
    claim: String,
    /// How long its keys are believed when it cannot be reached.
    #[serde(default = "a_day")]
    keys_hours: u64,
    /// What each group may do.
    #[serde(default)]
    pub(super) group: Vec<Operator>,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// A file.
    #[error("{path:?} cannot be read")]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not where a provider could be.
    #[error("the keys cannot be asked for")]
    Origin(#[from] OriginError),
    /// Nobody answers.
    #[error("the keys cannot be asked for")]
    Get(#[from] GetError),
    /// Not keys.
    #[error("what the provider has cannot be used")]
    Keys(#[from] OidcError),
}

fn authorities() -> PathBuf {
    PathBuf::from("/etc/ssl/certs/ca-certificates.crt")
}

fn a_day() -> u64 {
    24
}

fn roles() -> String {
    "roles".to_owned()
}

impl Provider {
    /// A check without keys yet.
    pub fn check(&self) -> Arc<Oidc> {
        let most_age = Duration::from_secs(self.keys_hours.saturating_mul(3600));
        Arc::new(Oidc::new(&self.issuer, &self.audience, &self.claim, most_age))
    }

    /// Reads the keys once; they are those of the time `now`.
    ///
    /// # Errors
    /// [`ProviderError`]
    pub async fn refresh(&self, oidc: &Oidc, now: UnixTime) -> Result<(), ProviderError> {
        let keys = match self.keys.strip_prefix("https://") {
            Some(_) => self.fetch().await?,
            None => {
                let read = tokio::fs::read(&self.keys).await;
                read.map_err(|source| ProviderError::File { path: Path::new(&self.keys).to_owned(), source })?
            }
        };
        Ok(oidc.set_keys(&keys, now)?)
    }

    /// Reads the keys again and again, for as long as the service runs, and sooner when a token names one that is not there.
    /// Those that are there stay until others were read, or until they are too old.
    pub async fn keep_fresh(self, oidc: Arc<Oidc>) {
        loop {
            if let Err(error) = self.refresh(&oidc, SystemTime::now().into()).await {
                tracing::warn!(error = ?error, "the keys of the operators' identity provider were not read");
            }
            let wanted = async {
                tokio::time::sleep(LEAST).await;
                oidc.unknown_key().await;
            };
            // An end of the time is as good as a token.
            let _ = tokio::time::timeout(PERIOD, wanted).await;
        }
    }

    async fn fetch(&self) -> Result<Vec<u8>, ProviderError> {
        let wrong = || OriginError { found: self.keys.clone() };
        let uri: Uri = self.keys.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        let origin: Origin = format!("https://{authority}").parse()?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let https = Https::new(&self.authorities, TIMEOUT)?;
        Ok(https.get(&origin, path, MAX_KEY_SET).await?.body)
    }
}
