//! Holds one message of simple signing against one requirement.

use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::{Checks, Outcome};

use crate::artefact::Subject;
use crate::openpgp::{Key, Message};
use crate::policy::SignedBy;
use crate::work::Work;

/// The checks, and who signed. What costs nothing is looked at first.
pub(crate) fn verify(
    wanted: &SignedBy,
    message: &Message,
    subject: &Subject,
    at: UnixTime,
    work: &Work,
) -> (Checks, Option<String>) {
    let mut checks = Checks::default();
    let signer = check(&mut checks, (wanted, message), subject, (at, work));
    (checks, signer)
}

fn check(
    checks: &mut Checks,
    (wanted, message): (&SignedBy, &Message),
    subject: &Subject,
    (at, work): (UnixTime, &Work),
) -> Option<String> {
    let ours: Vec<String> = subject.digests().map(ToString::to_string).collect();
    let covers = subject.digests().any(|digest| *digest == message.digest());
    checks.require("digest", covers, ours.join(" or "), message.digest()).then_some(())?;
    if wanted.identity.is_digest_alone() {
        checks.record("identity", Outcome::Passed, &wanted.identity, "the digest alone");
    } else {
        let holds = wanted.identity.accepts(subject.reference(), message.name());
        let expected = format!("{} ({})", wanted.identity, subject.reference());
        checks.require("identity", holds, expected, message.name()).then_some(())?;
    }
    let mut why = message
        .issuer()
        .map_or_else(|| "a key without a name".to_owned(), |issuer| format!("the key {issuer}"));
    let signer = wanted.keys.iter().filter(|key| message.may_be_by(key)).find(|key| {
        let verified = work.spend().map_err(String::from).and_then(|()| message.verify(key));
        verified.map_err(|reason| why = reason).is_ok()
    });
    let names: Vec<String> = wanted.keys.iter().map(Key::name).collect();
    let found = signer.map_or(why, Key::name);
    checks.require("signature", signer.is_some(), names.join(" or "), found);
    let signer = signer?;
    checks.settle("key", "a key that may sign", signer.check_may_sign(at));
    checks.settle("signing-time", "a signature that has not run out", message.check_times(signer, at));
    Some(signer.name())
}
