//! Certificates that the authority signs.

use std::path::Path;

use coffer_attestation::time::UnixTime;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SerialNumber};
use zeroize::Zeroizing;

use super::keep::{Authority, AuthorityError, dated, write_new};

const SERIAL_BYTES: usize = 16;
const MAX_NAME: usize = 64;

/// Whom a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject<'a> {
    /// The verifier itself, reached by these names or addresses.
    Server(&'a [String]),
    /// An operator or a component, who shows it.
    Client(&'a str),
}

/// A certificate and its key.
pub struct Issued {
    /// PEM.
    pub certificate: String,
    /// PEM.
    pub key: Zeroizing<String>,
    /// Hexadecimal: what it is revoked by.
    pub serial: String,
    /// Since when it is good.
    pub from: UnixTime,
    /// Until when.
    pub until: UnixTime,
}

impl Authority {
    /// Makes a key, and signs a certificate for it that is good from `now` on for so many seconds.
    ///
    /// # Errors
    /// [`AuthorityError`]
    pub fn issue(
        &self,
        subject: Subject<'_>,
        now: UnixTime,
        lifetime: u64,
    ) -> Result<Issued, AuthorityError> {
        // Operators are known by their common name; nobody connects to them.
        let (mut params, name) = match subject {
            Subject::Server(names) => (CertificateParams::new(names)?, "coffer-verifier".to_owned()),
            Subject::Client(name) => (CertificateParams::default(), checked(name)?),
        };
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![match subject {
            Subject::Server(_) => ExtendedKeyUsagePurpose::ServerAuth,
            Subject::Client(_) => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        dated(&mut params, now, lifetime)?;
        let serial = serial()?;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: Zeroizing::new(key.serialize_pem()),
            serial: hex::encode(serial),
            from: now,
            until: UnixTime(now.0.saturating_add(lifetime)),
        })
    }
}

impl Issued {
    /// When it is to be replaced: two thirds of its time have passed.
    pub fn due(&self) -> UnixTime {
        let lifetime = self.until.0.saturating_sub(self.from.0);
        UnixTime(self.from.0.saturating_add(lifetime / 3 * 2))
    }

    /// Writes `NAME.pem` and `NAME.key`, which must not be there, into `directory`.
    ///
    /// # Errors
    /// [`AuthorityError`]
    pub fn write(&self, directory: &Path, name: &str) -> Result<(), AuthorityError> {
        let name = checked(name)?;
        write_new(&directory.join(format!("{name}.key")), self.key.as_bytes(), 0o600)?;
        write_new(&directory.join(format!("{name}.pem")), self.certificate.as_bytes(), 0o644)
    }
}

/// A serial number that nobody guesses, and that is positive without a byte more.
fn serial() -> Result<[u8; SERIAL_BYTES], AuthorityError> {
    let mut serial = [0; SERIAL_BYTES];
    getrandom::fill(&mut serial).map_err(|_| AuthorityError::Randomness)?;
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x3f | 0x40;
    }
    Ok(serial)
}

/// A name that is also a file's.
fn checked(name: &str) -> Result<String, AuthorityError> {
    let plain = |character: char| character.is_ascii_alphanumeric() || "._@-".contains(character);
    let good =
        !name.is_empty() && name.len() <= MAX_NAME && !name.starts_with('.') && name.chars().all(plain);
    if good {
        Ok(name.to_owned())
    } else {
        Err(AuthorityError::Name { name: name.chars().take(80).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_attestation::x509::Certificate;

    const NOW: UnixTime = UnixTime(1_795_262_400);
    const DAY: u64 = 86_400;

    fn authority(folder: &Path) -> Authority {
        Authority::open(folder, NOW).expect("an authority")
    }

    fn read(pem: &str) -> Certificate {
        Certificate::from_file(pem.as_bytes()).expect("a certificate").remove(0)
    }

    #[test]
    fn a_client_has_the_name_serial_and_dates_that_it_was_given_below_the_authority() {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = authority(folder.path());
        let issued = authority.issue(Subject::Client("alice"), NOW, DAY).expect("issued");
        let certificate = read(&issued.certificate);
        assert_eq!(certificate.common_name().as_deref(), Some("alice"));
        assert_eq!(hex::encode(certificate.serial()), issued.serial);
        assert_eq!((certificate.not_before().0, certificate.not_after().0), (NOW.0 - 300, NOW.0 + DAY));
        assert!(certificate.names_as_issuer(&read(authority.pem())));
        assert_eq!(read(authority.pem()).common_name(), certificate_issuer(&certificate));
    }

    fn certificate_issuer(certificate: &Certificate) -> Option<String> {
        certificate.issuer().split("CN=").nth(1).map(str::to_owned)
    }

    #[test]
    fn a_certificate_is_due_after_two_thirds_of_its_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let names = ["localhost".to_owned()];
        let issued = authority(folder.path()).issue(Subject::Server(&names), NOW, DAY).expect("issued");
        assert_eq!(issued.due(), UnixTime(NOW.0 + 16 * 3600));
    }

    #[test]
    fn a_name_that_is_a_path_or_nothing_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = authority(folder.path());
        for name in ["", "../alice", ".alice", "a/b", "a b", &"a".repeat(65)] {
            let refused = authority.issue(Subject::Client(name), NOW, DAY);
            assert!(matches!(refused, Err(AuthorityError::Name { .. })), "{name}");
        }
    }

    #[test]
    fn keys_are_written_for_their_owner_alone_and_never_over_another() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().expect("a folder");
        let issued = authority(folder.path()).issue(Subject::Client("alice"), NOW, DAY).expect("issued");
        issued.write(folder.path(), "alice").expect("written");
        let key = std::fs::metadata(folder.path().join("alice.key")).expect("a key");
        assert_eq!(key.mode() & 0o777, 0o600);
        assert!(matches!(issued.write(folder.path(), "alice"), Err(AuthorityError::File { .. })));
    }
}
