//! Holds one signature against one requirement. Every check is made and named, also after one has failed.

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

/// What a signature was found to be; worth something only if every check passed.
pub(crate) struct Found {
    pub(crate) checks: Checks,
    /// Who signed, for comparison with other signers.
    pub(crate) signer: Option<String>,
    /// The earliest time that somebody other than the signer vouches for.
    pub(crate) time: Option<UnixTime>,
}

/// Holds `signed` against `wanted`, for the image `subject`, at the time `at`.
pub(crate) fn verify(wanted: &Sigstore, signed: &Signed, subject: &Subject, at: UnixTime) -> Found {
    let mut checks = Checks::default();
    check_claim(&mut checks, wanted, signed, subject);
    let bytes = covered(signed, subject);
    let (signer, times) = match &wanted.trust {
        Trust::Keys(keys) => by_key(&mut checks, keys, signed, &bytes),
        Trust::Keyless(keyless) => by_certificate(&mut checks, keyless, signed, &bytes),
    };
    let time = times.iter().min().copied();
    if let Some(latest) = times.iter().max() {
        checks.require("time", *latest <= at, format!("not after {at}"), latest);
    }
    if let Some(not_before) = wanted.not_before {
        let found = time.map_or("no time that others vouch for".to_owned(), |time| time.to_string());
        let holds = time.is_some_and(|time| time >= not_before);
        checks.require("not-before", holds, format!("signed at {not_before} or later"), found);
    }
    Found { checks, signer, time }
}

fn check_claim(checks: &mut Checks, wanted: &Sigstore, signed: &Signed, subject: &Subject) {
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
    checks.require("statement", holds, expected, found.unwrap_or("a signature of the image"));
    if wanted.identity.is_digest_alone() {
        return checks.record("identity", Outcome::Passed, &wanted.identity, "the digest alone");
    }
    match &signed.claim.name {
        Some(name) => {
            let holds = wanted.identity.accepts(subject.reference(), name);
            let expected = format!("{} ({})", wanted.identity, subject.reference());
            checks.require("identity", holds, expected, name);
        }
        None => {
            let found = "the signature says no name: say signedIdentity matchDigest if the digest is enough";
            checks.record("identity", Outcome::Failed, &wanted.identity, found);
        }
    }
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

fn by_key(
    checks: &mut Checks,
    wanted: &KeySigned,
    signed: &Signed,
    bytes: &[u8],
) -> (Option<String>, Vec<UnixTime>) {
    let signer = wanted.keys.iter().find(|key| key.verify(bytes, &signed.signature).is_ok());
    let names: Vec<String> = wanted.keys.iter().map(name_of).collect();
    let found = signer.map_or("another key, or other bytes".to_owned(), name_of);
    checks.require("signature", signer.is_some(), names.join(" or "), found);
    let mut times = Vec::new();
    if !wanted.logs.is_empty() {
        let logs: Vec<LogKey> = wanted.logs.iter().map(LogKey::of_policy).collect();
        let verifier = signer.map(Key::spki).unwrap_or_default();
        times.extend(in_log(checks, signed, &logs, bytes, verifier));
    }
    (signer.map(name_of), times)
}

fn by_certificate(
    checks: &mut Checks,
    wanted: &Keyless,
    signed: &Signed,
    bytes: &[u8],
) -> (Option<String>, Vec<UnixTime>) {
    let Some(leaf) = &signed.certificate else {
        checks.record("certificate", Outcome::Failed, "a certificate of a trusted authority", "none");
        return (None, Vec::new());
    };
    let holds = verify_as_cosign(leaf.key(), bytes, &signed.signature);
    checks.settle("signature", "by the certificate's key", holds);
    let mut times: Vec<UnixTime> =
        in_log(checks, signed, &wanted.root.logs, bytes, leaf.der()).into_iter().collect();
    times.extend(stamped(checks, signed, &wanted.root.clocks));
    let found = format!("{} times", times.len());
    checks.require("signing-time", !times.is_empty(), "a time that a log or a clock vouches for", found);
    let issuer = certificate::issuer(leaf, &wanted.root, &times);
    let issuer =
        checks.settle("certificate", "a certificate of a trusted authority, good when it signed", issuer);
    if let Some(issuer) = issuer {
        let logged = certificate::check_logged(leaf, issuer, &wanted.root.certificate_logs);
        checks.settle("certificate-log", "a certificate that a trusted log shows", logged);
    }
    (check_holder(checks, wanted, leaf), times)
}

fn check_holder(checks: &mut Checks, wanted: &Keyless, leaf: &Certificate) -> Option<String> {
    let holder = extension::holder(leaf).unwrap_or_default();
    let issuer = extension::oidc_issuer(leaf).unwrap_or_default();
    let fits = wanted.identities.iter().any(|who| who.issuer.fits(&issuer) && who.subject.fits(&holder));
    let expected = wanted.identities.iter().map(|who| format!("{} of {}", who.subject, who.issuer));
    let found = format!("{holder} of {issuer}");
    checks.require("signer", fits, expected.collect::<Vec<String>>().join(" or "), &found);
    // Without a name the certificate itself tells signers apart.
    Some(if holder.is_empty() { certificate::fingerprint(leaf) } else { found })
}

/// The time at which a trusted log heard of the signature. An entry that does not hold spoils the check, however many do.
fn in_log(
    checks: &mut Checks,
    signed: &Signed,
    logs: &[LogKey],
    bytes: &[u8],
    verifier: &[u8],
) -> Option<UnixTime> {
    let expected = "an entry of this signature in a trusted log";
    if signed.entries.is_empty() {
        checks.record("log", Outcome::Failed, expected, "no entry");
        return None;
    }
    let mut earliest = None;
    for entry in &signed.entries {
        let verified = log::verify(entry, logs).and_then(|time| {
            body::check(&entry.body, signed, bytes, verifier)?;
            Ok(time)
        });
        let time = checks.settle("log", expected, verified).flatten();
        earliest = earliest.into_iter().chain(time).min();
    }
    earliest
}

/// The times at which trusted clocks saw the signature.
fn stamped(checks: &mut Checks, signed: &Signed, clocks: &[Authority]) -> Vec<UnixTime> {
    let times = signed.timestamps.iter().map(|stamp| timestamp::verify(stamp, &signed.signature, clocks));
    let times: Vec<_> = times.collect();
    times
        .into_iter()
        .filter_map(|time| checks.settle("timestamp", "a time stamp of a trusted clock", time))
        .collect()
}

/// How a key is called in a verdict.
fn name_of(key: &Key) -> String {
    format!("{} {}", key.public().describe(), hex::encode(key.id()))
}
