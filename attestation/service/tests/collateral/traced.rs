//! What a collector of traces is sent, decoded as the protocol has it.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::get;
use coffer_verifier::collateral::Https;
use coffer_verifier::serve::traced;
use coffer_verifier::traces::Traces;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;

use crate::cases::LONG;
use crate::played::Played;

/// `ExportTraceServiceRequest`: a field that is not in the protocol is an error.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Export {
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ResourceSpans {
    resource: Resource,
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resource {
    attributes: Vec<Attribute>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScopeSpans {
    scope: Scope,
    spans: Vec<Span>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scope {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Span {
    trace_id: String,
    span_id: String,
    parent_span_id: String,
    name: String,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    attributes: Vec<Attribute>,
    status: Status,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Status {
    code: u8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attribute {
    key: String,
    value: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
enum Value {
    StringValue(String),
    /// 64 bits are a text in JSON.
    IntValue(String),
}

/// One span of the whole message, and who sent it.
fn decoded(body: &[u8]) -> (Span, String) {
    let mut export: Export = serde_json::from_slice(body).expect("the protocol's JSON");
    let mut of_one = export.resource_spans.remove(0);
    let service = of_one.resource.attributes.remove(0);
    assert_eq!(
        (service.key.as_str(), of_one.scope_spans[0].scope.name.as_str()),
        ("service.name", "coffer-verifier")
    );
    let Value::StringValue(name) = service.value else { panic!("a name is a text") };
    (of_one.scope_spans.remove(0).spans.remove(0), name)
}

/// Answers one request, and sends what was measured.
async fn measured(played: &Played, path: &str, status: u16) {
    played.answer("/v1/traces", b"{}");
    let https = Https::new(&played.authority(), LONG).expect("TLS");
    let collector = played.origin().parse().expect("a service");
    let traces = Traces::start(https, collector, 1).expect("a thread");
    let status = StatusCode::from_u16(status).expect("a status");
    let router = Router::new().route("/secret/{*path}", get(move || async move { status }));
    let router = traced(router, Arc::new(traces));
    let request = Request::get(path)
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .header("authorization", "Bearer hunter2")
        .body(Body::from("hunter2"))
        .expect("a request");
    // Dropped with its queue, which it sends before.
    let answer = TowerToHyperService::new(router).call(request).await.expect("an answer");
    assert_eq!(answer.status(), if path.starts_with("/secret") { status } else { StatusCode::NOT_FOUND });
}

fn attributes(span: &Span) -> Vec<(&str, &str)> {
    let each = span.attributes.iter().map(|attribute| {
        let (Value::StringValue(value) | Value::IntValue(value)) = &attribute.value;
        (attribute.key.as_str(), value.as_str())
    });
    each.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_gets_the_route_the_status_and_the_callers_trace_and_nothing_of_the_request() {
    let played = Played::start();
    measured(&played, "/secret/acme/key/1?version=2", 200).await;
    let told = played.told();
    let (span, service) = decoded(&told[0]);
    assert_eq!(
        (service.as_str(), span.name.as_str(), span.kind),
        ("coffer-verifier", "GET /secret/{*path}", 2)
    );
    assert_eq!(span.trace_id, "0af7651916cd43dd8448eb211c80319c");
    assert_eq!((span.parent_span_id.as_str(), span.span_id.len()), ("b7ad6b7169203331", 16));
    let expected = [
        ("http.request.method", "GET"),
        ("http.route", "/secret/{*path}"),
        ("http.response.status_code", "200"),
    ];
    assert_eq!((attributes(&span), span.status.code), (expected.to_vec(), 0));
    let nanoseconds = |text: &str| text.parse::<u128>().expect("a number");
    assert!(nanoseconds(&span.start_time_unix_nano) <= nanoseconds(&span.end_time_unix_nano));
    let text = String::from_utf8_lossy(&told[0]).into_owned();
    assert!(!text.contains("acme") && !text.contains("hunter2"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_the_verifiers_own_is_one_and_a_path_that_is_nowhere_has_no_route() {
    let played = Played::start();
    measured(&played, "/secret/acme/key/1", 503).await;
    measured(&played, "/acme/elsewhere", 404).await;
    let told = played.told();
    let spans = [decoded(&told[0]).0, decoded(&told[1]).0];
    assert_eq!(
        spans.map(|span| (span.status.code, span.name)),
        [(2, "GET /secret/{*path}".to_owned()), (0, "GET other".to_owned()),]
    );
}
