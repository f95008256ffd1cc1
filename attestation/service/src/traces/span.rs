//! One request as OpenTelemetry has it (OTLP 1.x, `ExportTraceServiceRequest` in JSON; semantic conventions for HTTP).

use std::time::Duration;

use serde_json::{Value, json};

/// `SPAN_KIND_SERVER`.
const SERVER: u8 = 2;
/// `STATUS_CODE_ERROR`, and that nothing is said.
const ERROR: u8 = 2;
const UNSET: u8 = 0;

/// A request that was answered. Everything in it is of a fixed set, but for ids, times and the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The trace that it is in.
    pub trace: [u8; 16],
    /// Its own id.
    pub id: [u8; 8],
    /// The caller's span.
    pub parent: Option<[u8; 8]>,
    /// A method that is known, or `_OTHER`.
    pub method: &'static str,
    /// The path as the verifier has it, with names in braces where a request has its own.
    pub route: String,
    /// HTTP status.
    pub status: u16,
    /// When it began, since 1970.
    pub start: Duration,
    /// When it was answered, since 1970.
    pub end: Duration,
}

/// What a caller says of its own span: the header `traceparent` (W3C Trace Context, version 00).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// The trace.
    pub trace: [u8; 16],
    /// The caller's span.
    pub id: [u8; 8],
}

impl Parent {
    /// Reads the header; anything but the form of version 00 is passed over.
    pub fn parse(header: &str) -> Option<Self> {
        let parts: Vec<&str> = header.split('-').collect();
        let ["00", trace, id, flags] = parts.as_slice() else { return None };
        let lower = |text: &str| !text.bytes().any(|byte| byte.is_ascii_uppercase());
        if flags.len() != 2 || !lower(header) {
            return None;
        }
        hex::decode(flags).ok()?;
        let trace: [u8; 16] = hex::decode(trace).ok()?.try_into().ok()?;
        let id: [u8; 8] = hex::decode(id).ok()?.try_into().ok()?;
        (trace != [0; 16] && id != [0; 8]).then_some(Self { trace, id })
    }
}

impl Span {
    fn to_otlp(&self) -> Value {
        let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
        let nanoseconds = |time: Duration| time.as_nanos().to_string();
        json!({
            "traceId": hex::encode(self.trace),
            "spanId": hex::encode(self.id),
            "parentSpanId": self.parent.map_or_else(String::new, hex::encode),
            "name": format!("{} {}", self.method, self.route),
            "kind": SERVER,
            "startTimeUnixNano": nanoseconds(self.start),
            "endTimeUnixNano": nanoseconds(self.end),
            "attributes": [
                text("http.request.method", self.method),
                text("http.route", &self.route),
                { "key": "http.response.status_code", "value": { "intValue": self.status.to_string() } },
            ],
            "status": { "code": if self.status >= 500 { ERROR } else { UNSET } },
        })
    }
}

/// What a collector is sent.
pub(super) fn batch(spans: &[Span]) -> Value {
    let resource = json!({ "attributes": [
        { "key": "service.name", "value": { "stringValue": "coffer-verifier" } },
        { "key": "service.version", "value": { "stringValue": env!("CARGO_PKG_VERSION") } },
    ] });
    let spans: Vec<Value> = spans.iter().map(Span::to_otlp).collect();
    json!({ "resourceSpans": [{
        "resource": resource,
        "scopeSpans": [{ "scope": { "name": "coffer-verifier" }, "spans": spans }],
    }] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_trace_is_taken_over_and_anything_else_passed_over() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let parent = Parent::parse(good).expect("a parent");
        assert_eq!(hex::encode(parent.trace), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(hex::encode(parent.id), "b7ad6b7169203331");
        let zero = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
        let upper = good.replace("0af7", "0AF7");
        for wrong in
            ["", "00", &good[..54], &format!("{good}-x"), &zero, &upper, &good.replacen("00", "ff", 1)]
        {
            assert_eq!(Parent::parse(wrong), None, "{wrong}");
        }
    }
}
