//! Who is at the other end: TLS says it by a certificate, a request by a token.

use std::sync::Arc;

use axum::http::header::AUTHORIZATION;
use axum::http::{Method, Request};
use coffer_attestation::time::UnixTime;
use coffer_attestation::x509::Certificate;
use rustls::pki_types::CertificateDer;

use crate::exchange::Refusal;
use crate::operators::{Oidc, OidcError, Who};
use crate::secrets::canonical_serial;

/// A certificate that TLS has checked, and how long it is worth something: connections may be older than that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    who: Who,
    until: UnixTime,
}

/// Who asks. Somebody whose word is worth nothing is nobody, for a reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asker {
    Known(Who),
    Nobody(Option<Unproven>),
}

/// Why somebody is nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unproven {
    /// The certificate is over.
    #[error("the certificate that was shown was good until {until}: connect with a new one")]
    Over {
        /// Until when it was good.
        until: UnixTime,
    },
    /// The token.
    #[error(transparent)]
    Token(#[from] OidcError),
}

impl Shown {
    /// Reads what a client has shown, itself first.
    pub(super) fn of(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let all: Result<Vec<_>, _> = chain.iter().map(|shown| Certificate::from_der(shown)).collect();
        let all = all.ok()?;
        let first = all.first()?;
        let serial = canonical_serial(&hex::encode(first.serial()));
        let who = Who::Certificate { name: first.common_name()?, serial };
        Some(Self { who, until: all.iter().map(Certificate::not_after).min()? })
    }

    fn at(&self, now: UnixTime) -> Result<Who, Unproven> {
        if now > self.until {
            return Err(Unproven::Over { until: self.until });
        }
        Ok(self.who.clone())
    }
}

impl Asker {
    /// Whoever is known.
    pub(super) fn known(&self) -> Option<&Who> {
        match self {
            Asker::Known(who) => Some(who),
            Asker::Nobody(_) => None,
        }
    }

    /// A refusal that says why somebody is nobody, where that is all that it is about.
    pub(super) fn explain(&self, refusal: Refusal) -> Refusal {
        match (self, &refusal) {
            (
                Asker::Nobody(Some(Unproven::Token(OidcError::OldKeys { .. }))),
                Refusal::Unauthenticated { .. },
            ) => Refusal::Unavailable {
                reason: "the identity provider's keys could not be read for too long: no token is taken",
            },
            (Asker::Nobody(Some(why)), Refusal::Unauthenticated { .. }) => {
                Refusal::Unauthenticated { reason: why.to_string() }
            }
            _ => refusal,
        }
    }
}

/// Who makes a request at the time `now`: whoever showed a certificate, or a token with a request that is an operator's. Guests
/// have tokens of their own, which nobody looks at here.
pub(super) fn of_request<B>(
    shown: Option<&Shown>,
    request: &Request<B>,
    oidc: Option<&Arc<Oidc>>,
    now: UnixTime,
) -> Asker {
    let by_certificate = shown.map(|shown| shown.at(now));
    if let Some(Ok(who)) = by_certificate {
        return Asker::Known(who);
    }
    match by_token(request, oidc, now).or(by_certificate) {
        Some(Ok(who)) => Asker::Known(who),
        Some(Err(why)) => {
            tracing::debug!(error = %why, "an operator's certificate or token is not taken");
            Asker::Nobody(Some(why))
        }
        None => Asker::Nobody(None),
    }
}

fn by_token<B>(
    request: &Request<B>,
    oidc: Option<&Arc<Oidc>>,
    now: UnixTime,
) -> Option<Result<Who, Unproven>> {
    let oidc = oidc.filter(|_| is_of_operators(request.method(), request.uri().path()))?;
    let token = request.headers().get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
    Some(oidc.check(token, now).map_err(Unproven::from))
}

fn is_of_operators(method: &Method, path: &str) -> bool {
    match path {
        "/coffer/v1/standing" => false,
        "/metrics" => true,
        _ if path.starts_with("/kbs/v0/resource/") => method != Method::GET,
        _ => path.starts_with("/coffer/v1/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{Authority, Subject};
    use rustls::pki_types::pem::PemObject;

    const NOW: UnixTime = UnixTime(1_795_262_400);

    #[test]
    fn a_certificate_is_worth_nothing_from_the_second_on_in_which_it_is_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::open(folder.path(), NOW).expect("an authority");
        let issued = authority.issue(Subject::Client("alice"), NOW, 3600).expect("issued");
        let der = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).expect("a certificate");
        let above = CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("a certificate");
        let shown = Shown::of(&[der, above]).expect("shown");
        let request = Request::get("/coffer/v1/audit").body(()).expect("a request");
        let at = |seconds| of_request(Some(&shown), &request, None, UnixTime(NOW.0 + seconds));
        assert!(at(3600).known().is_some_and(|who| who.name() == "alice"));
        let until = UnixTime(NOW.0 + 3600);
        assert_eq!(at(3601), Asker::Nobody(Some(Unproven::Over { until })));
        let nobody = Refusal::Unauthenticated { reason: String::new() };
        assert!(at(3601).explain(nobody).to_string().contains("was good until"));
        assert_eq!(at(3601).explain(Refusal::NotFound), Refusal::NotFound);
    }

    #[test]
    fn only_requests_of_operators_are_looked_at() {
        let asked = [
            (Method::GET, "/kbs/v0/resource/acme/key/1"),
            (Method::POST, "/kbs/v0/resource/acme/key/1"),
            (Method::GET, "/coffer/v1/standing"),
            (Method::GET, "/coffer/v1/audit"),
            (Method::POST, "/kbs/v0/attest"),
            (Method::GET, "/metrics"),
        ];
        let found = asked.map(|(method, path)| is_of_operators(&method, path));
        assert_eq!(found, [false, true, false, true, false, true]);
    }
}
