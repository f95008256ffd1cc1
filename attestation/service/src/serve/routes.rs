//! What guests ask for: paths and methods, and what of a request is read before anybody is asked.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Path, Query, Request, State};
use axum::http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, COOKIE, HeaderValue, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use coffer_attestation::handshake::Attestation;
use coffer_attestation::time::UnixTime;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::answer::{Answer, good, in_json};
use super::body::bounded;
use super::clients::Visit;
use super::identity::Asker;
use super::manage;
use crate::exchange::{Refusal, Verifier};

const SESSION: &str = "kbs-session-id";
/// The longest request for a challenge, in bytes.
const AUTH_BYTES: usize = 16 << 10;
/// How long a guest may wait to hear that it stands otherwise.
const WAIT: u64 = 60;
/// Requests that are worked on at once. Most of the time they wait for the disk; more would only wait for a processor.
const AT_WORK: usize = 64;

/// What the routes share.
pub struct Door {
    pub(super) verifier: Arc<Verifier>,
    at_work: Arc<Semaphore>,
    /// Certificate of the verifier's own authority, in PEM.
    authority: Option<String>,
}

/// Who is at the other end of a connection.
pub(super) struct Peer {
    /// What it may use.
    pub(super) visit: Arc<Visit>,
    /// Whose certificate or token it showed.
    pub(super) operator: Asker,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Version {
    version: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wait {
    /// Seconds.
    #[serde(default)]
    wait: u64,
}

impl Door {
    /// To this verifier.
    pub fn new(verifier: Arc<Verifier>) -> Self {
        Self { verifier, at_work: Arc::new(Semaphore::new(AT_WORK)), authority: None }
    }

    /// Tells everybody which authority signs the verifier's certificates.
    #[must_use]
    pub fn with_authority(self, pem: Option<String>) -> Self {
        Self { authority: pem, ..self }
    }

    pub(super) fn now() -> UnixTime {
        SystemTime::now().into()
    }

    /// Counts a request.
    pub(super) fn admit(&self, peer: &Peer) -> Result<(), super::answer::Refused> {
        peer.visit.ask().map_err(|over| {
            self.verifier.counters().over_limit();
            over.into()
        })
    }

    /// Runs what hashes, signs or waits for a disk where it holds up nobody else.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(&Verifier) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let verifier = self.verifier.clone();
        let turn = self.at_work.clone().acquire_owned().await;
        let asked = tokio::task::spawn_blocking(move || {
            // Given back when the work is done, also when whoever asked is long gone: work that nobody waits for is work.
            let _turn = turn;
            what(&verifier)
        });
        let asked = asked.await;
        asked.unwrap_or(Err(Refusal::Unavailable { reason: "the verifier stopped while it answered" }))
    }
}

/// Every path there is.
pub fn router(door: Arc<Door>) -> Router {
    Router::new()
        .route("/kbs/v0/auth", post(auth))
        .route("/kbs/v0/attest", post(attest))
        .route(
            "/kbs/v0/resource/{*path}",
            get(resource).post(manage::put_secret).delete(manage::delete_secret),
        )
        .route("/coffer/v1/standing", get(standing))
        .route("/.well-known/jwks.json", get(token_keys))
        .route("/.well-known/coffer-authority.pem", get(authority))
        .merge(manage::routes())
        .fallback(nothing)
        .with_state(door)
}

type AtDoor = State<Arc<Door>>;
type From = Extension<Arc<Peer>>;

async fn auth(State(door): AtDoor, Extension(peer): From, request: Request) -> Answer {
    door.admit(&peer)?;
    let (body, _held) = bounded(request, &peer.visit, AUTH_BYTES).await?;
    let challenge = door.verifier.auth(&body, Door::now())?;
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|_| Refusal::Unavailable { reason: "there is no randomness" })?;
    Ok(with_session(in_json(StatusCode::OK, &challenge), &hex::encode(id)))
}

