//! Identity tokens (OpenID Connect): what one says of its holder. Whether it is genuine is for whoever gives certificates.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, anyhow, bail, ensure};
use base64ct::{Base64UrlUnpadded, Encoding};
use coffer_attestation::handshake::{Limits, read_json};
use coffer_attestation::time::UnixTime;
use serde::Deserialize;
use zeroize::Zeroizing;

/// The variable that Sigstore's tools read a token from.
pub(super) const VARIABLE: &str = "SIGSTORE_ID_TOKEN";
/// Whom Fulcio wants tokens to be for.
const AUDIENCE: &str = "sigstore";
/// The longest token, in bytes.
const MAX_BYTES: usize = 16 << 10;
const LIMITS: Limits = Limits { bytes: MAX_BYTES, depth: 8 };
/// How far clocks may be apart, in seconds.
pub(super) const SKEW: u64 = 60;

/// A token that may be shown to Fulcio.
pub(super) struct IdentityToken {
    text: Zeroizing<String>,
    claims: Claims,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: u64,
    nbf: Option<u64>,
    email: Option<String>,
    email_verified: Option<Flag>,
    federated_claims: Option<Federated>,
    // What GitHub and GitLab say of a workflow, of which Fulcio makes its name.
    job_workflow_ref: Option<String>,
    ci_config_ref_uri: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// Some issuers write it as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Flag {
    Said(bool),
    Written(String),
}

#[derive(Deserialize)]
struct Federated {
    connector_id: Option<String>,
}

impl IdentityToken {
    /// Reads the file at `path`, standard input for `-`, or the environment.
    pub(super) fn read(path: Option<&Path>, now: UnixTime) -> anyhow::Result<Self> {
        let text = match path {
            Some(path) if path.as_os_str() == "-" => {
                bounded(io::stdin()).context("reading the token from standard input")?
            }
            Some(path) => File::open(path)
                .and_then(bounded)
                .with_context(|| format!("reading the identity token {}", path.display()))?,
            None => {
                let text = std::env::var_os(VARIABLE).with_context(|| {
                    format!("there is no identity token: give --identity-token, or set {VARIABLE}")
                })?;
                // The error of the standard library has the value in it.
                let text = text.into_string().map_err(|_| anyhow!("what {VARIABLE} holds is no text"))?;
                Zeroizing::new(text)
            }
        };
        Self::parse(text.trim(), now)
    }

    fn parse(text: &str, now: UnixTime) -> anyhow::Result<Self> {
        ensure!(text.len() <= MAX_BYTES, "an identity token has at most {MAX_BYTES} bytes, this one more");
        let mut parts = text.split('.');
        let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            bail!("this is no identity token: three parts with dots between them are (a JWT, signed)");
        };
        let bytes = Base64UrlUnpadded::decode_vec(claims).ok().map(Zeroizing::new);
        // What is wrong with it is not said: it would be told in the token's own words.
        let claims: Option<Claims> = bytes.and_then(|bytes| read_json(&bytes, LIMITS).ok());
        let mut claims = claims.context(
            "the identity token's claims cannot be read: it needs iss, sub, aud and exp, as OpenID Connect has them",
        )?;
        // Some issuers leave the member empty for whom they know no address of.
        claims.email = claims.email.filter(|address| !address.is_empty());
        claims.check(now)?;
        Ok(Self { text: Zeroizing::new(text.to_owned()), claims })
    }

    /// What opens Fulcio's door.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The name that Fulcio wants to see signed with the new key.
    pub(super) fn challenge(&self) -> &str {
        self.claims.email.as_deref().unwrap_or(&self.claims.sub)
    }

    /// What the certificate's holder may be called.
    pub(super) fn holders(&self) -> Vec<String> {
        let claims = &self.claims;
        if let Some(mail) = &claims.email {
            return vec![mail.clone()];
        }
        let github = claims.job_workflow_ref.iter().map(|it| format!("https://github.com/{it}"));
        let gitlab = claims.ci_config_ref_uri.iter().map(|it| format!("https://{it}"));
        std::iter::once(claims.sub.clone()).chain(github).chain(gitlab).collect()
    }

    /// By whose word, as the certificate may say it: the token's issuer, or whom that one asked.
    pub(super) fn issuers(&self) -> Vec<String> {
        let asked = self.claims.federated_claims.as_ref().and_then(|it| it.connector_id.clone());
        std::iter::once(self.claims.iss.clone()).chain(asked).collect()
    }

    /// Takes the token out of what somebody said, whole or in part.
    pub(super) fn hide(&self, text: &str) -> String {
        let parts = self.text.split('.').filter(|part| part.len() >= 8);
        parts.fold(text.to_owned(), |text, part| text.replace(part, "(the token)"))
    }
}

