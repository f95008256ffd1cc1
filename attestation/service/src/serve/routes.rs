//! Paths and methods, and what of a request is read before anybody is asked.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, RETRY_AFTER, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use coffer_attestation::handshake::Attestation;
use coffer_attestation::time::UnixTime;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::exchange::{Refusal, Verifier};
use crate::secrets::MAX_SECRET_BYTES;

const SESSION: &str = "kbs-session-id";
/// How long a body may take.
const BODY_TIME: Duration = Duration::from_secs(20);
/// The longest request for a challenge, in bytes.
const AUTH_BYTES: usize = 16 << 10;

/// What may come in.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Requests in one second, of all clients together.
    pub requests_per_second: u32,
}

/// What the routes share.
pub struct Door {
    verifier: Arc<Verifier>,
    /// SHA-256 of the administrator's token.
    admin: Option<[u8; 32]>,
    limits: Limits,
    /// The running second, and requests in it.
    rate: Mutex<(UnixTime, u32)>,
}

type Answer = Result<Response, Refused>;

/// A refusal, or too many requests.
enum Refused {
    Says(Refusal),
    TooMany,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 256, requests_per_second: 2000 }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Refused::Says(refusal)
    }
}

impl axum::response::IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Refused::Says(refusal) => {
                let status = StatusCode::from_u16(refusal.status());
                in_json(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &refusal.to_json())
            }
            Refused::TooMany => {
                let body = json!({
                    "type": "https://coffer.example/errors/TooManyRequests",
                    "detail": "too many requests: try again in a second",
                });
                let mut response = in_json(StatusCode::TOO_MANY_REQUESTS, &body);
                response.headers_mut().insert(RETRY_AFTER, axum::http::HeaderValue::from_static("1"));
                response
            }
        }
    }
}

impl Door {
    /// `admin`: SHA-256 of the administrator's token; without it secrets cannot be put or deleted.
    pub fn new(verifier: Arc<Verifier>, admin: Option<[u8; 32]>, limits: Limits) -> Self {
        Self { verifier, admin, limits, rate: Mutex::new((UnixTime(0), 0)) }
    }

    fn now() -> UnixTime {
        SystemTime::now().into()
    }

    /// Counts a request.
    fn admit(&self, now: UnixTime) -> Result<(), Refused> {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let (second, count) = *rate;
        let count = if second == now { count.saturating_add(1) } else { 1 };
        *rate = (now, count);
        if count > self.limits.requests_per_second { Err(Refused::TooMany) } else { Ok(()) }
    }

    /// Whether the request is the administrator's.
    fn check_admin(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let denied = || Refusal::Unauthenticated { reason: "the administrator's token is needed".to_owned() };
        let digest: [u8; 32] = Sha256::digest(bearer(headers).ok_or_else(denied)?).into();
        // Digests are compared: how long that takes says nothing about the token.
        if self.admin == Some(digest) { Ok(()) } else { Err(denied()) }
    }

    /// Runs what hashes, signs or waits for a disk where it holds up nobody else.
    async fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(&Verifier) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let verifier = self.verifier.clone();
        let asked = tokio::task::spawn_blocking(move || what(&verifier)).await;
        asked.unwrap_or(Err(Refusal::Unavailable { reason: "the verifier stopped while it answered" }))
    }
}

/// Every path there is.
pub fn router(door: Arc<Door>) -> Router {
    Router::new()
        .route("/kbs/v0/auth", post(auth))
        .route("/kbs/v0/attest", post(attest))
        .route("/kbs/v0/resource/{*path}", get(resource).post(put_resource).delete(delete_resource))
        .route("/.well-known/jwks.json", get(token_keys))
        .fallback(nothing)
        .with_state(door)
}

async fn auth(State(door): State<Arc<Door>>, request: Request) -> Answer {
    let now = Door::now();
    door.admit(now)?;
    let body = bounded(request, AUTH_BYTES).await?;
    let challenge = door.verifier.auth(&body, now)?;
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|_| Refusal::Unavailable { reason: "there is no randomness" })?;
    Ok(with_session(in_json(StatusCode::OK, &challenge.to_json()), &hex::encode(id)))
}

async fn attest(State(door): State<Arc<Door>>, request: Request) -> Answer {
    let now = Door::now();
    door.admit(now)?;
    let body = bounded(request, Attestation::MAX_BYTES).await?;
    let token = door.ask(move |verifier| verifier.attest(&body, now)).await?;
    Ok(with_session(in_json(StatusCode::OK, &json!({ "token": token })), &token))
}

async fn resource(State(door): State<Arc<Door>>, Path(path): Path<String>, headers: HeaderMap) -> Answer {
    let now = Door::now();
    door.admit(now)?;
    let token = bearer(&headers).or_else(|| session(&headers)).map(str::to_owned);
    let sealed = door.ask(move |verifier| verifier.resource(&path, token.as_deref(), now)).await?;
    Ok(in_json(StatusCode::OK, &json!(sealed)))
}

async fn put_resource(State(door): State<Arc<Door>>, Path(path): Path<String>, request: Request) -> Answer {
    let now = Door::now();
    door.admit(now)?;
    door.check_admin(request.headers())?;
    let body = bounded(request, MAX_SECRET_BYTES).await?;
    let version = door.ask(move |verifier| verifier.put_resource(&path, &body, now)).await?;
    Ok(in_json(StatusCode::OK, &json!({ "version": version })))
}

async fn delete_resource(
    State(door): State<Arc<Door>>,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Answer {
    let now = Door::now();
    door.admit(now)?;
    door.check_admin(&headers)?;
    let versions = door.ask(move |verifier| verifier.delete_resource(&path, now)).await?;
    Ok(in_json(StatusCode::OK, &json!({ "versions": versions })))
}

async fn token_keys(State(door): State<Arc<Door>>) -> Answer {
    door.admit(Door::now())?;
    Ok(in_json(StatusCode::OK, &door.verifier.token_keys()))
}

async fn nothing(State(door): State<Arc<Door>>) -> Answer {
    door.admit(Door::now())?;
    Err(Refusal::NotFound.into())
}

/// Reads a body of at most `limit` bytes; one that says that it is longer is not read at all.
async fn bounded(request: Request, limit: usize) -> Result<Bytes, Refusal> {
    let large = || Refusal::TooLarge { reason: format!("a request to this path may have {limit} bytes") };
    let said = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if said.and_then(|text| text.parse::<usize>().ok()).is_some_and(|said| said > limit) {
        return Err(large());
    }
    match tokio::time::timeout(BODY_TIME, axum::body::to_bytes(request.into_body(), limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(large()),
        Err(_) => Err(Refusal::Malformed { reason: "the body did not arrive in time".to_owned() }),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// The token in the cookie; before attestation the cookie holds an id, which is no token.
fn session(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = cookies.flat_map(|all| all.split("; ")).filter_map(|pair| pair.split_once('='));
    let mut ours = pairs.filter(|(name, value)| *name == SESSION && value.contains('.'));
    ours.next().map(|(_, value)| value)
}

fn with_session(mut response: Response, value: &str) -> Response {
    let cookie = format!("{SESSION}={value}; Path=/kbs; HttpOnly; Secure; SameSite=Strict");
    if let Ok(cookie) = axum::http::HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

fn in_json(status: StatusCode, value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    let json = axum::http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
