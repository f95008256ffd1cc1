//! The authority's key and certificate, made once and kept in a directory.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use coffer_attestation::time::UnixTime;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::durable;

/// Ten years, in seconds: those who believe it were told once.
const LIFETIME: u64 = 10 * 365 * 86_400;
/// How far apart the clocks of those who show certificates and those who look may be, in seconds.
const SKEW: u64 = 300;

/// An authority.
pub struct Authority {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// Why there is no authority, or no certificate of it.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file.
    #[error("{path:?} cannot be used")]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A key that others can read.
    #[error("{path:?} has mode {mode:o}: whoever reads it can sign in the verifier's name, so make it 600")]
    Mode {
        /// Its path.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A name that does not stand in a certificate.
    #[error("{name:?} is no name: letters, digits and . _ @ - are, at most 64, and not the dot first")]
    Name {
        /// The name.
        name: String,
    },
    /// Not a key, or nothing to be signed.
    #[error("a certificate cannot be made")]
    Certificate(#[from] rcgen::Error),
    /// A time that certificates cannot have.
    #[error("{at} s after 1970 cannot stand in a certificate")]
    Time {
        /// The time.
        at: u64,
    },
    /// Nothing to make serial numbers of.
    #[error("there is no randomness")]
    Randomness,
}

impl Authority {
    /// Reads the authority that `directory` holds, or makes one there.
    ///
    /// # Errors
    /// [`AuthorityError`]
    pub fn open(directory: &Path, now: UnixTime) -> Result<Self, AuthorityError> {
        let (key, pem) = (directory.join("authority.key"), directory.join("authority.pem"));
        if !key.exists() {
            let folder = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
            folder.map_err(|source| at(directory, source))?;
            let made = KeyPair::generate()?;
            write_once(&key, Zeroizing::new(made.serialize_pem()).as_bytes(), 0o600)?;
        }
        let mode = fs::metadata(&key).map_err(|source| at(&key, source))?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(AuthorityError::Mode { path: key, mode });
        }
        let text = Zeroizing::new(fs::read_to_string(&key).map_err(|source| at(&key, source))?);
        let pair = KeyPair::from_pem(&text)?;
        let params = params(&pair, now)?;
        if !pem.exists() {
            write_once(&pem, params.self_signed(&pair)?.pem().as_bytes(), 0o644)?;
        }
        let pem = fs::read_to_string(&pem).map_err(|source| at(&pem, source))?;
        Ok(Self { issuer: Issuer::new(params, pair), pem })
    }

    /// Its certificate, which is no secret.
    pub fn pem(&self) -> &str {
        &self.pem
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

/// The name follows from the key, so that it is the same at each start.
fn params(key: &KeyPair, now: UnixTime) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    let name: String = hex::encode(Sha256::digest(key.public_key_raw())).chars().take(16).collect();
    params.distinguished_name.push(DnType::CommonName, format!("Coffer verifier {name}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    dated(&mut params, now, LIFETIME)?;
    Ok(params)
}

/// Says from when until when.
pub(super) fn dated(
    params: &mut CertificateParams,
    now: UnixTime,
    lifetime: u64,
) -> Result<(), AuthorityError> {
    let time = |at: u64| {
        let seconds = i64::try_from(at).ok();
        let time = seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
        time.ok_or(AuthorityError::Time { at })
    };
    params.not_before = time(now.0.saturating_sub(SKEW))?;
    params.not_after = time(now.0.saturating_add(lifetime))?;
    Ok(())
}

/// Writes a file that must not be there.
pub(super) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), AuthorityError> {
    durable::create(path, bytes, mode).map_err(|source| at(path, source))
}

/// Writes a file, unless somebody else has done it meanwhile: then that one is it.
fn write_once(path: &Path, bytes: &[u8], mode: u32) -> Result<(), AuthorityError> {
    match durable::create(path, bytes, mode) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        written => written.map_err(|source| at(path, source)),
    }
}

fn at(path: &Path, source: io::Error) -> AuthorityError {
    AuthorityError::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const NOW: UnixTime = UnixTime(1_795_262_400);

    #[test]
    fn an_authority_is_made_once_with_a_key_that_nobody_else_reads() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("authority");
        let first = Authority::open(&place, NOW).expect("an authority");
        let again = Authority::open(&place, UnixTime(NOW.0 + 86_400)).expect("the same");
        assert_eq!(first.pem(), again.pem());
        let key = place.join("authority.key");
        assert_eq!(fs::metadata(&key).expect("a key").mode() & 0o777, 0o600);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("changed");
        let refused = Authority::open(&place, NOW);
        assert!(matches!(refused, Err(AuthorityError::Mode { mode: 0o640, .. })));
    }
}
