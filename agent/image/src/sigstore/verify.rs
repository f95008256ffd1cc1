//! Holds one signature against one requirement. What costs nothing is checked first, and arithmetic only as long as all holds:
//! the last check of a signature that does not count is the one that failed.

use coffer_attestation::dsse::signed_bytes;
use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::{Checks, Outcome};
use coffer_attestation::x509::Certificate;

use super::signed::{Message, Signed};
use super::{body, certificate, log, statement};
use crate::artefact::Subject;
use crate::extension;
use crate::keys::{Key, verify_as_cosign};
use crate::policy::{KeySigned, Keyless, Predicate, Sigstore, Trust};
use crate::timestamp;
use crate::trusted_root::{Authority, LogKey};
use crate::work::Work;

/// What a signature was found to be; worth something only if every check passed.
pub(crate) struct Found {
    pub(crate) checks: Checks,
    /// Who signed, for comparison with other signers.
    pub(crate) signer: Option<String>,
    /// The earliest time that somebody other than the signer vouches for.
    pub(crate) time: Option<UnixTime>,
}

/// Holds `signed` against `wanted`, for the image `subject`, at the time `at`.
pub(crate) fn verify(
    wanted: &Sigstore,
    signed: &Signed,
    subject: &Subject,
    at: UnixTime,
    work: &Work,
) -> Found {
    let mut checks = Checks::default();
    let mut found = None;
    if check_claim(&mut checks, wanted, signed, subject) {
        let case = Case { signed, bytes: covered(signed, subject), work };
        found = match &wanted.trust {
            Trust::Keys(keys) => case.by_key(&mut checks, keys),
            Trust::Keyless(keyless) => case.by_certificate(&mut checks, keyless),
        };
    }
    let Some((signer, times)) = found else { return Found { checks, signer: None, time: None } };
    let time = times.iter().min().copied();
    if let Some(latest) = times.iter().max() {
        checks.require("time", *latest <= at, format!("not after {at}"), latest);
    }
    if let Some(not_before) = wanted.not_before {
        let found = time.map_or("no time that others vouch for".to_owned(), |time| time.to_string());
        let holds = time.is_some_and(|time| time >= not_before);
        checks.require("not-before", holds, format!("signed at {not_before} or later"), found);
    }
    Found { checks, signer: Some(signer), time }
}

/// Checks what needs no arithmetic. Answers whether all of it holds.
fn check_claim(checks: &mut Checks, wanted: &Sigstore, signed: &Signed, subject: &Subject) -> bool {
    let ours: Vec<String> = subject.digests().map(ToString::to_string).collect();
    let theirs: Vec<String> = signed.claim.digests.iter().take(4).map(ToString::to_string).collect();
    let covers = subject.digests().any(|digest| signed.claim.digests.contains(digest));
    checks.require("digest", covers, ours.join(" or "), theirs.join(", "));
    let found = signed.claim.predicate.as_deref();
    let (expected, holds) = match &wanted.predicate {
        Predicate::Signature => {
            (statement::SIGNATURE, found.is_none_or(|found| found == statement::SIGNATURE))
        }
        Predicate::Attestation(kind) => (kind.as_str(), found == Some(kind)),
    };
    let stated = checks.require("statement", holds, expected, found.unwrap_or("a signature of the image"));
    if wanted.identity.is_digest_alone() {
        checks.record("identity", Outcome::Passed, &wanted.identity, "the digest alone");
        return covers && stated;
    }
    let named = match &signed.claim.name {
        Some(name) => {
            let holds = wanted.identity.accepts(subject.reference(), name);
            let expected = format!("{} ({})", wanted.identity, subject.reference());
            checks.require("identity", holds, expected, name)
        }
        None => {
            let found = "the signature says no name: say signedIdentity matchDigest if the digest is enough";
            checks.require("identity", false, &wanted.identity, found)
        }
    };
    covers && stated && named
}

/// The bytes that the signature is over.
fn covered(signed: &Signed, subject: &Subject) -> Vec<u8> {
    match &signed.message {
        Message::Bytes(bytes) => bytes.clone(),
        Message::Envelope { payload, kind } => signed_bytes(kind, payload),
        // Bytes of no image: then the check of the digest has failed.
        Message::Manifest(digest) => subject.bytes_of(digest).unwrap_or_default().to_vec(),
    }
}

/// A signature that says the right things, and what has to be found of it: who signed, and the times that others vouch for.
struct Case<'a> {
    signed: &'a Signed,
    /// What the signature is over.
    bytes: Vec<u8>,
    work: &'a Work,
}

