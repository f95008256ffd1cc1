//! Answers, as they are written.

use serde_json::json;
use zeroize::Zeroizing;

use super::request::Wrong;
use crate::attest::Denial;

/// The longest reason that is passed on, in characters.
const MAX_REASON: usize = 300;

/// An answer. What it holds is wiped when it is dropped.
pub(super) struct Answer {
    status: u16,
    kind: &'static str,
    body: Zeroizing<Vec<u8>>,
}

impl Answer {
    /// A secret.
    pub(super) fn secret(body: Zeroizing<Vec<u8>>) -> Self {
        Self { status: 200, kind: "application/octet-stream", body }
    }

    /// Something in JSON.
    pub(super) fn json(body: Zeroizing<Vec<u8>>) -> Self {
        Self { status: 200, kind: "application/json", body }
    }

    /// No, because of something here.
    pub(super) fn no(status: u16, reason: &str) -> Self {
        let reason: String = reason.chars().filter(|char| !char.is_control()).take(MAX_REASON).collect();
        let body = json!({ "status": status, "reason": reason }).to_string().into_bytes();
        Self { status, kind: "application/json", body: Zeroizing::new(body) }
    }

    /// Too often.
    pub(super) fn busy() -> Self {
        Self::no(429, "too many requests: wait a second")
    }

    /// The status and headers.
    pub(super) fn head(&self) -> String {
        let (status, kind, length) = (self.status, self.kind, self.body.len());
        let words = match status {
            200 => "OK",
            400 => "Bad Request",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            410 => "Gone",
            429 => "Too Many Requests",
            431 => "Request Header Fields Too Large",
            _ => "Service Unavailable",
        };
        let again = if matches!(status, 429 | 503) { "Retry-After: 1\r\n" } else { "" };
        format!(
            "HTTP/1.1 {status} {words}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{again}\
             Cache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
    }

    /// What follows.
    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }
}

impl From<Denial> for Answer {
    fn from(denial: Denial) -> Self {
        match denial {
            Denial::TakenBack => Self::no(410, "the secret was taken back"),
            Denial::Refused(reason) => Self::no(403, &format!("the verifier refuses it: {reason}")),
            Denial::Unknown => Self::no(404, "the verifier has no such secret"),
            Denial::Busy => Self::busy(),
            Denial::Away(reason) => Self::no(503, &reason),
        }
    }
}

impl From<Wrong> for Answer {
    fn from(wrong: Wrong) -> Self {
        match wrong {
            Wrong::Form(reason) => Self::no(400, reason),
            Wrong::Method => Self::no(405, "only GET is understood"),
            Wrong::Path => Self::no(404, "nothing is offered under this path"),
            Wrong::Long => Self::no(431, "the request is too long"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_in_one_line_of_bounded_length() {
        let answer = Answer::from(Denial::Refused(format!("one\r\n{}", "x".repeat(400))));
        let body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
        let reason = body["reason"].as_str().unwrap();
        assert!(answer.head().starts_with("HTTP/1.1 403 Forbidden\r\n"));
        assert!(reason.contains("refuses it: onexxx") && reason.len() == MAX_REASON);
    }

    #[test]
    fn a_secret_is_given_as_it_is_and_kept_by_nobody_on_the_way() {
        let answer = Answer::secret(Zeroizing::new(b"\0\xff".to_vec()));
        let head = answer.head();
        assert!(
            head.contains("Content-Length: 2\r\n") && head.contains("no-store") && head.ends_with("\r\n\r\n")
        );
        assert_eq!(answer.body(), b"\0\xff");
    }

    #[test]
    fn silence_of_the_verifier_is_worth_another_try_and_a_refusal_is_not() {
        let head = |denial| Answer::from(denial).head();
        assert!(head(Denial::Away("down".to_owned())).starts_with("HTTP/1.1 503"));
        assert!(head(Denial::Away("down".to_owned())).contains("Retry-After"));
        assert!(
            head(Denial::TakenBack).starts_with("HTTP/1.1 410") && !head(Denial::TakenBack).contains("Retry")
        );
    }
}
