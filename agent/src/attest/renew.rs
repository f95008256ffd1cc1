//! Keeps asking whether the guest may keep its secrets, and takes them back when not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use coffer_attestation::handshake::ResourceName;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, sleep};

use super::AttestError;
use super::held::Held;
use super::session::{Session, Standing};

/// Between two questions: a revocation must be seen within five seconds.
const INTERVAL: Duration = Duration::from_secs(2);

/// How many questions lie between two looks at the secrets themselves, where the verifier answers how the guest stands.
const LOOK_EVERY: u32 = 15;

/// Runs until nobody wants to know any more. `ended` is told which containers had a secret in their environment that was
/// taken back.
pub(super) async fn keep(
    session: Arc<Session>,
    held: Arc<Held>,
    lease: Option<Duration>,
    ended: UnboundedSender<BTreeSet<String>>,
) {
    let (mut round, mut heard, mut silent) = (0_u32, Instant::now(), false);
    // Whether the verifier answers how a guest stands.
    let mut answers = true;
    while !ended.is_closed() {
        sleep(INTERVAL).await;
        let all = held.all();
        if all.is_empty() {
            continue;
        }
        round = round.wrapping_add(1);
        let lost = match ask(&session, &held, (&all, round.is_multiple_of(LOOK_EVERY)), &mut answers).await {
            Ok(lost) => {
                (heard, silent) = (Instant::now(), false);
                lost
            }
            Err(error) => {
                if !std::mem::replace(&mut silent, true) {
                    tracing::warn!(error = %crate::chain::Chain(&error), "the verifier does not say whether secrets stay");
                }
                in_silence(all, heard.elapsed(), lease)
            }
        };
        session.hang_up().await;
        for (name, reason) in lost {
            tracing::warn!(secret = name.path(), reason, "a secret is taken back");
            let containers = held.take_back(&name);
            // Nobody listens: the pod is at its end.
            let _ = ended.send(containers);
        }
    }
}

/// The secrets that must go because the verifier has not said for so long how the guest stands: none before the lease is over,
/// also if all that it says is that it is to be asked later, and all from then on.
fn in_silence(
    all: Vec<ResourceName>,
    silence: Duration,
    lease: Option<Duration>,
) -> Vec<(ResourceName, String)> {
    if lease.is_none_or(|lease| silence <= lease) {
        return Vec::new();
    }
    all.into_iter().map(|name| (name, "the lease is over".to_owned())).collect()
}

/// The secrets that must go, and why.
async fn ask(
    session: &Session,
    held: &Held,
    (all, look): (&[ResourceName], bool),
    answers: &mut bool,
) -> Result<Vec<(ResourceName, String)>, AttestError> {
    let standing = if *answers { session.standing().await } else { Ok(Standing::Unasked) };
    match standing {
        Ok(Standing::Good) if !look => return Ok(Vec::new()),
        Ok(Standing::Good) => {}
        Ok(Standing::Unasked) => *answers = false,
        Ok(Standing::Lost(reason)) => {
            return Ok(all.iter().map(|name| (name.clone(), reason.clone())).collect());
        }
        // The guest was told when it attested anew.
        Err(AttestError::Refused { status: 403, reason, .. }) => {
            return Ok(all.iter().map(|name| (name.clone(), reason.clone())).collect());
        }
        Err(error) => return Err(error),
    }
    let mut lost = Vec::new();
    for name in all {
        match fetch(session, name).await {
            Ok(value) => held.renew(name, value)?,
            Err(AttestError::Refused { status: 403 | 404, reason, .. }) => lost.push((name.clone(), reason)),
            Err(error) => return Err(error),
        }
    }
    Ok(lost)
}

/// A refusal may be due to a token that speaks of what was known then: it is asked once more with a new one.
pub(super) async fn fetch(
    session: &Session,
    name: &ResourceName,
) -> Result<zeroize::Zeroizing<Vec<u8>>, AttestError> {
    match session.secret(name).await {
        Err(AttestError::Refused { status: 403, .. }) => {
            session.forget_token().await;
            session.secret(name).await
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_takes_nothing_before_the_lease_is_over_and_everything_as_soon_as_it_is() {
        let names = || {
            let read = ResourceName::parse;
            vec![read("kbs:///acme/key/1").expect("a name"), read("kbs:///acme/key/2").expect("a name")]
        };
        let lost = |seconds, lease: Option<u64>| {
            in_silence(names(), Duration::from_secs(seconds), lease.map(Duration::from_secs)).len()
        };
        assert_eq!([lost(0, Some(60)), lost(60, Some(60)), lost(61, Some(60))], [0, 0, 2]);
        assert_eq!(lost(1_000_000, None), 0);
    }
}
