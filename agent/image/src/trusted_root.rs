//! Sigstore's trusted root: authorities, logs and clocks, each with the time in which it counts.
//!
//! It comes with the policy and is never fetched: whoever writes the policy keeps it fresh. An authority counts for signatures
//! of its own time only, so an old root goes on judging old signatures and refuses those of keys that it does not know.

use base64ct::{Base64, Encoding};
use coffer_attestation::handshake::{JsonError, Limits, read_json};
use coffer_attestation::time::UnixTime;
use coffer_attestation::x509::{Certificate, CertificateError, KeyError};
use der::asn1::ObjectIdentifier;
use serde::Deserialize;

use crate::keys::Key;
use crate::work::Work;

const LIMITS: Limits = Limits { bytes: 1 << 20, depth: 12 };
const MAX_ENTRIES: usize = 32;
const MAX_CHAIN: usize = 6;
const MEDIA_TYPES: [&str; 3] = [
    "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
    "application/vnd.dev.sigstore.trustedroot.v0.1+json",
    "application/vnd.dev.sigstore.trustedroot.v0.2+json",
];

/// Whom keyless signatures may lean on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TrustedRoot {
    /// Authorities that give certificates to signers.
    pub(crate) authorities: Vec<Authority>,
    /// Transparency logs of signatures.
    pub(crate) logs: Vec<LogKey>,
    /// Transparency logs of certificates.
    pub(crate) certificate_logs: Vec<LogKey>,
    /// Authorities that stamp times.
    pub(crate) clocks: Vec<Authority>,
}

/// A chain of certificates, from the one that signs leaves to its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authority {
    pub(crate) chain: Vec<Certificate>,
    valid: Window,
}

/// A log's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogKey {
    /// How entries name it; without it every entry may be its.
    pub(crate) id: Option<Vec<u8>>,
    pub(crate) key: Key,
    valid: Window,
}

/// From and until when something counts, both included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Window {
    start: Option<UnixTime>,
    end: Option<UnixTime>,
}

