//! What the configuration says of stores that are not files: keys in tokens.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

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
}

impl Default for Tokens {
    fn default() -> Self {
        Self { patience_milliseconds: 2000, data_key_seconds: 3600 }
    }
}

impl Tokens {
    /// Finds a key.
    pub(super) fn open(self, address: &str) -> Result<Arc<dyn KeyService>, StoresError> {
        let of = || address.to_owned();
        let read = address.parse().map_err(|source| StoresError::Address { address: of(), source })?;
        let patience = Duration::from_millis(self.patience_milliseconds.clamp(10, 60_000));
        let key = HsmKey::open(read, patience);
        let key = key.map_err(|source| StoresError::Token { address: of(), source })?;
        Ok(Arc::new(TokenKek::new(key, Duration::from_secs(self.data_key_seconds))))
    }
}
