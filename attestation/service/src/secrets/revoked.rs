//! What was revoked, in the same database as the secrets.

use coffer_attestation::time::UnixTime;
use serde::{Deserialize, Serialize};

use super::store::{SecretStore, StoreError};

/// What can be revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Revocation {
    /// One running guest: its SNP report id, or else the SHA-256 of its key, in hexadecimal.
    Sandbox,
    /// A launch digest or MRTD, in hexadecimal.
    Measurement,
    /// Who signed what was launched: the digest of an id key or author key (SNP), or MROWNER (TDX), in hexadecimal.
    Signer,
    /// A token, by its `jti`.
    Token,
    /// An operator's certificate, by its serial number in hexadecimal without leading zeros.
    Certificate,
    /// An operator, by the name that the audit log has.
    Operator,
}

/// Something that was revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Revoked {
    /// What it is.
    pub kind: String,
    /// Which one.
    pub name: String,
    /// Since when.
    pub at: UnixTime,
}

impl Revocation {
    /// Its name in the database and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Revocation::Sandbox => "sandbox",
            Revocation::Measurement => "measurement",
            Revocation::Signer => "signer",
            Revocation::Token => "token",
            Revocation::Certificate => "certificate",
            Revocation::Operator => "operator",
        }
    }
}

impl Revocation {
    /// The one way in which a name of this kind is written; `None` if it is none. Hexadecimal is taken with capitals and with
    /// colons, too, as other programs print it.
    pub fn canonical(self, name: &str) -> Option<String> {
        match self {
            Revocation::Token | Revocation::Operator => Some(name.to_owned()),
            Revocation::Sandbox | Revocation::Measurement | Revocation::Signer | Revocation::Certificate => {
                let plain = name.replace(':', "").to_ascii_lowercase();
                let fits = !plain.is_empty() && plain.bytes().all(|digit| digit.is_ascii_hexdigit());
                let serial = self == Revocation::Certificate;
                fits.then(|| if serial { canonical_serial(&plain) } else { plain })
            }
        }
    }
}

/// A serial number's hexadecimal without leading zeros, of which DER has one before each number whose first bit is set.
pub(crate) fn canonical_serial(hexadecimal: &str) -> String {
    match hexadecimal.trim_start_matches('0') {
        "" => "0".to_owned(),
        digits => digits.to_owned(),
    }
}

impl SecretStore {
    /// Revokes; what was revoked stays so.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn revoke(&self, kind: Revocation, name: &str, at: UnixTime) -> Result<(), StoreError> {
        Ok(self.database.revoke(kind.name(), name, at.0)?)
    }

    /// Whether it was revoked, as of this call.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn is_revoked(&self, kind: Revocation, name: &str) -> Result<bool, StoreError> {
        Ok(self.first_revoked(&[(kind, name)])?.is_some())
    }

    /// The first of several that was revoked, as of this call.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn first_revoked(&self, of: &[(Revocation, &str)]) -> Result<Option<Revocation>, StoreError> {
        let places: Vec<(&str, &str)> = of.iter().map(|(kind, name)| (kind.name(), *name)).collect();
        let found = self.database.any_revoked(&places)?;
        Ok(found.and_then(|number| of.get(number)).map(|(kind, _)| *kind))
    }

    /// Everything that was revoked.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn revoked(&self) -> Result<Vec<Revoked>, StoreError> {
        let all = self.database.revoked()?.into_iter();
        Ok(all.map(|row| Revoked { kind: row.kind, name: row.name, at: UnixTime(row.at) }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_is_the_same_however_it_is_printed() {
        for printed in ["ab12", "AB:12", "00ab12", "00:AB:12", "0ab12"] {
            assert_eq!(Revocation::Certificate.canonical(printed).as_deref(), Some("ab12"));
        }
        assert_eq!(Revocation::Certificate.canonical("00").as_deref(), Some("0"));
    }

    #[test]
    fn what_is_no_hexadecimal_names_no_measurement() {
        assert_eq!(Revocation::Measurement.canonical("sha256-ab"), None);
        assert_eq!(Revocation::Measurement.canonical("00AB").as_deref(), Some("00ab"));
        assert_eq!(Revocation::Operator.canonical("Alice:1").as_deref(), Some("Alice:1"));
    }
}
