//! A key of minutes, and the certificate for it that Fulcio (version 2 of its interface) gives to a token's holder.

use anyhow::{Context, bail, ensure};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64ct::{Base64, Encoding};
use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::printable;
use coffer_attestation::x509::{Certificate, PublicKey};
use coffer_image::signing::{ALTERNATIVE_NAME, EXTENDED_USAGE, LOG_PROMISES, check_use, holder, oidc_issuer};
use der::pem::LineEnding;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::ask::{Asker, FULCIO, Question};
use super::confirm::Expected;
use super::token::SKEW;

/// Makes signatures for as long as one command runs; there is no way to write it down. aws-lc wipes what it gives back.
pub(super) struct ShortLived {
    pair: EcdsaKeyPair,
    /// SubjectPublicKeyInfo.
    public: Vec<u8>,
}

/// A certificate for our key, and for whom the token names.
pub(super) struct Issued {
    pub(super) leaf: Certificate,
    pub(super) holder: String,
    pub(super) issuer: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    credentials: Credentials<'a>,
    public_key_request: KeyRequest,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Credentials<'a> {
    oidc_identity_token: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KeyRequest {
    public_key: KeyText,
    proof_of_possession: String,
}

#[derive(Serialize)]
struct KeyText {
    algorithm: &'static str,
    content: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    signed_certificate_embedded_sct: Option<Signed>,
}

#[derive(Deserialize)]
struct Signed {
    chain: Chain,
}

#[derive(Deserialize)]
struct Chain {
    certificates: Vec<String>,
}

impl ShortLived {
    /// A key on P-256.
    pub(super) fn generate() -> anyhow::Result<Self> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING);
        let pair = pair.map_err(|_| anyhow::anyhow!("there is no randomness to make a key of"))?;
        let public: Result<PublicKeyX509Der<'_>, _> = pair.public_key().as_der();
        let public = public.map_err(|_| anyhow::anyhow!("the new key has no public part"))?.as_ref().to_vec();
        Ok(Self { pair, public })
    }

    /// ECDSA with SHA-256.
    pub(super) fn sign(&self, message: &[u8]) -> anyhow::Result<Vec<u8>> {
        let signature = self.pair.sign(&SystemRandom::new(), message);
        Ok(signature.map_err(|_| anyhow::anyhow!("the new key does not sign"))?.as_ref().to_vec())
    }

    fn pem(&self) -> anyhow::Result<String> {
        let text = der::pem::encode_string("PUBLIC KEY", LineEnding::LF, &self.public);
        text.map_err(|error| anyhow::anyhow!("the new key cannot be written: {error}"))
    }
}

/// Asks for a certificate, and takes none but one for `key` and for whom is `expected`.
pub(super) fn issue(
    asker: &Asker<'_>,
    fulcio: &str,
    key: &ShortLived,
    expected: &Expected,
    now: fn() -> UnixTime,
) -> anyhow::Result<Issued> {
    let proof = key.sign(asker.token.challenge().as_bytes())?;
    let request = Request {
        credentials: Credentials { oidc_identity_token: asker.token.text() },
        public_key_request: KeyRequest {
            public_key: KeyText { algorithm: "ECDSA", content: key.pem()? },
            proof_of_possession: Base64::encode_string(&proof),
        },
    };
    // With room for all of it: what grows leaves copies of the token behind.
    let mut body = Zeroizing::new(Vec::with_capacity(2 * asker.token.text().len() + (4 << 10)));
    serde_json::to_writer(&mut *body, &request)?;
    let address = format!("{fulcio}/api/v2/signingCert");
    let answer = asker.post(Question {
        service: FULCIO,
        address: address.clone(),
        what: "a certificate",
        media_type: "application/json",
        body: &body,
    })?;
    let issued = read(&answer).and_then(|chain| checked(chain, key, expected, now()));
    issued.with_context(|| {
        format!("the certificate of Fulcio at {address} is not taken, and nothing was signed")
    })
}

fn read(answer: &[u8]) -> anyhow::Result<Vec<Certificate>> {
    let answer: Answer =
        serde_json::from_slice(answer).map_err(|_| anyhow::anyhow!("its answer is not that of Fulcio"))?;
    let signed = answer.signed_certificate_embedded_sct;
    let signed = signed
        .context("it has no log's promise inside (signedCertificateEmbeddedSct), which verifiers want")?;
    let pem = signed.chain.certificates.join("\n");
    Ok(Certificate::from_file(pem.as_bytes())?)
}

fn checked(
    chain: Vec<Certificate>,
    key: &ShortLived,
    expected: &Expected,
    now: UnixTime,
) -> anyhow::Result<Issued> {
    let mut above = chain.into_iter();
    let (leaf, chain): (_, Vec<Certificate>) = (above.next().context("there is none")?, above.collect());
    ensure!(
        *leaf.key() == PublicKey::from_file(&key.public)?,
        "it is for another key than the one that was made for it"
    );
    let (holder, issuer) = (holder(&leaf).unwrap_or_default(), oidc_issuer(&leaf).unwrap_or_default());
    ensure!(
        expected.issuers.contains(&issuer),
        "it names {:?} as the issuer of the token, which is of {:?}",
        printable(&issuer),
        expected.issuers
    );
    ensure!(
        expected.holders.contains(&holder),
        "it is for {:?}, and the token is for {:?}: if that is who signs, say --identity NAME",
        printable(&holder),
        expected.holders
    );
    check_use(&leaf)?;
    ensure!(leaf.extension(&LOG_PROMISES).is_some(), "no log of certificates has promised to show it");
    ensure!(
        leaf.not_before().0 <= now.0.saturating_add(SKEW) && now <= leaf.not_after(),
        "it counts from {} until {}, and it is {now}",
        leaf.not_before(),
        leaf.not_after()
    );
    let Some(by) = chain.first() else { bail!("it came without its issuer's") };
    leaf.check_issued_by_knowing(by, &[ALTERNATIVE_NAME, EXTENDED_USAGE])?;
    for (below, above) in chain.iter().zip(chain.iter().skip(1)) {
        below.check_issued_by(above)?;
    }
    Ok(Issued { leaf, holder, issuer })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_certificates_is_none() {
        assert!(read(br#"{"signedCertificateEmbeddedSct": {"chain": {"certificates": []}}}"#).is_err());
        assert!(read(b"<html>").is_err());
        assert!(
            read(br#"{"signedCertificateEmbeddedSct": {"chain": {"certificates": ["no PEM"]}}}"#).is_err()
        );
    }

    #[test]
    fn each_key_is_another_and_signs() {
        let [one, other] = [(); 2].map(|()| ShortLived::generate().expect("a key"));
        assert_ne!(one.public, other.public);
        let signature = one.sign(b"message").expect("a signature");
        let public = PublicKey::from_file(&one.public).expect("a key");
        assert!(public.verify(public.usual_algorithm(), b"message", &signature).is_ok());
        assert!(public.verify(public.usual_algorithm(), b"another", &signature).is_err());
    }
}
