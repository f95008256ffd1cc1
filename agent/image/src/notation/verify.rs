//! Holds one envelope against one requirement. What the level only logs is a warning in the checks and no obstacle.

use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::{Checks, Outcome};
use coffer_attestation::x509::{Algorithm, Certificate};
use der::asn1::ObjectIdentifier;

use super::envelope::Envelope;
use crate::artefact::Subject;
use crate::extension::{self, CODE_SIGNING, EXTENDED_USAGE};
use crate::policy::{Level, Notation};
use crate::timestamp;

const LIST_PLACES: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.31");
const AUTHORITY_ACCESS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.1.1");

/// The checks, the signer, and the time that a clock vouches for.
pub(crate) fn verify(
    wanted: &Notation,
    envelope: &Envelope,
    subject: &Subject,
    at: UnixTime,
) -> (Checks, Option<String>, Option<UnixTime>) {
    let mut checks = Checks::default();
    let ours: Vec<String> = subject.digests().map(ToString::to_string).collect();
    let covers = subject.digests().any(|digest| *digest == envelope.digest);
    checks.require("digest", covers, ours.join(" or "), envelope.digest);
    let Some(leaf) = envelope.chain.first() else {
        checks.record("certificate", Outcome::Failed, "a certificate", "none");
        return (checks, None, None);
    };
    checks.settle("signature", "by the certificate's key", check_signature(envelope, leaf));
    let (authenticity, rest) = match wanted.level {
        Level::Strict => (Outcome::Failed, Outcome::Failed),
        Level::Permissive => (Outcome::Failed, Outcome::Warned),
        Level::Audit => (Outcome::Warned, Outcome::Warned),
    };
    let mut check = |name, outcome, expected: &str, found: Result<(), String>| match found {
        Ok(()) => checks.record(name, Outcome::Passed, expected, expected),
        Err(reason) => checks.record(name, outcome, expected, reason),
    };
    let (chain, holder) = (check_chain(wanted, &envelope.chain), check_holder(wanted, leaf));
    let authentic = chain.is_ok() && holder.is_ok();
    check("certificate", authenticity, "a chain to the trust store", chain);
    check("signer", authenticity, "a trusted identity", holder);
    let stamp =
        envelope.stamp.as_ref().map(|stamp| timestamp::verify(stamp, &envelope.signature, &wanted.clocks));
    let time = stamp.as_ref().and_then(|stamp| stamp.as_ref().ok()).copied().filter(|time| *time <= at);
    let dates = envelope.chain.iter().try_for_each(|certificate| {
        certificate
            .check_valid_at(time.unwrap_or(at))
            .map_err(|error| format!("{}: {error}", certificate.subject()))
    });
    check("signing-time", rest, "certificates that were good when it signed", dates);
    let over = envelope.expiry.filter(|expiry| *expiry < at);
    check("expiry", rest, "not expired", over.map_or(Ok(()), |expiry| Err(format!("expired at {expiry}"))));
    check("revocation", rest, "no certificate revoked", check_revocation(wanted, &envelope.chain, at));
    // At level audit anybody's signature passes, and the name is only what its certificate says.
    let signer = if authentic { leaf.subject() } else { "nobody whom the policy trusts".to_owned() };
    (checks, Some(signer), time)
}

fn check_signature(envelope: &Envelope, leaf: &Certificate) -> Result<(), String> {
    let key = leaf.key();
    let expected = match key.envelope_algorithm() {
        Some(Algorithm::PssSha256) => "PS256",
        Some(Algorithm::PssSha384) => "PS384",
        Some(Algorithm::PssSha512) => "PS512",
        Some(Algorithm::EcdsaSha256) => "ES256",
        Some(Algorithm::EcdsaSha384) => "ES384",
        Some(Algorithm::EcdsaSha512) => "ES512",
        _ => return Err(format!("keys of kind {} do not sign envelopes", key.describe())),
    };
    if envelope.algorithm != expected {
        let found: String = envelope.algorithm.chars().take(16).collect();
        return Err(format!("the algorithm is {found:?}, this key signs by {expected}"));
    }
    let verified = match key.envelope_algorithm() {
        Some(algorithm) if expected.starts_with("PS") => {
            key.verify(algorithm, &envelope.message, &envelope.signature)
        }
        _ => key.verify_raw_ecdsa(&envelope.message, &envelope.signature),
    };
    verified.map_err(|error| error.to_string())
}

/// Each certificate is signed by the next, up to one of the trust store; a certificate that is trusted itself needs no other.
fn check_chain(wanted: &Notation, chain: &[Certificate]) -> Result<(), String> {
    let leaf = chain.first().ok_or("no certificate")?;
    let uses = extension::usages(leaf);
    if !leaf.may_sign_messages() || leaf.is_authority() {
        return Err("the signer's certificate is not for signing messages".to_owned());
    }
    if leaf.extension(&EXTENDED_USAGE).is_some() && !uses.contains(&CODE_SIGNING) {
        return Err("the signer's certificate is not for signing code".to_owned());
    }
    let mut below = leaf;
    for next in chain.iter().skip(1) {
        if wanted.authorities.contains(below) {
            return Ok(());
        }
        below.check_issued_by_knowing(next, &[EXTENDED_USAGE]).map_err(|error| error.to_string())?;
        below = next;
    }
    if wanted.authorities.contains(below) {
        Ok(())
    } else {
        Err(format!("{} is not in the trust store", below.subject()))
    }
}

fn check_holder(wanted: &Notation, leaf: &Certificate) -> Result<(), String> {
    let subject = leaf.subject();
    let fits = wanted.identities.iter().any(|identity| identity.fits(&subject));
    if fits { Ok(()) } else { Err(subject) }
}

/// Lists must be signed by the next certificate of the chain. One that says where its list is must have one here.
fn check_revocation(wanted: &Notation, chain: &[Certificate], at: UnixTime) -> Result<(), String> {
    for (certificate, issuer) in chain.iter().zip(chain.iter().skip(1)) {
        let mut lists = wanted.lists.iter().filter(|list| list.speaks_for(certificate)).peekable();
        let names_a_place =
            [LIST_PLACES, AUTHORITY_ACCESS].iter().any(|oid| certificate.extension(oid).is_some());
        if lists.peek().is_none() && names_a_place {
            return Err(format!("no revocation list was given that speaks of {}", certificate.subject()));
        }
        for list in lists {
            list.check(issuer, at).map_err(|error| error.to_string())?;
            if list.names(certificate) {
                return Err(format!("{} is revoked", certificate.subject()));
            }
        }
    }
    Ok(())
}
