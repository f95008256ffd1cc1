//! What operators ask for, below `/coffer/v1/`, and secrets where guests find them.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, Request, State};
use axum::response::Response;
use axum::routing::{get, post, put};
use coffer_attestation::time::UnixTime;
use serde::Deserialize;
use serde_json::json;

use super::answer::{Answer, Refused, good};
use super::body::bounded;
use super::routes::{Door, Peer, malformed};
use crate::exchange::{By, Refusal, Verifier, Wanted};
use crate::secrets::{MAX_SECRET_BYTES, Revocation};

/// The longest policy or reference, in bytes.
const MAX_TEXT: usize = 256 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToRevoke {
    kind: Revocation,
    name: String,
}

type AtDoor = State<Arc<Door>>;
type From = Extension<Arc<Peer>>;
type Asked<T> = Result<Query<T>, QueryRejection>;

/// Every path of operators.
pub(super) fn routes() -> Router<Arc<Door>> {
    Router::new()
        .route("/coffer/v1/secrets/{tenant}", get(list_secrets))
        .route("/coffer/v1/references", get(list_references).put(put_reference))
        .route("/coffer/v1/references/{name}", axum::routing::delete(delete_reference))
        .route("/coffer/v1/policies/{purpose}/{name}", put(put_policy).get(get_policy).delete(delete_policy))
        .route("/coffer/v1/policies/{purpose}/{name}/test", post(test_policy))
        .route("/coffer/v1/revocations", get(list_revoked).post(revoke))
        .route("/coffer/v1/audit", get(query_audit))
        .route("/coffer/v1/audit/checkpoint", get(checkpoint))
        .route("/coffer/v1/audit/{number}/proof", get(prove))
        .route("/metrics", get(metrics))
}

/// Asks the verifier in the operator's name.
async fn ask<T: Send + 'static>(
    door: &Door,
    peer: &Arc<Peer>,
    what: impl FnOnce(&Verifier, By<'_>) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refused> {
    let asking = peer.clone();
    let asked =
        door.ask(move |verifier| what(verifier, By { who: asking.operator.known(), at: Door::now() }));
    asked.await.map_err(|refusal| peer.operator.explain(refusal).into())
}

/// A body in UTF-8, from an operator: who is none sends nothing that is read.
async fn text(request: Request, peer: &Peer, limit: usize) -> Result<String, Refused> {
    if peer.operator.known().is_none() {
        return Ok(String::new());
    }
    let (body, _held) = bounded(request, &peer.visit, limit).await?;
    Ok(String::from_utf8(body).map_err(|error| malformed(&error))?)
}

/// `expires=2027-01-01T00:00:00Z`
pub(super) async fn put_secret(
    State(door): AtDoor,
    Extension(peer): From,
    Path(path): Path<String>,
    query: Asked<HashMap<String, String>>,
    request: Request,
) -> Answer {
    door.admit(&peer)?;
    let Query(query) = query.map_err(|error| malformed(&error))?;
    let expiry = match only(&query, "expires")? {
        Some(text) => Some(text.parse::<UnixTime>().map_err(|error| malformed(&error))?),
        None => None,
    };
    let (body, _held) = match peer.operator.known() {
        Some(_) => bounded(request, &peer.visit, MAX_SECRET_BYTES).await?,
        None => (Vec::new(), peer.visit.hold()),
    };
    let body = zeroize::Zeroizing::new(body);
    let version =
        ask(&door, &peer, move |verifier, by| verifier.put_secret(by, &path, &body, expiry)).await?;
    good(&json!({ "version": version }))
}

pub(super) async fn delete_secret(
    State(door): AtDoor,
    Extension(peer): From,
    Path(path): Path<String>,
) -> Answer {
    door.admit(&peer)?;
    let versions = ask(&door, &peer, move |verifier, by| verifier.delete_secret(by, &path)).await?;
    good(&json!({ "versions": versions }))
}

async fn list_secrets(State(door): AtDoor, Extension(peer): From, Path(tenant): Path<String>) -> Answer {
    door.admit(&peer)?;
    good(&ask(&door, &peer, move |verifier, by| verifier.list_secrets(by, &tenant)).await?)
}

async fn list_references(State(door): AtDoor, Extension(peer): From) -> Answer {
    door.admit(&peer)?;
    good(&ask(&door, &peer, |verifier, by| verifier.list_references(by)).await?)
}

/// `expected=3`: only if that is the newest version.
async fn put_reference(
    State(door): AtDoor,
    Extension(peer): From,
    query: Asked<HashMap<String, String>>,
    request: Request,
) -> Answer {
    let (text, expected) = document(&door, &peer, query, request).await?;
    let version = ask(&door, &peer, move |verifier, by| verifier.put_reference(by, &text, expected)).await?;
    good(&json!({ "version": version }))
}