impl Case<'_> {
    fn by_key(&self, checks: &mut Checks, wanted: &KeySigned) -> Option<(String, Vec<UnixTime>)> {
        let mut why = "another key, or other bytes".to_owned();
        let signer = wanted.keys.iter().find(|key| {
            let verified = key.verify(&self.bytes, &self.signed.signature, self.work);
            verified.map_err(|reason| why = reason).is_ok()
        });
        let names: Vec<String> = wanted.keys.iter().map(name_of).collect();
        let found = signer.map_or(why, name_of);
        checks.require("signature", signer.is_some(), names.join(" or "), found);
        let signer = signer?;
        let mut times = Vec::new();
        if !wanted.logs.is_empty() {
            let logs: Vec<LogKey> = wanted.logs.iter().map(LogKey::of_policy).collect();
            let logged = self.in_log(checks, &logs, signer.spki())?;
            times.extend(logged.iter().filter_map(|logged| logged.time));
        }
        Some((name_of(signer), times))
    }

    /// What costs nothing is looked at first, and nothing more behind what failed.
    fn by_certificate(&self, checks: &mut Checks, wanted: &Keyless) -> Option<(String, Vec<UnixTime>)> {
        let Some(leaf) = &self.signed.certificate else {
            checks.record("certificate", Outcome::Failed, "a certificate of a trusted authority", "none");
            return None;
        };
        let holder = check_holder(checks, wanted, leaf)?;
        let holds = verify_as_cosign(leaf.key(), &self.bytes, &self.signed.signature, self.work);
        checks.settle("signature", "by the certificate's key", holds)?;
        let logged = self.in_log(checks, &wanted.root.logs, leaf.der())?;
        let stamped = self.stamped(checks, &wanted.root.clocks)?;
        logged.iter().try_for_each(|logged| {
            let counts = logged.check_counts(&stamped);
            checks.settle("log-validity", "a log that counts at that time", counts)
        })?;
        let mut times: Vec<UnixTime> = logged.iter().filter_map(|logged| logged.time).collect();
        times.extend(stamped);
        let found = format!("{} times", times.len());
        let vouched = "a time that a log or a clock vouches for";
        checks.require("signing-time", !times.is_empty(), vouched, found).then_some(())?;
        let issuer = certificate::issuer(leaf, &wanted.root, &times, self.work);
        let issuer = checks.settle(
            "certificate",
            "a certificate of a trusted authority, good when it signed",
            issuer,
        )?;
        let logged = certificate::check_logged(leaf, issuer, &wanted.root.certificate_logs, self.work);
        checks.settle("certificate-log", "a certificate that a trusted log shows", logged)?;
        Some((holder, times))
    }

    /// What trusted logs say of the signature. An entry that does not hold spoils the check, however many do.
    fn in_log<'l>(
        &self,
        checks: &mut Checks,
        logs: &'l [LogKey],
        verifier: &[u8],
    ) -> Option<Vec<log::Logged<'l>>> {
        let expected = "an entry of this signature in a trusted log";
        if self.signed.entries.is_empty() {
            checks.record("log", Outcome::Failed, expected, "no entry");
            return None;
        }
        let verified = self.signed.entries.iter().map(|entry| {
            // First what costs nothing.
            let verified = body::check(&entry.body, self.signed, &self.bytes, verifier)
                .and_then(|()| log::verify(entry, logs, self.work));
            checks.settle("log", expected, verified)
        });
        verified.collect()
    }

    /// The times at which trusted clocks saw the signature.
    fn stamped(&self, checks: &mut Checks, clocks: &[Authority]) -> Option<Vec<UnixTime>> {
        let verified = self.signed.timestamps.iter().map(|stamp| {
            let stamp = timestamp::verify(stamp, &self.signed.signature, clocks, self.work);
            let time = stamp.map(|stamp| stamp.time);
            checks.settle("timestamp", "a time stamp of a trusted clock", time)
        });
        verified.collect()
    }
}

fn check_holder(checks: &mut Checks, wanted: &Keyless, leaf: &Certificate) -> Option<String> {
    let holder = extension::holder(leaf).unwrap_or_default();
    let issuer = extension::oidc_issuer(leaf).unwrap_or_default();
    let fits = wanted.identities.iter().any(|who| who.issuer.fits(&issuer) && who.subject.fits(&holder));
    let expected = wanted.identities.iter().map(|who| format!("{} of {}", who.subject, who.issuer));
    let found = format!("{holder} of {issuer}");
    checks.require("signer", fits, expected.collect::<Vec<String>>().join(" or "), &found).then_some(())?;
    // Without a name the certificate itself tells signers apart.
    Some(if holder.is_empty() { certificate::fingerprint(leaf) } else { found })
}

/// How a key is called in a verdict.
fn name_of(key: &Key) -> String {
    format!("{} {}", key.public().describe(), hex::encode(key.id()))
}
