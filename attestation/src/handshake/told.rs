//! What a token tells the guest that it was given to. The guest cannot use it to decide anything, so it is read and not
//! verified; it came over TLS from the verifier itself.

use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::Value;

use super::claims::Ear;
use super::strict::{Limits, read};

const LIMITS: Limits = Limits { bytes: 64 << 10, depth: 24 };
/// The most characters of a reason that are passed on.
const MAX_REASON: usize = 600;

/// Why the verifier does not affirm the guest, in one line: every check that did not pass, with what was expected and found.
/// `None` if it affirms the guest, or says nothing of it.
pub fn refusal_told_by(token: &str) -> Option<String> {
    let claims = Base64UrlUnpadded::decode_vec(token.split('.').nth(1)?).ok()?;
    let ear: Ear = read(&claims, LIMITS).ok()?;
    let processor = ear.processor()?;
    if processor.status == "affirming" {
        return None;
    }
    let told = processor.evidence.get("coffer");
    let reasons = told.and_then(|told| told.get("reasons")).and_then(Value::as_array);
    let lines: Vec<String> = reasons.into_iter().flatten().filter_map(reason).collect();
    let text = format!("the guest is {}: {}", processor.status, lines.join("; "));
    Some(text.chars().filter(|found| !found.is_control()).take(MAX_REASON).collect())
}

fn reason(check: &Value) -> Option<String> {
    let text = |name| check.get(name).and_then(Value::as_str);
    let name = text("name")?;
    // What follows from another check says nothing more to a reader.
    if name == "hardware-verdict" {
        return None;
    }
    let found = text("found").unwrap_or("unknown");
    Some(format!("{name} must be {}, and is {found}", text("expected").unwrap_or("otherwise")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::{Submodule, TokenKey, TrustVector};
    use crate::verdict::Verdict;
    use serde_json::json;

    fn token(status: &str) -> String {
        let check =
            json!({"name": "no-debug", "result": "contraindicated", "expected": "off", "found": "on"});
        let submodule = Submodule {
            status: status.to_owned(),
            vector: TrustVector::new(Verdict::Warning, Verdict::Warning, Verdict::Warning),
            policy: "p".to_owned(),
            evidence: json!({"coffer": {"reasons": [check]}}),
        };
        let key = TokenKey::from_scalar(&[1; 32]).expect("a key");
        key.sign(&Ear::of_processor(&submodule, "id".to_owned(), 0, 300))
    }

    #[test]
    fn a_refusal_is_told_with_what_was_expected_and_found() {
        let told = refusal_told_by(&token("contraindicated")).expect("a reason");
        assert_eq!(told, "the guest is contraindicated: no-debug must be off, and is on");
    }

    #[test]
    fn a_guest_that_is_affirmed_is_told_nothing() {
        assert_eq!(refusal_told_by(&token("affirming")), None);
    }

    #[test]
    fn what_is_no_token_tells_nothing() {
        assert_eq!(refusal_told_by("a.b.c"), None);
        assert_eq!(refusal_told_by(""), None);
    }
}
