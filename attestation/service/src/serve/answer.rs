//! Answers: JSON, and a status for each refusal.

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::turns::OverLimit;
use crate::exchange::{Refusal, Told};

pub(super) type Answer = Result<Response, Refused>;

/// A refusal, or more than a client's share.
pub(super) enum Refused {
    Says(Refusal),
    OverLimit(OverLimit),
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Refused::Says(refusal)
    }
}

impl From<OverLimit> for Refused {
    fn from(over: OverLimit) -> Self {
        Refused::OverLimit(over)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Refused::Says(refusal) => {
                let status = StatusCode::from_u16(refusal.status());
                in_json(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &refusal.told())
            }
            Refused::OverLimit(over) => {
                let (status, detail) = match over {
                    OverLimit::Client => {
                        (StatusCode::TOO_MANY_REQUESTS, "too many requests: try again in a second")
                    }
                    OverLimit::All => {
                        (StatusCode::SERVICE_UNAVAILABLE, "too much is coming in: try again in a second")
                    }
                };
                let mut response = in_json(status, &Told::new("TooManyRequests", detail));
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
                response
            }
        }
    }
}

/// Members are written in the order of their type, as they are in recorded exchanges.
pub(super) fn in_json(status: StatusCode, value: &impl Serialize) -> Response {
    // Plain data: all of it has a JSON form.
    let mut response = Response::new(Body::from(serde_json::to_string(value).unwrap_or_default()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// What went well.
pub(super) fn good(value: &impl Serialize) -> Answer {
    Ok(in_json(StatusCode::OK, value))
}