/// Why text is no trusted root that can be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustedRootError {
    #[error("this is no trusted root: {reason}")]
    Json { reason: JsonError },
    #[error("the trusted root says that it is {found:?}, which is not supported")]
    MediaType { found: String },
    #[error("{member} of the trusted root has {found} entries, at most {limit} are read")]
    TooMany { member: &'static str, found: usize, limit: usize },
    #[error("{member} of the trusted root holds bytes that are no base64")]
    Base64 { member: &'static str },
    #[error("{member} of the trusted root holds no usable certificate")]
    Certificate {
        member: &'static str,
        #[source]
        reason: CertificateError,
    },
    #[error("{member} of the trusted root holds no usable key")]
    Key {
        member: &'static str,
        #[source]
        reason: KeyError,
    },
    #[error("{member} of the trusted root has a time that cannot be read: {found:?}")]
    Time { member: &'static str, found: String },
    #[error("{member} of the trusted root has an authority without certificates")]
    EmptyChain { member: &'static str },
    #[error("the trusted root has no certificate authority: nobody could sign")]
    NoAuthority,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    media_type: String,
    #[serde(default)]
    tlogs: Vec<RawLog>,
    #[serde(default)]
    certificate_authorities: Vec<RawAuthority>,
    #[serde(default)]
    ctlogs: Vec<RawLog>,
    #[serde(default)]
    timestamp_authorities: Vec<RawAuthority>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawLog {
    public_key: RawKey,
    log_id: RawId,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawKey {
    raw_bytes: String,
    #[serde(default)]
    valid_for: RawWindow,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawId {
    key_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawAuthority {
    cert_chain: RawChain,
    #[serde(default)]
    valid_for: RawWindow,
}

#[derive(Deserialize)]
struct RawChain {
    certificates: Vec<RawBytes>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawBytes {
    raw_bytes: String,
}

#[derive(Default, Deserialize)]
struct RawWindow {
    start: Option<String>,
    end: Option<String>,
}

impl TrustedRoot {
    /// Parses `trusted_root.json`.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, TrustedRootError> {
        let raw: Raw = read_json(text, LIMITS).map_err(|reason| TrustedRootError::Json { reason })?;
        if !MEDIA_TYPES.contains(&raw.media_type.as_str()) {
            let found = raw.media_type.chars().take(128).collect();
            return Err(TrustedRootError::MediaType { found });
        }
        let root = Self {
            authorities: all("certificateAuthorities", &raw.certificate_authorities, authority)?,
            logs: all("tlogs", &raw.tlogs, log)?,
            certificate_logs: all("ctlogs", &raw.ctlogs, log)?,
            clocks: all("timestampAuthorities", &raw.timestamp_authorities, authority)?,
        };
        if root.authorities.is_empty() { Err(TrustedRootError::NoAuthority) } else { Ok(root) }
    }
}

impl LogKey {
    /// A key that a policy names without its log.
    pub(crate) fn of_policy(key: &Key) -> Self {
        Self { id: None, key: key.clone(), valid: Window::default() }
    }

    /// Whether an entry that names `id` may be this log's.
    pub(crate) fn may_be(&self, id: &[u8]) -> bool {
        self.id.as_deref().is_none_or(|own| own == id)
    }

    /// Whether it counts at `time`.
    pub(crate) fn counts_at(&self, time: UnixTime) -> bool {
        self.valid.holds(time)
    }
}

impl Authority {
    /// A chain that always counts within its certificates' dates.
    pub(crate) fn of_chain(chain: Vec<Certificate>) -> Self {
        Self { chain, valid: Window::default() }
    }

    /// Checks that `leaf` was issued below this authority and that all of the chain is good at `at`. The caller looks at the
    /// leaf's extensions in `understood`.
    pub(crate) fn check(
        &self,
        leaf: &Certificate,
        at: UnixTime,
        understood: &[ObjectIdentifier],
        work: &Work,
    ) -> Result<(), String> {
        if !self.valid.holds(at) {
            return Err(format!("the authority does not count at {at}"));
        }
        let mut below = leaf;
        for (place, certificate) in self.chain.iter().enumerate() {
            let known = if below == leaf { understood } else { &[] };
            // A clock's own certificate may stand first in its chain.
            if place == 0 && certificate == leaf {
                leaf.check_valid_at(at).map_err(|error| format!("{}: {error}", leaf.subject()))?;
                continue;
            }
            below.check_valid_at(at).map_err(|error| format!("{}: {error}", below.subject()))?;
            work.spend()?;
            below.check_issued_by_knowing(certificate, known).map_err(|error| error.to_string())?;
            below = certificate;
        }
        below.check_valid_at(at).map_err(|error| format!("{}: {error}", below.subject()))
    }
}

impl Window {
    fn holds(self, time: UnixTime) -> bool {
        self.start.is_none_or(|start| start <= time) && self.end.is_none_or(|end| time <= end)
    }
}

fn all<R, T>(
    member: &'static str,
    raw: &[R],
    read: fn(&'static str, &R) -> Result<T, TrustedRootError>,
) -> Result<Vec<T>, TrustedRootError> {
    if raw.len() > MAX_ENTRIES {
        return Err(TrustedRootError::TooMany { member, found: raw.len(), limit: MAX_ENTRIES });
    }
    raw.iter().map(|raw| read(member, raw)).collect()
}

fn authority(member: &'static str, raw: &RawAuthority) -> Result<Authority, TrustedRootError> {
    let certificates = &raw.cert_chain.certificates;
    if certificates.is_empty() {
        return Err(TrustedRootError::EmptyChain { member });
    }
    if certificates.len() > MAX_CHAIN {
        return Err(TrustedRootError::TooMany { member, found: certificates.len(), limit: MAX_CHAIN });
    }
    let chain = certificates.iter().map(|raw| {
        let der = decoded(member, &raw.raw_bytes)?;
        Certificate::from_der(&der).map_err(|reason| TrustedRootError::Certificate { member, reason })
    });
    Ok(Authority { chain: chain.collect::<Result<_, _>>()?, valid: window(member, &raw.valid_for)? })
}

fn log(member: &'static str, raw: &RawLog) -> Result<LogKey, TrustedRootError> {
    let key = Key::read(&decoded(member, &raw.public_key.raw_bytes)?)
        .map_err(|reason| TrustedRootError::Key { member, reason })?;
    let id = Some(decoded(member, &raw.log_id.key_id)?);
    Ok(LogKey { id, key, valid: window(member, &raw.public_key.valid_for)? })
}

fn decoded(member: &'static str, text: &str) -> Result<Vec<u8>, TrustedRootError> {
    Base64::decode_vec(text).map_err(|_| TrustedRootError::Base64 { member })
}

fn window(member: &'static str, raw: &RawWindow) -> Result<Window, TrustedRootError> {
    let time = |text: &Option<String>, ends: bool| {
        let read = text.as_deref().map(|text| {
            whole_seconds(text, ends)
                .ok_or_else(|| TrustedRootError::Time { member, found: text.chars().take(64).collect() })
        });
        read.transpose()
    };
    Ok(Window { start: time(&raw.start, false)?, end: time(&raw.end, true)? })
}

/// A time in UTC; a fraction of a second is cut off at an end, and rounded up at a start. `None` for what is none.
pub fn whole_seconds(text: &str, ends: bool) -> Option<UnixTime> {
    let Some((seconds, fraction)) = text.split_once('.') else { return text.parse().ok() };
    let digits = fraction.strip_suffix('Z')?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let UnixTime(whole) = format!("{seconds}Z").parse().ok()?;
    let up = !ends && digits.bytes().any(|byte| byte != b'0');
    Some(UnixTime(whole.saturating_add(u64::from(up))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_of_a_second_narrow_the_window() {
        assert_eq!(whole_seconds("1970-01-01T00:00:01.5Z", false), Some(UnixTime(2)));
        assert_eq!(whole_seconds("1970-01-01T00:00:01.5Z", true), Some(UnixTime(1)));
        assert_eq!(whole_seconds("1970-01-01T00:00:01.000Z", false), Some(UnixTime(1)));
        assert_eq!(whole_seconds("1970-01-01T00:00:01.xZ", false), None);
    }

    #[test]
    fn a_root_without_authorities_is_refused() {
        let text = format!("{{\"mediaType\":\"{}\"}}", MEDIA_TYPES[0]);
        assert!(matches!(TrustedRoot::parse(text.as_bytes()), Err(TrustedRootError::NoAuthority)));
    }
}
