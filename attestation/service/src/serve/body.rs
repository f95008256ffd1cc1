//! Bodies: never longer than their path allows, never slower than they may be, and never more of them than there is room for.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;

use super::answer::Refused;
use super::clients::{Held, Visit};
use crate::exchange::Refusal;

/// How long a body may take.
const BODY_TIME: Duration = Duration::from_secs(20);

/// Reads a body of at most `limit` bytes, and what it counts as until it is dropped; one that says that it is longer is not read at all. What is held counts as the
/// client's as it arrives, so that a body which only announces itself holds nothing.
pub(super) async fn bounded(
    request: Request,
    visit: &Visit,
    limit: usize,
) -> Result<(Vec<u8>, Held<'_>), Refused> {
    let said = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if said.and_then(|text| text.parse::<usize>().ok()).is_some_and(|said| said > limit) {
        return Err(too_large(limit));
    }
    let _waiting = visit.wait();
    let read = read(request.into_body(), visit, limit);
    match tokio::time::timeout(BODY_TIME, read).await {
        Ok(read) => read,
        Err(_) => Err(Refusal::Malformed { reason: "the body did not arrive in time".to_owned() }.into()),
    }
}

async fn read(mut body: Body, visit: &Visit, limit: usize) -> Result<(Vec<u8>, Held<'_>), Refused> {
    let (mut bytes, mut held) = (Vec::new(), visit.hold());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::Malformed { reason: "the body broke off".to_owned() })?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(too_large(limit));
        }
        held.grow(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok((bytes, held))
}

fn too_large(limit: usize) -> Refused {
    Refusal::TooLarge { reason: format!("a request to this path may have {limit} bytes") }.into()
}
