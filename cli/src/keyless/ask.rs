//! One question to one service, and what is said when the answer is none.

use anyhow::{Context, bail};
use coffer_attestation::verdict::printable;
use hyper::Method;
use hyper::header::{ACCEPT, CONTENT_TYPE};
use serde_json::Value;
use zeroize::Zeroizing;

use super::token::IdentityToken;
use crate::registry::{Asked, Transport};

/// Who alone is shown the token.
pub(super) const FULCIO: &str = "Fulcio";
/// The longest answer, in bytes.
const MAX_ANSWER: usize = 256 << 10;
/// As much of what a service says of a failure is repeated, in characters.
const MAX_WORDS: usize = 300;

/// Who asks.
pub(super) struct Asker<'a> {
    pub(super) transport: &'a Transport,
    pub(super) token: &'a IdentityToken,
}

/// What is asked of whom.
pub(super) struct Question<'a> {
    pub(super) service: &'static str,
    pub(super) address: String,
    pub(super) what: &'static str,
    /// Of the body.
    pub(super) media_type: &'static str,
    pub(super) body: &'a [u8],
}

impl Asker<'_> {
    /// The answer's bytes. Nobody is followed elsewhere.
    pub(super) fn post(&self, question: Question<'_>) -> anyhow::Result<Vec<u8>> {
        let Question { service, address, what, media_type, body } = question;
        let asked = Asked {
            method: Method::POST,
            address: address.clone(),
            headers: vec![
                (CONTENT_TYPE, Zeroizing::new(media_type.to_owned())),
                (ACCEPT, Zeroizing::new("*/*".to_owned())),
            ],
            body,
        };
        let answer = self.transport.send(asked, MAX_ANSWER);
        let answer = answer.with_context(|| format!("asking {service} at {address} for {what}"))?;
        if matches!(answer.status, 200 | 201) {
            return Ok(answer.body);
        }
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        let parsed: Value = serde_json::from_str(&said).unwrap_or_default();
        let said = self.token.hide(parsed["message"].as_str().unwrap_or(&said));
        let said = printable(&said.chars().take(MAX_WORDS).collect::<String>());
        let said = if said.is_empty() { "it does not say why".to_owned() } else { said };
        bail!(
            "{service} at {address} answers {} when asked for {what}: {said}; nothing was attached: {}",
            answer.status,
            advice(service, answer.status)
        )
    }
}

fn advice(service: &str, status: u16) -> &'static str {
    match status {
        300..400 => "nobody is followed elsewhere, so give the address that answers itself",
        400 | 401 | 403 if service == FULCIO => "get a new token, of an issuer that this service knows",
        400 | 401 | 403 => "look whether it takes signatures of this authority's certificates",
        404 | 405 => "look whether the address is that of such a service, and of this version",
        409 => "it has such an entry already; sign again, which makes another key",
        _ => "try again later",
    }
}