async fn attest(State(door): AtDoor, Extension(peer): From, request: Request) -> Answer {
    door.admit(&peer)?;
    let (body, _held) = bounded(request, &peer.visit, Attestation::MAX_BYTES).await?;
    let from = peer.visit.source();
    let token = door.ask(move |verifier| verifier.attest(&body, from, Door::now())).await?;
    Ok(with_session(in_json(StatusCode::OK, &json!({ "token": token })), &token))
}

async fn resource(
    State(door): AtDoor,
    Extension(peer): From,
    Path(path): Path<String>,
    query: Result<Query<Version>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Answer {
    door.admit(&peer)?;
    let Query(Version { version }) = query.map_err(|error| malformed(&error))?;
    let token = token_of(&headers);
    let asked = door.ask(move |verifier| verifier.resource(&path, version, token.as_deref(), Door::now()));
    good(&asked.await?)
}

/// Answers at once if the guest does not stand well, else when that changes or `wait` seconds have passed.
async fn standing(
    State(door): AtDoor,
    Extension(peer): From,
    query: Result<Query<Wait>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Answer {
    door.admit(&peer)?;
    let Query(Wait { wait }) = query.map_err(|error| malformed(&error))?;
    let until = Instant::now() + Duration::from_secs(wait.min(WAIT));
    let (token, mut changes) = (token_of(&headers), door.verifier.changes());
    let mut waiting = None;
    loop {
        changes.mark_unchanged();
        let token = token.clone();
        let standing = door.ask(move |verifier| verifier.standing(token.as_deref(), Door::now())).await?;
        // Once a second at most, however often something changes, and also when nothing does: tokens expire.
        let pause = Duration::from_secs(1).min(until.saturating_duration_since(Instant::now()));
        if pause.is_zero() {
            return good(&standing);
        }
        let waiting = match &waiting {
            Some(waiting) => waiting,
            // After the first look: a guest that must drop what it has is told so in any case.
            None => waiting.insert(peer.visit.wait_for_change().inspect_err(|_| {
                door.verifier.counters().over_limit();
            })?),
        };
        tokio::select! {
            _ = tokio::time::timeout(pause, changes.changed()) => {}
            () = waiting.told_to_end() => return good(&standing).map(ending),
        }
    }
}

/// The connection ends with this answer: somebody else needs it.
fn ending(mut response: Response) -> Response {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn token_keys(State(door): AtDoor, Extension(peer): From) -> Answer {
    door.admit(&peer)?;
    good(&door.verifier.token_keys())
}

/// Whoever fetches it believes whom it already talks to: it is to be compared with what the verifier's host has.
async fn authority(State(door): AtDoor, Extension(peer): From) -> Answer {
    door.admit(&peer)?;
    let pem = door.authority.clone().ok_or(Refusal::NotFound)?;
    let mut response = Response::new(Body::from(pem));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-pem-file"));
    Ok(response)
}

async fn nothing(State(door): AtDoor, Extension(peer): From) -> Answer {
    door.admit(&peer)?;
    Err(Refusal::NotFound.into())
}

/// A query or path that is not understood.
pub(super) fn malformed(error: &impl std::fmt::Display) -> Refusal {
    Refusal::Malformed { reason: error.to_string().chars().take(200).collect() }
}

/// From the header, or from the cookie; before attestation the cookie holds an id, which is no token.
fn token_of(headers: &HeaderMap) -> Option<String> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = cookies.flat_map(|all| all.split("; ")).filter_map(|pair| pair.split_once('='));
    let mut ours = pairs.filter(|(name, value)| *name == SESSION && value.contains('.'));
    bearer.or_else(|| ours.next().map(|(_, value)| value)).map(str::to_owned)
}

fn with_session(mut response: Response, value: &str) -> Response {
    let cookie = format!("{SESSION}={value}; Path=/kbs; HttpOnly; Secure; SameSite=Strict");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}
