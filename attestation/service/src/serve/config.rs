//! The service's configuration: one TOML file, read once; an unknown key is an error.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use coffer_attestation::dsse::SignerKey;
use coffer_attestation::handshake::TokenKey;
use coffer_attestation::snp::TrustedRoots;
use coffer_attestation::x509::Certificate;
use p256::ecdsa::SigningKey;
use rustls::ServerConfig;
use serde::Deserialize;

use super::clients::Limits;
use super::provider::Provider;
use super::sources::{Sources, SourcesError};
use super::stores::{Replicated, StoresError, Tokens};
use super::tls::{Certificates, TlsError};
use super::traced::Collector;
use crate::appraisal::{ReferenceError, References, Signer, Signers, Trust};
use crate::audit::{AuditLog, LogError};
use crate::authority::Authority;
use crate::challenge::{ChallengeKey, Challenger, Spent};
use crate::collateral::{Cache, Roots};
use crate::database::Database;
use crate::exchange::{Parts, Refusal, Verifier};
use crate::hsm::KeyAddress;
use crate::operators::{CustomRole, Directory, DirectoryError, Operator};
use crate::secrets::{KeyEncryptionKey, KeyService, Keys, SecretStore};
use crate::traces::Traces;

/// How many answered challenges are remembered: some 16 MiB at most.
const SPENT: usize = 300_000;
/// The longest time that a certificate of the own authority is good for.
const MAX_HOURS: u64 = 24 * 90;

/// What the operator wrote. Keys are files of exactly 32 random bytes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Address and port.
    pub listen: SocketAddr,
    /// Both, or `[own-authority]`.
    #[serde(default)]
    tls_certificate: Option<PathBuf>,
    #[serde(default)]
    tls_key: Option<PathBuf>,
    #[serde(default)]
    own_authority: Option<OwnAuthority>,
    /// Identity provider of operators, beside certificates.
    #[serde(default)]
    pub oidc: Option<Provider>,
    /// Who is told how long requests took.
    #[serde(default)]
    traces: Option<Collector>,
    /// A list that a signer signed.
    references: PathBuf,
    /// Who may sign reference values.
    #[serde(default)]
    reference_signer: Vec<PinnedSigner>,
    /// Whether reference values count that nobody signed.
    #[serde(default)]
    insecure_unsigned_references: bool,
    /// A file; or `[postgres]`.
    #[serde(default)]
    store: Option<PathBuf>,
    #[serde(default)]
    postgres: Option<Replicated>,
    audit_log: PathBuf,
    /// The current key first, then older ones that are still accepted: files, and keys in tokens by their `pkcs11:` address.
    key_encryption_keys: Vec<String>,
    /// How tokens are waited for.
    #[serde(default)]
    hsm: Tokens,
    /// The same for challenges; replicas share them.
    challenge_keys: Vec<PathBuf>,
    token_key: PathBuf,
    #[serde(default = "five_minutes")]
    challenge_seconds: u64,
    #[serde(default = "five_minutes")]
    token_seconds: u64,
    /// Signs checkpoints of the audit log.
    audit_key: PathBuf,
    /// Certificates that may sign those of operators; without it there are none.
    #[serde(default)]
    operator_authorities: Option<PathBuf>,
    /// Who they are.
    #[serde(default)]
    operator: Vec<Operator>,
    /// What they may do, beside the roles that are always there.
    #[serde(default)]
    role: Vec<CustomRole>,
    /// What may come in.
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    tdx_collateral: Option<PathBuf>,
    /// Certificates and lists of makers.
    #[serde(default)]
    collateral: Option<Sources>,
    /// Root of a simulated processor: whoever has its key can make any evidence.
    #[serde(default)]
    insecure_simulated_snp_root: Option<PathBuf>,
    #[serde(default)]
    insecure_sample: bool,
}

/// A key that may sign reference values.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct PinnedSigner {
    name: String,
    /// Its public key in PEM.
    key: PathBuf,
    /// For whose guests; `*` for everybody's.
    tenants: Vec<String>,
}

