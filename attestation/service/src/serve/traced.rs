//! Measures each request, for those who collect traces.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use serde::Deserialize;

use super::sources::SourcesError;
use crate::collateral::{Https, Origin};
use crate::traces::{Parent, Span, Traces};

/// How long a collector may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The table `[traces]` of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Collector {
    /// `https://HOST:PORT`; spans go to `/v1/traces` there.
    collector: String,
    /// Who may have signed its TLS certificate.
    authorities: PathBuf,
    /// One in so many requests.
    #[serde(default = "every")]
    one_in: u64,
}

fn every() -> u64 {
    1
}

impl Collector {
    /// Begins to send.
    ///
    /// # Errors
    /// [`SourcesError`]
    pub fn start(&self) -> Result<Arc<Traces>, SourcesError> {
        let collector: Origin = self.collector.parse()?;
        let https = Https::new(&self.authorities, TIMEOUT)?;
        let traces = Traces::start(https, collector, self.one_in).map_err(SourcesError::Thread)?;
        Ok(Arc::new(traces))
    }
}

/// Measures every request that `router` answers.
pub fn traced(router: Router, traces: Arc<Traces>) -> Router {
    router.layer(from_fn_with_state(traces, watch))
}

async fn watch(State(traces): State<Arc<Traces>>, request: Request, next: Next) -> Response {
    if !traces.is_wanted() {
        return next.run(request).await;
    }
    let header = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
    let parent = header.and_then(Parent::parse);
    let method = known(request.method());
    // Never the path itself: it holds names of tenants and secrets.
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or_else(|| "other".to_owned(), |route| route.as_str().to_owned());
    let (begun, start) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    let response = next.run(request).await;
    let (mut trace, mut id) = ([0; 16], [0; 8]);
    if getrandom::fill(&mut trace).and_then(|()| getrandom::fill(&mut id)).is_ok() {
        traces.record(Span {
            trace: parent.map_or(trace, |parent| parent.trace),
            id,
            parent: parent.map(|parent| parent.id),
            method,
            route,
            status: response.status().as_u16(),
            start,
            end: start + begun.elapsed(),
        });
    }
    response
}

fn known(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "HEAD" => "HEAD",
        _ => "_OTHER",
    }
}
