//! Keeps asking whether the guest may keep its secrets, and takes them back when not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coffer_attestation::handshake::ResourceName;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, sleep};

use super::AttestError;
use super::held::Held;
use super::session::{Session, Standing};
use super::shown::Fetched;

/// Between two questions: a revocation must be seen within five seconds.
const INTERVAL: Duration = Duration::from_secs(2);

/// How many questions lie between two looks at the secrets themselves, where the verifier answers how the guest stands.
const LOOK_EVERY: usize = 15;

/// After so many secrets that could not be asked for a look ends: each may have taken as long as the verifier is waited for.
const MOST_FAILURES: usize = 3;

/// Runs until nobody wants to know any more. `ended` is told which containers had a secret in their environment that was
/// taken back.
pub(super) async fn keep(
    session: Arc<Session>,
    held: Arc<Held>,
    lease: Option<Duration>,
    ended: UnboundedSender<BTreeSet<String>>,
) {
    let (mut round, mut heard, mut silent) = (0_usize, Instant::now(), false);
    let mut looked = Looked::default();
    // Whether the verifier answers how a guest stands.
    let mut answers = true;
    while !ended.is_closed() {
        sleep(INTERVAL).await;
        let mut all = held.all();
        if all.is_empty() {
            // There is nothing to be silent about.
            heard = Instant::now();
            continue;
        }
        looked.only(&all, Instant::now());
        round = round.wrapping_add(1);
        // Each look begins elsewhere: it ends early where the verifier does not answer.
        let first = (round / LOOK_EVERY) % all.len();
        all.rotate_left(first);
        let look = round.is_multiple_of(LOOK_EVERY);
        let Asked { mut lost, seen, failure } = ask(&session, &held, (&all, look), &mut answers).await;
        looked.at(seen, Instant::now());
        lost.extend(looked.overdue(Instant::now(), lease));
        let over = match failure {
            None => {
                (heard, silent) = (Instant::now(), false);
                Vec::new()
            }
            Some(error) => {
                if !std::mem::replace(&mut silent, true) {
                    tracing::warn!(error = %crate::chain::Chain(&error), "the verifier does not say whether secrets stay");
                }
                in_silence(all, heard.elapsed(), lease)
            }
        };
        session.hang_up().await;
        // What is over is all there is.
        let lost = if over.is_empty() { lost } else { over };
        take_back(lost, &held, &ended);
    }
}

/// Asks for every secret that the guest has, now.
///
/// # Errors
/// The first that could not be asked for. Others may have been taken back.
pub(super) async fn look(
    session: &Session,
    held: &Held,
    ended: &UnboundedSender<BTreeSet<String>>,
) -> Result<(), AttestError> {
    let all = held.all();
    // The secrets alone: the answer about the guest is no answer about one of them.
    let Asked { lost, failure, .. } = ask(session, held, (&all, true), &mut false).await;
    take_back(lost, held, ended);
    failure.map_or(Ok(()), Err)
}

fn take_back(lost: Vec<(ResourceName, String)>, held: &Held, ended: &UnboundedSender<BTreeSet<String>>) {
    for (name, reason) in lost {
        tracing::warn!(secret = name.path(), reason, "a secret is taken back");
        let containers = held.take_back(&name);
        // Nobody listens: the pod is at its end.
        let _ = ended.send(containers);
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

/// When the verifier last gave each secret. That the guest stands well says nothing of one secret: a host that lets only that
/// question through would otherwise keep a secret in the pod that was deleted.
#[derive(Default)]
struct Looked(BTreeMap<ResourceName, Instant>);

impl Looked {
    /// These are all that there are; new ones were given a moment ago.
    fn only(&mut self, all: &[ResourceName], now: Instant) {
        self.0.retain(|name, _| all.contains(name));
        for name in all {
            self.0.entry(name.clone()).or_insert(now);
        }
    }

    fn at(&mut self, seen: Vec<ResourceName>, now: Instant) {
        self.0.extend(seen.into_iter().map(|name| (name, now)));
    }

    /// Those that were not given for longer than the lease, and the time between two looks.
    fn overdue(&self, now: Instant, lease: Option<Duration>) -> Vec<(ResourceName, String)> {
        let Some(lease) = lease else { return Vec::new() };
        let most = lease.saturating_add(INTERVAL * u32::try_from(LOOK_EVERY).unwrap_or(u32::MAX));
        let overdue = self.0.iter().filter(|(_, at)| now.saturating_duration_since(**at) > most);
        overdue.map(|(name, _)| (name.clone(), "its lease is over".to_owned())).collect()
    }
}

/// What a round of questions brought.
#[derive(Default)]
struct Asked {
    /// The secrets that must go, and why.
    lost: Vec<(ResourceName, String)>,
    /// Those that the verifier gave.
    seen: Vec<ResourceName>,
    /// Why the others were not all asked for.
    failure: Option<AttestError>,
}

/// One secret that cannot be had now does not keep the others from being looked at.
async fn ask(
    session: &Session,
    held: &Held,
    (all, look): (&[ResourceName], bool),
    answers: &mut bool,
) -> Asked {
    let gone = |reason: &str| all.iter().map(|name| (name.clone(), reason.to_owned())).collect();
    let standing = if *answers { session.standing().await } else { Ok(Standing::Unasked) };
    match standing {
        Ok(Standing::Good) if !look => return Asked::default(),
        Ok(Standing::Good) => {}
        Ok(Standing::Unasked) => *answers = false,
        // The guest was told when it attested anew.
        Ok(Standing::Lost(reason)) | Err(AttestError::Refused { status: 403, reason, .. }) => {
            return Asked { lost: gone(&reason), ..Asked::default() };
        }
        Err(error) => return Asked { failure: Some(error), ..Asked::default() },
    }
    let (mut asked, mut failures) = (Asked::default(), 0);
    for name in all {
        let kept = match fetch(session, name).await {
            Ok(value) => {
                asked.seen.push(name.clone());
                held.renew(name, value)
            }
            Err(AttestError::Refused { status: 403 | 404, reason, .. }) => {
                asked.lost.push((name.clone(), reason));
                Ok(())
            }
            Err(error) => Err(error),
        };
        failures += usize::from(kept.is_err());
        asked.failure = asked.failure.or(kept.err());
        if failures == MOST_FAILURES {
            break;
        }
    }
    asked
}

/// A refusal may be due to a token that speaks of what was known then: it is asked once more with a new one.
pub(super) async fn fetch(session: &Session, name: &ResourceName) -> Result<Fetched, AttestError> {
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
    fn a_secret_that_is_not_given_any_more_goes_though_the_guest_stands_well() {
        let names =
            ["kbs:///acme/key/1", "kbs:///acme/key/2"].map(|name| ResourceName::parse(name).expect("a name"));
        let (start, lease) = (Instant::now(), Some(Duration::from_secs(60)));
        let mut looked = Looked::default();
        looked.only(&names, start);
        let later = start + Duration::from_secs(80);
        looked.at(vec![names[0].clone()], later);
        assert!(looked.overdue(later, lease).is_empty());
        let late = start + Duration::from_secs(91);
        assert_eq!(looked.overdue(late, lease), [(names[1].clone(), "its lease is over".to_owned())]);
        assert!(looked.overdue(late, None).is_empty());
        // One that is gone is not asked for, and is new if it comes back.
        looked.only(&names[..1], late);
        looked.only(&names, late);
        assert!(looked.overdue(late, lease).is_empty());
    }

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
