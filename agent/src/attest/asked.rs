//! What containers ask for while they run. A door of theirs has looked at what they may before it asks here.

use coffer_attestation::handshake::ResourceName;
use zeroize::Zeroizing;

use super::attested::Attested;
use super::held::{Kept, Known};
use super::{AttestError, Grant, renew};

/// Why a container is not given what it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Denial {
    /// It was taken back.
    TakenBack,
    /// The verifier says no, with this reason.
    Refused(String),
    /// The verifier has no such secret.
    Unknown,
    /// The verifier is asked too often.
    Busy,
    /// Nobody can say at the moment.
    Away(String),
}

impl Attested {
    /// What the initdata lets the container with this name ask for.
    pub(crate) fn grant(&self, container: &str) -> Option<Grant> {
        self.wishes.containers.iter().find(|grant| grant.container == container).cloned()
    }

    /// A secret that need not be fetched, or why it never will be.
    pub(crate) fn at_hand(&self, resource: &ResourceName) -> Option<Result<Zeroizing<Vec<u8>>, Denial>> {
        match self.held.known(resource) {
            Known::Here(fetched) => Some(Ok(fetched.value)),
            Known::TakenBack => Some(Err(Denial::TakenBack)),
            Known::Unasked => None,
        }
    }

    /// Fetches a secret and keeps it, so that it is renewed and can be taken back.
    pub(crate) async fn fetched(&self, resource: &ResourceName) -> Result<Zeroizing<Vec<u8>>, Denial> {
        // One at a time: who asks how the guest stands must not wait behind all of them.
        let _turn = self.turn.lock().await;
        loop {
            if let Some(known) = self.at_hand(resource) {
                return known;
            }
            let session = self.session.as_ref().ok_or_else(no_verifier)?;
            let fetched = renew::fetch(session, resource).await;
            session.hang_up().await;
            let fetched = fetched?;
            match self.held.keep(resource, fetched.clone()) {
                Kept::Current => return Ok(fetched.value),
                // It was for the guest without an image that was let run meanwhile.
                Kept::Stale => {}
                Kept::TakenBack => return Err(Denial::TakenBack),
            }
        }
    }

    /// A token that the verifier has just given for this guest.
    pub(crate) async fn token(&self) -> Result<Zeroizing<String>, Denial> {
        let _turn = self.turn.lock().await;
        let session = self.session.as_ref().ok_or_else(no_verifier)?;
        let token = session.fresh_token().await;
        session.hang_up().await;
        Ok(token?)
    }

    /// Evidence of the processor over `data`, in the form of its kind.
    pub(crate) async fn evidence(&self, data: &[u8; 64]) -> Result<String, Denial> {
        let _turn = self.turn.lock().await;
        let session = self.session.as_ref().ok_or_else(no_verifier)?;
        Ok(session.evidence(data).await?)
    }
}

fn no_verifier() -> Denial {
    Denial::Refused("the initdata names no verifier".to_owned())
}

impl From<AttestError> for Denial {
    fn from(error: AttestError) -> Self {
        match error {
            AttestError::Refused { status: 404, .. } => Self::Unknown,
            AttestError::Refused { status: 429, .. } => Self::Busy,
            AttestError::Refused { status: 401 | 403, reason, .. } => Self::Refused(reason),
            other => Self::Away(crate::chain::Chain(&other).to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16) -> Denial {
        AttestError::Refused { what: "it".to_owned(), status, reason: "no".to_owned() }.into()
    }

    #[test]
    fn what_the_verifier_says_is_told_apart_from_its_silence() {
        let no = Denial::Refused("no".to_owned());
        assert_eq!(
            [refused(404), refused(403), refused(401), refused(429)],
            [Denial::Unknown, no.clone(), no, Denial::Busy]
        );
        assert!(matches!(refused(500), Denial::Away(_)));
        let silent = AttestError::Unreachable { verifier: "v".to_owned(), reason: "down".to_owned() };
        assert!(matches!(Denial::from(silent), Denial::Away(reason) if reason.contains("down")));
    }
}
