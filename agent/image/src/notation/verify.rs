//! Holds one envelope against one requirement. What the level only logs is a warning in the checks and no obstacle.

use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::{Checks, Outcome};
use coffer_attestation::x509::{Algorithm, Certificate};
use der::asn1::ObjectIdentifier;

use super::chain;
use super::envelope::Envelope;
use crate::artefact::Subject;
use crate::policy::{Level, Notation};
use crate::timestamp;
use crate::work::Work;

const LIST_PLACES: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.31");
const AUTHORITY_ACCESS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.1.1");

/// The checks, the signer, and the time that a clock vouches for.
pub(crate) fn verify(
    wanted: &Notation,
    envelope: &Envelope,
    subject: &Subject,
    at: UnixTime,
    work: &Work,
) -> (Checks, Option<String>, Option<UnixTime>) {
    let mut checks = Checks::default();
    let found = check_form(&mut checks, envelope, subject, work)
        .map(|leaf| Case { wanted, envelope, at, work }.check(&mut checks, leaf));
    let (signer, time) = found.unzip();
    (checks, signer, time.flatten())
}

/// What holds at every level: the image, the signature, and certificates that are a chain. Answers the signer's.
fn check_form<'a>(
    checks: &mut Checks,
    envelope: &'a Envelope,
    subject: &Subject,
    work: &Work,
) -> Option<&'a Certificate> {
    let ours: Vec<String> = subject.digests().map(ToString::to_string).collect();
    let covers = subject.digests().any(|digest| *digest == envelope.digest);
    checks.require("digest", covers, ours.join(" or "), envelope.digest).then_some(())?;
    let leaf = envelope.chain.first()?;
    checks.settle("signature", "by the certificate's key", check_signature(envelope, leaf, work))?;
    let whole = chain::check(&envelope.chain, work);
    checks.settle("chain", "certificates up to a root, each as the next allows", whole)?;
    Some(leaf)
}

struct Case<'a> {
    wanted: &'a Notation,
    envelope: &'a Envelope,
    at: UnixTime,
    work: &'a Work,
}

impl Case<'_> {
    /// Answers the signer, and the time that a clock vouches for.
    fn check(&self, checks: &mut Checks, leaf: &Certificate) -> (String, Option<UnixTime>) {
        let (wanted, envelope, at) = (self.wanted, self.envelope, self.at);
        let (authenticity, rest) = match wanted.level {
            Level::Strict => (Outcome::Failed, Outcome::Failed),
            Level::Permissive => (Outcome::Failed, Outcome::Warned),
            Level::Audit => (Outcome::Warned, Outcome::Warned),
        };
        let mut check = |name, outcome, expected: &str, found: Result<(), String>| match found {
            Ok(()) => checks.record(name, Outcome::Passed, expected, expected),
            Err(reason) => checks.record(name, outcome, expected, reason),
        };
        let (trusted, holder) = (check_trusted(wanted, &envelope.chain), check_holder(wanted, leaf));
        let authentic = trusted.is_ok() && holder.is_ok();
        check("certificate", authenticity, "a chain to the trust store", trusted);
        check("signer", authenticity, "a trusted identity", holder);
        let (time, dates) = match self.stamped() {
            Ok(time) => (time, self.check_dates(time.unwrap_or(at))),
            Err(reason) => (None, Err(reason)),
        };
        check("signing-time", rest, "certificates that were good when it signed", dates);
        let over = envelope.expiry.filter(|expiry| *expiry < at);
        let over = over.map_or(Ok(()), |expiry| Err(format!("expired at {expiry}")));
        check("expiry", rest, "not expired", over);
        let revoked = self.check_revocation(&envelope.chain);
        check("revocation", rest, "no certificate revoked", revoked);
        // At level audit anybody's signature passes, and the name is only what its certificate says.
        let signer = if authentic { leaf.subject() } else { "nobody whom the policy trusts".to_owned() };
        (signer, time)
    }

    /// The time that a clock vouches for; `None` where the policy asks for no clock's word.
    fn stamped(&self) -> Result<Option<UnixTime>, String> {
        let (wanted, envelope) = (self.wanted, self.envelope);
        let over = envelope.chain.iter().any(|certificate| certificate.not_after() < self.at);
        if wanted.clocks.is_empty() || (wanted.clocks_after_expiry && !over) {
            return Ok(None);
        }
        let stamp =
            envelope.stamp.as_ref().ok_or("no time stamp, which a trust store of type tsa asks for")?;
        let stamp = timestamp::verify(stamp, &envelope.signature, &wanted.clocks, self.work);
        let stamp = stamp.map_err(|error| error.to_string())?;
        if stamp.time > self.at {
            return Err(format!("the time stamp is of {}, which is to come", stamp.time));
        }
        self.check_revocation(&stamp.chain)?;
        Ok(Some(stamp.time))
    }

    fn check_dates(&self, at: UnixTime) -> Result<(), String> {
        self.envelope.chain.iter().try_for_each(|certificate| {
            let valid = certificate.check_valid_at(at);
            valid.map_err(|error| format!("{}: {error}", certificate.subject()))
        })
    }

    /// Lists must be signed by the next certificate of the chain. One that says where its list is must have one here. That a
    /// list of the policy's names a certificate counts whoever signed the list.
    fn check_revocation(&self, chain: &[Certificate]) -> Result<(), String> {
        for (place, certificate) in chain.iter().enumerate() {
            let lists: Vec<_> =
                self.wanted.lists.iter().filter(|list| list.speaks_for(certificate)).collect();
            if lists.iter().any(|list| list.names(certificate)) {
                return Err(format!("{} is revoked", certificate.subject()));
            }
            // Nobody is above the last.
            let Some(issuer) = chain.get(place + 1) else { break };
            let names_a_place =
                [LIST_PLACES, AUTHORITY_ACCESS].iter().any(|oid| certificate.extension(oid).is_some());
            if lists.is_empty() && names_a_place {
                return Err(format!("no revocation list was given that speaks of {}", certificate.subject()));
            }
            for list in lists {
                self.work.spend()?;
                list.check(issuer, self.at).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }
}

fn check_signature(envelope: &Envelope, leaf: &Certificate, work: &Work) -> Result<(), String> {
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
    work.spend()?;
    let verified = match key.envelope_algorithm() {
        Some(algorithm) if expected.starts_with("PS") => {
            key.verify(algorithm, &envelope.message, &envelope.signature)
        }
        _ => key.verify_raw_ecdsa(&envelope.message, &envelope.signature),
    };
    verified.map_err(|error| error.to_string())
}

/// A certificate of the chain is one of the trust store. That it is whole was seen before.
fn check_trusted(wanted: &Notation, chain: &[Certificate]) -> Result<(), String> {
    if chain.iter().any(|certificate| wanted.authorities.contains(certificate)) {
        return Ok(());
    }
    let last = chain.last().map(Certificate::subject).unwrap_or_default();
    Err(format!("neither {last} nor one below it is in the trust store"))
}

fn check_holder(wanted: &Notation, leaf: &Certificate) -> Result<(), String> {
    let subject = leaf.subject();
    let fits = wanted.identities.iter().any(|identity| identity.fits(&subject));
    if fits { Ok(()) } else { Err(subject) }
}
