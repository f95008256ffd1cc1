//! The conversation with the verifier: a challenge, evidence that is bound to a key made here, a token, secrets for the key.

use std::sync::Arc;

use coffer_attestation::handshake::{
    Attestation, Challenge, GuestKey, HashAlgorithm, InitData, OpenError, ReportData, Request, ResourceName,
    Sealed, Tee, TeeKey, refusal_told_by,
};
use getrandom::SysRng;
use hyper::Method;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::AttestError;
use super::attester::Attester;
use super::shown::{Fetched, Shown};
use super::verifier::{Answer, Ask, Verifier};

const AUTH: &str = "/kbs/v0/auth";
const ATTEST: &str = "/kbs/v0/attest";
const STANDING: &str = "/coffer/v1/standing";

/// A conversation; it begins anew when its token has expired, or speaks of other images than there are.
pub(super) struct Session {
    verifier: Verifier,
    attester: Box<dyn Attester>,
    tee: Tee,
    initdata: InitData,
    /// Made here, never leaves the guest, gone with it.
    key: GuestKey,
    shown: Arc<Shown>,
    token: tokio::sync::Mutex<Option<Arc<Token>>>,
}

/// What the verifier gave for the evidence.
struct Token {
    text: Zeroizing<String>,
    /// Why it does not affirm the guest.
    doubt: Option<String>,
    /// Of the images that the evidence showed.
    changes: u64,
}

/// How the guest stands with the verifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// It may keep what it has.
    Good,
    /// It must drop everything, for this reason.
    Lost(String),
    /// The verifier has no such question: ask for each secret.
    Unasked,
}

impl Session {
    /// With a key of its own. Nothing is sent yet.
    pub(super) fn new(
        verifier: Verifier,
        attester: Box<dyn Attester>,
        (tee, initdata): (Tee, InitData),
        shown: Arc<Shown>,
    ) -> Result<Self, AttestError> {
        let key = GuestKey::generate(&mut SysRng);
        let key = key.map_err(|error| AttestError::Processor { source: std::io::Error::other(error) })?;
        Ok(Self { verifier, attester, tee, initdata, key, shown, token: tokio::sync::Mutex::default() })
    }

    /// Fetches a secret. Attests first when there is no token, or none that is good any more.
    pub(super) async fn secret(&self, resource: &ResourceName) -> Result<Fetched, AttestError> {
        let path = format!("/kbs/v0/resource/{}", resource.path());
        let (answer, token) = self.get(&path).await?;
        let what = || format!("the secret {}", resource.path());
        if answer.status != 200 {
            let said = answer.reason();
            let reason =
                token.doubt.as_ref().map_or_else(|| said.clone(), |doubt| format!("{said}; {doubt}"));
            return Err(AttestError::Refused { what: what(), status: answer.status, reason });
        }
        let sealed: Sealed = serde_json::from_slice(&answer.body).map_err(|error| AttestError::Protocol {
            what: "a request for a secret",
            reason: error.to_string(),
        })?;
        let open = |source: OpenError| AttestError::Open { resource: resource.path().to_owned(), source };
        let value = self.key.open(&sealed).map_err(open)?;
        Ok(Fetched { value, changes: token.changes })
    }

    /// Asks whether the guest may keep what it has.
    pub(super) async fn standing(&self) -> Result<Standing, AttestError> {
        let (answer, _) = self.get(STANDING).await?;
        Ok(match answer.status {
            200 => Standing::Good,
            // A guest whose reference was replaced may be known by another one.
            403 if answer.kind() == "PolicyDeny" => {
                self.forget_token().await;
                match self.get(STANDING).await?.0 {
                    again if again.status == 200 => Standing::Good,
                    again => Standing::Lost(again.reason()),
                }
            }
            403 => Standing::Lost(answer.reason()),
            404 | 405 => Standing::Unasked,
            status => {
                let reason = format!("status {status}: {}", answer.reason());
                return Err(AttestError::Protocol { what: "how the guest stands", reason });
            }
        })
    }

    /// Nothing is asked for a while.
    pub(super) async fn hang_up(&self) {
        self.verifier.hang_up().await;
    }