async fn delete_reference(State(door): AtDoor, Extension(peer): From, Path(name): Path<String>) -> Answer {
    door.admit(&peer)?;
    ask(&door, &peer, move |verifier, by| verifier.delete_reference(by, &name)).await?;
    good(&json!({}))
}

type Place = Path<(String, String)>;

async fn put_policy(
    State(door): AtDoor,
    Extension(peer): From,
    Path((purpose, name)): Place,
    query: Asked<HashMap<String, String>>,
    request: Request,
) -> Answer {
    let (text, expected) = document(&door, &peer, query, request).await?;
    let put =
        move |verifier: &Verifier, by: By<'_>| verifier.put_policy(by, (&purpose, &name), &text, expected);
    good(&json!({ "version": ask(&door, &peer, put).await? }))
}

async fn get_policy(State(door): AtDoor, Extension(peer): From, Path((purpose, name)): Place) -> Answer {
    door.admit(&peer)?;
    good(&ask(&door, &peer, move |verifier, by| verifier.policy_versions(by, (&purpose, &name))).await?)
}

async fn delete_policy(State(door): AtDoor, Extension(peer): From, Path((purpose, name)): Place) -> Answer {
    door.admit(&peer)?;
    ask(&door, &peer, move |verifier, by| verifier.delete_policy(by, (&purpose, &name))).await?;
    good(&json!({}))
}

async fn test_policy(
    State(door): AtDoor,
    Extension(peer): From,
    Path((purpose, name)): Place,
    request: Request,
) -> Answer {
    door.admit(&peer)?;
    let text = text(request, &peer, MAX_TEXT).await?;
    good(&ask(&door, &peer, move |verifier, by| verifier.test_policy(by, (&purpose, &name), &text)).await?)
}

async fn revoke(State(door): AtDoor, Extension(peer): From, request: Request) -> Answer {
    door.admit(&peer)?;
    let text = text(request, &peer, MAX_TEXT).await?;
    if peer.operator.known().is_none() {
        // Refused by the directory, which writes it down.
        return good(&ask(&door, &peer, |verifier, by| verifier.list_revoked(by)).await?);
    }
    let ToRevoke { kind, name } = serde_json::from_str(&text).map_err(|error| malformed(&error))?;
    ask(&door, &peer, move |verifier, by| verifier.revoke(by, kind, &name)).await?;
    good(&json!({}))
}

async fn list_revoked(State(door): AtDoor, Extension(peer): From) -> Answer {
    door.admit(&peer)?;
    good(&ask(&door, &peer, |verifier, by| verifier.list_revoked(by)).await?)
}

async fn query_audit(State(door): AtDoor, Extension(peer): From, query: Asked<Wanted>) -> Answer {
    door.admit(&peer)?;
    let Query(wanted) = query.map_err(|error| malformed(&error))?;
    good(&ask(&door, &peer, move |verifier, by| verifier.query_audit(by, &wanted)).await?)
}

async fn checkpoint(State(door): AtDoor, Extension(peer): From) -> Answer {
    door.admit(&peer)?;
    good(&ask(&door, &peer, |verifier, by| verifier.audit_checkpoint(by)).await?)
}

async fn prove(State(door): AtDoor, Extension(peer): From, Path(number): Path<String>) -> Answer {
    door.admit(&peer)?;
    let number = number.parse::<u64>().map_err(|error| malformed(&error))?;
    good(&ask(&door, &peer, move |verifier, by| verifier.prove_audit(by, number)).await?)
}

async fn metrics(State(door): AtDoor, Extension(peer): From) -> Answer {
    door.admit(&peer)?;
    let text: String = ask(&door, &peer, |verifier, by| verifier.metrics(by)).await?;
    Ok(Response::new(Body::from(text)))
}

/// What is to be put in force, and the version that must be the newest until then.
async fn document(
    door: &Door,
    peer: &Peer,
    query: Asked<HashMap<String, String>>,
    request: Request,
) -> Result<(String, Option<u64>), Refused> {
    door.admit(peer)?;
    let expected = expected(query)?;
    Ok((text(request, peer, MAX_TEXT).await?, expected))
}

fn expected(query: Asked<HashMap<String, String>>) -> Result<Option<u64>, Refused> {
    let Query(query) = query.map_err(|error| malformed(&error))?;
    let expected = only(&query, "expected")?.map(|text| text.parse::<u64>());
    Ok(expected.transpose().map_err(|error| malformed(&error))?)
}

/// The one parameter that a path knows; any other is refused.
fn only<'a>(query: &'a HashMap<String, String>, name: &str) -> Result<Option<&'a String>, Refused> {
    match query.keys().find(|key| *key != name) {
        Some(other) => Err(malformed(&format!("parameter {other:?} is not known here")).into()),
        None => Ok(query.get(name)),
    }
}
