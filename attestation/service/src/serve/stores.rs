//! What the configuration says of stores that are not files: keys in tokens, and a database that replicas share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::database::{ConnectError, Database, DatabaseError, Identity, Postgres};
use crate::hsm::{AddressError, HsmError, HsmKey};
use crate::secrets::{KeyService, StoreError, TokenKek};

/// The table `[hsm]`: how tokens are waited for. Which they are is said where the keys are named.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Tokens {
    /// How long anybody waits for a token.
    patience_milliseconds: u64,
    /// How long a tenant's key that a token unwrapped is remembered, so that it can be used while the token is away.
    data_key_seconds: u64,
}

/// The table `[postgres]`: instead of a file, where there are several replicas.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Replicated {
    /// A name, or the folder of a Unix socket.
    host: String,
    #[serde(default = "port")]
    port: u16,
    database: String,
    user: String,
    /// A file; without it the server asks for none, or knows the certificate or the user of the socket.
    #[serde(default)]
    password_file: Option<PathBuf>,
    /// Who may have signed the server's certificate.
    #[serde(default)]
    authorities: Option<PathBuf>,
    /// The verifier's own, and its key.
    #[serde(default)]
    certificate: Option<PathBuf>,
    #[serde(default)]
    key: Option<PathBuf>,
    /// No TLS over a network.
    #[serde(default)]
    insecure_plain: bool,
    #[serde(default = "connections")]
    connections: usize,
    #[serde(default = "patience")]
    patience_milliseconds: u64,
}

fn port() -> u16 {
    5432
}

fn connections() -> usize {
    8
}

fn patience() -> u64 {
    3000
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoresError {
    /// A key's address.
    #[error("{address:?} names no key")]
    Address {
        /// What was written.
        address: String,
        /// What is wrong with it.
        source: AddressError,
    },
    /// A token.
    #[error("the key {address:?} cannot be used")]
    Token {
        /// What was written.
        address: String,
        /// What is wrong.
        source: HsmError,
    },
    /// The secret store.
    #[error("the secret store cannot be opened")]
    Store(#[from] StoreError),
    /// The way to the database.
    #[error("the database of [postgres] cannot be connected to")]
    Connect(#[from] ConnectError),
    /// The database.
    #[error("the database cannot be used")]
    Database(#[from] DatabaseError),
    /// Neither, or both.
    #[error("give either store, a file, or [postgres]")]
    Which,
    /// Half of an identity.
    #[error("[postgres] needs certificate and key, with authorities, or neither of both")]
    Identity,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { patience_milliseconds: 2000, data_key_seconds: 3600 }
    }
}

impl Tokens {
    /// Finds a key.
    pub(super) fn open(self, address: &str) -> Result<Arc<dyn KeyService>, StoresError> {
        // A PIN that somebody wrote into it, against the rules, stands behind the question mark.
        let of = || address.split('?').next().unwrap_or_default().to_owned();
        let read = address.parse().map_err(|source| StoresError::Address { address: of(), source })?;
        let patience = Duration::from_millis(self.patience_milliseconds.clamp(10, 60_000));
        let key = HsmKey::open(read, patience);
        let key = key.map_err(|source| StoresError::Token { address: of(), source })?;
        Ok(Arc::new(TokenKek::new(key, Duration::from_secs(self.data_key_seconds))))
    }
}

impl Replicated {
    /// Connects.
    pub(super) fn open(&self) -> Result<Database, StoresError> {
        let mut postgres = Postgres::new(&self.host, self.port, &self.database, &self.user);
        if let Some(path) = &self.password_file {
            postgres = postgres.with_password(path)?;
        }
        let own = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            _ => return Err(StoresError::Identity),
        };
        match &self.authorities {
            Some(authorities) => {
                let identity = Identity { authorities: authorities.clone(), own };
                postgres = postgres.with_tls(&identity)?;
            }
            None if own.is_some() => return Err(StoresError::Identity),
            None if self.host.starts_with('/') => {}
            None if self.insecure_plain => {
                tracing::warn!(
                    flag = "insecure-plain",
                    "the database is spoken to without TLS: whoever is in between is it"
                );
            }
            None => return Err(ConnectError::Plain { host: self.host.clone() }.into()),
        }
        let patience = Duration::from_millis(self.patience_milliseconds.clamp(100, 60_000));
        let postgres = postgres.with_limits(self.connections.clamp(1, 64), patience);
        Ok(Database::shared(postgres)?)
    }
}