    /// A token that is as fresh as can be.
    pub(super) async fn fresh_token(&self) -> Result<Zeroizing<String>, AttestError> {
        self.forget_token().await;
        Ok(self.token().await?.text.clone())
    }

    /// Evidence over `data`, in the form of its kind.
    pub(super) async fn evidence(&self, data: &[u8; 64]) -> Result<String, AttestError> {
        Ok(self.attester.evidence(data).await?.json.to_string())
    }

    /// Whether the last evidence was that of a guest whose owner knows it, also if it is refused a secret.
    pub(super) async fn is_affirmed(&self) -> bool {
        self.token.lock().await.as_ref().is_some_and(|token| token.doubt.is_none())
    }

    /// Attests anew with the next request.
    pub(super) async fn forget_token(&self) {
        *self.token.lock().await = None;
    }

    /// Asks with a token; one that is not good any more is replaced once.
    async fn get(&self, path: &str) -> Result<(Answer, Arc<Token>), AttestError> {
        let token = self.token().await?;
        let answer = self.get_with(path, &token).await?;
        if answer.status != 401 {
            return Ok((answer, token));
        }
        self.forget_token().await;
        let token = self.token().await?;
        Ok((self.get_with(path, &token).await?, token))
    }

    async fn get_with(&self, path: &str, token: &Token) -> Result<Answer, AttestError> {
        let ask =
            Ask { method: Method::GET, path, token: Some(&token.text), cookie: None, body: String::new() };
        self.verifier.ask(ask).await
    }

    async fn token(&self) -> Result<Arc<Token>, AttestError> {
        let mut held = self.token.lock().await;
        let changes = self.shown.changes();
        if let Some(token) = held.as_ref().filter(|token| token.changes == changes) {
            return Ok(token.clone());
        }
        let token = Arc::new(self.attest().await?);
        *held = Some(token.clone());
        Ok(token)
    }

    async fn attest(&self) -> Result<Token, AttestError> {
        let request = Request { tee: self.tee, hash: HashAlgorithm::Sha384 }.to_json().to_string();
        let answer = self.post(AUTH, None, request).await?;
        let cookie = answer.cookie.clone();
        let challenge = Challenge::parse(&expected("a challenge", answer)?.body);
        let challenge = challenge.map_err(|error| protocol("a request for a challenge", &error))?;
        let key_as_sent = self.key.public();
        let (changes, additional) = self.shown.evidence();
        let bound = ReportData::compute(challenge.hash, &challenge.nonce, &key_as_sent, &additional);
        let bound = bound.map_err(|error| protocol("a request for a challenge", &error))?;
        let evidence = self.attester.evidence(&bound.as_report_field()).await?;
        let attestation = Attestation {
            init_data: Some(self.initdata.clone()),
            nonce: challenge.nonce,
            key: TeeKey::parse(&key_as_sent).map_err(|error| protocol("evidence", &error))?,
            key_as_sent,
            evidence: evidence.json.to_string(),
            additional,
        };
        let answer = self.post(ATTEST, cookie.as_deref(), attestation.to_json().unwrap_or_default()).await?;
        let answer = expected("this guest", answer)?;
        #[derive(Deserialize)]
        struct Given {
            token: String,
        }
        let given: Given =
            serde_json::from_slice(&answer.body).map_err(|error| protocol("evidence", &error))?;
        let doubt = refusal_told_by(&given.token);
        match &doubt {
            Some(doubt) => tracing::warn!(doubt, "the verifier does not affirm this guest"),
            None => tracing::info!("the verifier affirms this guest"),
        }
        Ok(Token { text: Zeroizing::new(given.token), doubt, changes })
    }

    async fn post(&self, path: &str, cookie: Option<&str>, body: String) -> Result<Answer, AttestError> {
        self.verifier.ask(Ask { method: Method::POST, path, token: None, cookie, body }).await
    }
}

fn expected(what: &str, answer: Answer) -> Result<Answer, AttestError> {
    if answer.status == 200 {
        return Ok(answer);
    }
    Err(AttestError::Refused { what: what.to_owned(), status: answer.status, reason: answer.reason() })
}

fn protocol(what: &'static str, reason: &dyn std::error::Error) -> AttestError {
    AttestError::Protocol { what, reason: reason.to_string().chars().take(200).collect() }
}
