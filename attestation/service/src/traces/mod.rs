//! How long requests took, told to a collector by OpenTelemetry's protocol (OTLP over HTTPS, in JSON). Off unless configured.
//!
//! ```text
//! request ── Span: method, route, status, times, and the trace that the caller names ── queue ── a batch each few seconds
//! ```
//! A collector that is away or slow costs spans, and never a request.
//!
//! Never here: names of secrets, tenants or operators, addresses, headers, bodies.

mod export;
mod span;

pub use export::Traces;
pub use span::{Parent, Span};