impl Claims {
    fn check(&self, now: UnixTime) -> anyhow::Result<()> {
        let again = "get a new one";
        let until = UnixTime(self.exp);
        ensure!(now < until, "the identity token expired at {until}, and it is {now}: {again}");
        if let Some(from) = self.nbf.map(UnixTime) {
            ensure!(
                from.0 <= now.0.saturating_add(SKEW),
                "the identity token counts from {from}, and it is {now}"
            );
        }
        let is_for = match &self.aud {
            Audience::One(one) => one == AUDIENCE,
            Audience::Several(all) => all.iter().any(|one| one == AUDIENCE),
        };
        ensure!(is_for, "the identity token is not for {AUDIENCE:?} (its aud): {again} with that audience");
        ensure!(
            !self.iss.is_empty() && !self.sub.is_empty(),
            "the identity token names no issuer, or no subject"
        );
        let is_verified = match &self.email_verified {
            Some(Flag::Said(said)) => *said,
            Some(Flag::Written(text)) => text == "true",
            None => false,
        };
        ensure!(
            self.email.is_none() || is_verified,
            "the identity token's address is not verified (email_verified): verify it with {:?}, and {again}",
            self.iss
        );
        Ok(())
    }
}

fn bounded(reader: impl Read) -> io::Result<Zeroizing<String>> {
    // With room for all of it: what grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_BYTES + 2));
    reader.take(MAX_BYTES as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: UnixTime = UnixTime(1_000_000);

    fn token(change: impl FnOnce(&mut Value)) -> anyhow::Result<IdentityToken> {
        let mut claims = json!({
            "iss": "https://issuer.example.com", "sub": "17", "aud": "sigstore", "exp": NOW.0 + 60,
            "email": "dev@example.com", "email_verified": true,
        });
        change(&mut claims);
        let claims = Base64UrlUnpadded::encode_string(claims.to_string().as_bytes());
        IdentityToken::parse(&format!("e30.{claims}.c2lnbmF0dXJl"), NOW)
    }

    fn refused(change: impl FnOnce(&mut Value)) -> String {
        token(change).err().expect("refused").to_string()
    }

    #[test]
    fn a_verified_address_is_the_name() {
        let token = token(|_| {}).expect("a token");
        assert_eq!(
            (token.challenge(), token.holders()),
            ("dev@example.com", vec!["dev@example.com".to_owned()])
        );
        assert_eq!(token.issuers(), ["https://issuer.example.com"]);
    }

    #[test]
    fn without_an_address_the_subject_is_and_a_workflow_has_its_file_too() {
        let workflow = token(|claims| {
            *claims = json!({"iss": "i", "sub": "repo:o/a", "aud": ["x", "sigstore"], "exp": NOW.0 + 1,
                "job_workflow_ref": "o/a/.github/workflows/b.yml@refs/heads/main"});
        });
        let workflow = workflow.expect("a token");
        assert_eq!(workflow.challenge(), "repo:o/a");
        assert_eq!(workflow.holders()[1], "https://github.com/o/a/.github/workflows/b.yml@refs/heads/main");
    }

    #[test]
    fn an_expired_one_is_refused() {
        assert!(refused(|claims| claims["exp"] = json!(NOW.0)).contains("expired at 1970-01-12T13:46:40Z"));
    }

    #[test]
    fn one_that_does_not_count_yet_is_refused() {
        assert!(refused(|claims| claims["nbf"] = json!(NOW.0 + SKEW + 1)).contains("counts from"));
    }

    #[test]
    fn one_for_somebody_else_is_refused() {
        assert!(
            refused(|claims| claims["aud"] = json!(["other", "sigstore.example.com"])).contains("is not for")
        );
    }

    #[test]
    fn an_address_that_nobody_verified_is_refused() {
        assert!(refused(|claims| claims["email_verified"] = json!("false")).contains("is not verified"));
    }

    #[test]
    fn what_is_none_is_refused_in_none_of_its_own_words() {
        let error = IdentityToken::parse("e30.c2VjcmV0.c2ln", NOW).err().expect("refused");
        assert!(!format!("{error:#}").contains("c2VjcmV0"), "{error:#}");
        assert!(!format!("{error:#}").contains("secret"), "{error:#}");
    }

    #[test]
    fn no_part_of_it_is_repeated() {
        let token = token(|_| {}).expect("a token");
        assert_eq!(token.hide("no: c2lnbmF0dXJl is bad"), "no: (the token) is bad");
    }
}
