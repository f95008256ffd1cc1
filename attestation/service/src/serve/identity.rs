//! Who is at the other end: TLS says it by a certificate, a request by a token.

use std::sync::Arc;
use std::time::SystemTime;

use axum::http::header::AUTHORIZATION;
use axum::http::{Method, Request};
use coffer_attestation::x509::Certificate;
use rustls::ServerConnection;

use crate::operators::{Oidc, Who};
use crate::secrets::canonical_serial;

/// Whoever showed a certificate, which TLS has checked.
pub(super) fn by_certificate(connection: &ServerConnection) -> Option<Who> {
    let shown = Certificate::from_der(connection.peer_certificates()?.first()?).ok()?;
    let serial = canonical_serial(&hex::encode(shown.serial()));
    Some(Who::Certificate { name: shown.common_name()?, serial })
}

/// Whoever shows a token with a request that is an operator's: guests have tokens of their own, which nobody looks at here.
pub(super) fn by_token<B>(request: &Request<B>, oidc: Option<&Arc<Oidc>>) -> Option<Who> {
    let oidc = oidc.filter(|_| is_of_operators(request.method(), request.uri().path()))?;
    let token = request.headers().get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
    match oidc.check(token, SystemTime::now().into()) {
        Ok(who) => Some(who),
        Err(error) => {
            tracing::debug!(%error, "an operator's token is not taken");
            None
        }
    }
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
