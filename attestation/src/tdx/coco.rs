//! Evidence as Confidential Containers' guest components send it.
//!
//! ```json
//! {"quote": "base64", "cc_eventlog": "base64" | null}
//! ```
//! A log may be as long as the memory that the CCEL table reserves; what is behind its end mark is filler.

use base64ct::{Base64, Encoding};
use serde::Deserialize;

use super::event_log::MAX_LOG_BYTES;
use super::quote::MAX_QUOTE_BYTES;

/// The longest evidence that is read, in bytes of JSON: quote and log in base64, and a little more.
pub const MAX_JSON_BYTES: usize = (MAX_QUOTE_BYTES + MAX_LOG_BYTES) / 3 * 4 + 4096;

/// Quote and event log, as they were sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The quote.
    pub quote: Vec<u8>,
    /// The event log, if there is one.
    pub event_log: Option<Vec<u8>>,
}

/// Why JSON is no evidence of this form.
#[derive(Debug, thiserror::Error)]
pub enum CocoError {
    /// Longer than anything real.
    #[error("evidence may have {MAX_JSON_BYTES} bytes of JSON, this has {found}")]
    TooLong {
        /// Length found.
        found: usize,
    },
    /// Not JSON, or not of this form.
    #[error("this is no TDX evidence in JSON")]
    Json(#[source] serde_json::Error),
    /// A field that is not base64 with padding.
    #[error("{field} is not base64 (RFC 4648, section 4, with padding)")]
    Base64 {
        /// The field.
        field: &'static str,
    },
}

#[derive(Deserialize)]
struct Wire {
    quote: String,
    cc_eventlog: Option<String>,
}

/// Reads evidence.
///
/// # Errors
/// [`CocoError`]
pub fn parse(json: &[u8]) -> Result<Sent, CocoError> {
    if json.len() > MAX_JSON_BYTES {
        return Err(CocoError::TooLong { found: json.len() });
    }
    let wire: Wire = serde_json::from_slice(json).map_err(CocoError::Json)?;
    let event_log = wire.cc_eventlog.map(|log| decoded("cc_eventlog", &log)).transpose()?;
    Ok(Sent { quote: decoded("quote", &wire.quote)?, event_log })
}

fn decoded(field: &'static str, text: &str) -> Result<Vec<u8>, CocoError> {
    Base64::decode_vec(text).map_err(|_| CocoError::Base64 { field })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quote_and_log_are_read() {
        let sent = parse(br#"{"quote":"AQID","cc_eventlog":"BAU="}"#).expect("evidence");
        assert_eq!(sent, Sent { quote: vec![1, 2, 3], event_log: Some(vec![4, 5]) });
    }

    #[test]
    fn a_log_may_be_missing() {
        let sent = parse(br#"{"quote":"AQID","cc_eventlog":null}"#).expect("evidence");
        assert_eq!(sent.event_log, None);
    }

    #[test]
    fn base64_for_addresses_is_refused() {
        let refused = parse(br#"{"quote":"_-__"}"#);
        assert!(matches!(refused, Err(CocoError::Base64 { field: "quote" })), "{refused:?}");
    }

    #[test]
    fn evidence_without_a_quote_is_refused() {
        assert!(matches!(parse(br#"{"cc_eventlog":null}"#), Err(CocoError::Json(_))));
    }
}