/// The verifier signs its certificates itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct OwnAuthority {
    directory: PathBuf,
    /// Names and addresses by which the verifier is reached.
    names: Vec<String>,
    #[serde(default = "a_day")]
    hours: u64,
}

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file.
    #[error("{path:?} cannot be read")]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not the configuration.
    #[error("{path:?} is no configuration: {reason}")]
    Form {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A key of another length.
    #[error(
        "{path:?} is no key of the kind that is wanted here: 32 bytes, or a public key in PEM of a signer"
    )]
    Key {
        /// Its path.
        path: PathBuf,
    },
    /// Operators and roles.
    #[error("the operators cannot be used")]
    Operators(#[source] DirectoryError),
    /// What was kept does not fit.
    #[error("what operators added cannot be used")]
    Kept(#[source] Refusal),
    /// Reference values.
    #[error("the reference values cannot be used")]
    References(#[source] ReferenceError),
    /// The simulated root.
    #[error("{path:?} is not one certificate")]
    Root {
        /// Its path.
        path: PathBuf,
    },
    /// Certificates and lists of makers, or a collector of traces.
    #[error("a service that the configuration names cannot be used")]
    Collateral(#[from] SourcesError),
    /// The secret store, or a key-encryption key in a token.
    #[error("what keeps the secrets cannot be used")]
    Stores(#[from] StoresError),
    /// The audit log.
    #[error("the audit log cannot be opened")]
    Audit(#[source] LogError),
    /// Neither files nor an authority, or both.
    #[error("give either tls-certificate with tls-key, or [own-authority]")]
    Identity,
    /// Certificate and key.
    #[error("the service has no identity")]
    Tls(#[source] TlsError),
}

fn a_day() -> u64 {
    24
}

fn five_minutes() -> u64 {
    300
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    fs::read(path).map_err(|source| ConfigError::File { path: path.to_owned(), source })
}

fn key(path: &Path) -> Result<[u8; 32], ConfigError> {
    read(path)?.try_into().map_err(|_| ConfigError::Key { path: path.to_owned() })
}

fn keys(paths: &[PathBuf]) -> Result<Vec<[u8; 32]>, ConfigError> {
    paths.iter().map(|path| key(path)).collect()
}

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let form = |reason: String| ConfigError::Form { path: path.to_owned(), reason };
        let text = String::from_utf8(read(path)?).map_err(|error| form(error.to_string()))?;
        toml::from_str(&text).map_err(|error| form(error.to_string()))
    }

    /// Reads certificate and key.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn certificates(&self) -> Result<Certificates, ConfigError> {
        match (&self.tls_certificate, &self.tls_key, &self.own_authority) {
            (Some(certificate), Some(key), None) => Certificates::load(certificate, key),
            (None, None, Some(own)) => {
                let now = SystemTime::now().into();
                let authority = self.authority()?.ok_or(ConfigError::Identity)?;
                let lifetime = own.hours.clamp(1, MAX_HOURS) * 3600;
                Certificates::own(Arc::new(authority), own.names.clone(), lifetime, now)
            }
            _ => return Err(ConfigError::Identity),
        }
        .map_err(ConfigError::Tls)
    }

    /// The verifier's own authority, if it is to have one.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn authority(&self) -> Result<Option<Authority>, ConfigError> {
        let open = |own: &OwnAuthority| Authority::open(&own.directory, SystemTime::now().into());
        let authority = self.own_authority.as_ref().map(open).transpose();
        authority.map_err(|error| ConfigError::Tls(error.into()))
    }

    /// Reads the reference values, and who may sign further ones.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn references(&self) -> Result<(References, Signers), ConfigError> {
        let signers = self.signers()?;
        let text = String::from_utf8_lossy(&read(&self.references)?).into_owned();
        Ok((signers.read(&text).map_err(ConfigError::References)?, signers))
    }

    fn signers(&self) -> Result<Signers, ConfigError> {
        let one = |PinnedSigner { name, key: path, tenants }: &PinnedSigner| {
            let pem = String::from_utf8_lossy(&read(path)?).into_owned();
            let key = SignerKey::from_pem(&pem).map_err(|_| ConfigError::Key { path: path.clone() })?;
            Ok(Signer { name: name.clone(), key, tenants: tenants.clone() })
        };
        let pinned: Result<Vec<_>, ConfigError> = self.reference_signer.iter().map(one).collect();
        Ok(Signers::new(pinned?, self.insecure_unsigned_references))
    }

    /// What TLS is told.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn tls(&self, certificates: &Arc<Certificates>) -> Result<ServerConfig, ConfigError> {
        certificates.config(self.operator_authorities.as_deref()).map_err(ConfigError::Tls)
    }

    /// Begins to tell how long requests took, if somebody is to know.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn traces(&self) -> Result<Option<Arc<Traces>>, ConfigError> {
        Ok(self.traces.as_ref().map(Collector::start).transpose()?)
    }

    /// Reads the key-encryption keys.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn key_encryption_keys(&self) -> Result<Keys, ConfigError> {
        let one = |name: &String| -> Result<Arc<dyn KeyService>, ConfigError> {
            if KeyAddress::is_one(name) {
                return Ok(self.hsm.open(name)?);
            }
            Ok(Arc::new(KeyEncryptionKey::new(key(Path::new(name))?)))
        };
        Ok(Arc::new(self.key_encryption_keys.iter().map(one).collect::<Result<_, _>>()?))
    }

    /// What is insecure about it, for the log.
    pub fn insecure(&self) -> Vec<&'static str> {
        let simulated = self.insecure_simulated_snp_root.is_some().then_some("insecure-simulated-snp-root");
        let sample = self.insecure_sample.then_some("insecure-sample");
        let unsigned = self.insecure_unsigned_references.then_some("insecure-unsigned-references");
        simulated.into_iter().chain(sample).chain(unsigned).collect()
    }

    /// Puts the verifier together.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn verifier(&self) -> Result<Verifier, ConfigError> {
        let store = self.store()?;
        let challenger = self.challenger(&store)?;
        let token_key = TokenKey::from_scalar(&key(&self.token_key)?)
            .ok_or_else(|| ConfigError::Key { path: self.token_key.clone() })?;
        if let Some(replicas) = store.database().replicas() {
            let name = [token_key.public().jwk().to_string()];
            replicas.agree("token-key", &name).map_err(StoresError::from)?;
        }
        let audit_key = SigningKey::from_slice(&key(&self.audit_key)?)
            .map_err(|_| ConfigError::Key { path: self.audit_key.clone() })?;
        let operators = Directory::with_groups(&self.operator, self.groups(), &self.role);
        let operators = operators.map_err(ConfigError::Operators)?;
        let (references, signers) = self.references()?;
        let verifier = Verifier::new(Parts {
            challenger,
            trust: self.trust()?,
            references,
            signers,
            token_key,
            token_lifetime: self.token_seconds,
            store,
            audit: AuditLog::open(&self.audit_log).map_err(ConfigError::Audit)?,
            audit_key,
            operators,
        });
        verifier.map_err(ConfigError::Kept)
    }

    fn store(&self) -> Result<SecretStore, ConfigError> {
        let keks = self.key_encryption_keys()?;
        let database = match (&self.store, &self.postgres) {
            (Some(file), None) => Database::embedded(file).map_err(StoresError::from)?,
            (None, Some(postgres)) => postgres.open()?,
            _ => return Err(StoresError::Which.into()),
        };
        Ok(SecretStore::over(database, keks).map_err(StoresError::from)?)
    }

    fn challenger(&self, store: &SecretStore) -> Result<Challenger, ConfigError> {
        let keys = keys(&self.challenge_keys)?.into_iter().map(ChallengeKey::new).collect();
        let Some(replicas) = store.database().replicas() else {
            return Ok(Challenger::new(keys, self.challenge_seconds, Spent::new(SPENT)));
        };
        let challenger = Challenger::shared(keys, self.challenge_seconds, replicas.clone());
        replicas.agree("challenge-keys", &challenger.key_names()).map_err(StoresError::from)?;
        Ok(challenger)
    }

    fn groups(&self) -> &[Operator] {
        self.oidc.as_ref().map_or(&[], |provider| provider.group.as_slice())
    }

    fn trust(&self) -> Result<Trust, ConfigError> {
        let mut trust = Trust::makers();
        trust.tdx_collateral = self.tdx_collateral.as_deref().map(read).transpose()?;
        trust.insecure_sample = self.insecure_sample;
        trust.snp = self.snp_roots()?;
        if let Some(sources) = &self.collateral {
            let roots = Roots { snp: trust.snp.clone(), tdx: trust.tdx.clone() };
            trust.collateral = Some(Arc::new(sources.open(roots)?));
            trust.snp_revocation_list = sources.needs_snp_revocation_list();
        }
        Ok(trust)
    }

    /// The cache of certificates and lists, if there is one.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn cache(&self) -> Result<Option<Cache>, ConfigError> {
        let roots = Roots { snp: self.snp_roots()?, tdx: Trust::makers().tdx };
        Ok(self.collateral.as_ref().map(|sources| sources.cache(roots)).transpose()?)
    }

    fn snp_roots(&self) -> Result<TrustedRoots, ConfigError> {
        if let Some(path) = &self.insecure_simulated_snp_root {
            let root = Certificate::from_file(&read(path)?).ok().and_then(|mut all| {
                let one = all.pop();
                one.filter(|_| all.is_empty())
            });
            let root = root.ok_or_else(|| ConfigError::Root { path: path.clone() })?;
            return Ok(TrustedRoots::amd().and_simulated(root));
        }
        Ok(TrustedRoots::amd())
    }
}
