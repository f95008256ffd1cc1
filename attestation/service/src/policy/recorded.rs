//! What policies were asked lately, to ask another policy the same.

use std::collections::VecDeque;

use serde::Serialize;
use serde_json::Value;

use super::rules::{PolicyError, Purpose, Rules};

/// How many questions are kept.
const QUESTIONS: usize = 256;
/// The longest question that is kept, in bytes of JSON.
const MAX_BYTES: usize = 32 << 10;

/// The newest questions: 8 MiB at most.
#[derive(Default)]
pub struct Recorded {
    questions: VecDeque<Question>,
}

struct Question {
    purpose: Purpose,
    tenant: Option<String>,
    /// JSON, which takes less room than what it says.
    input: String,
    allowed: bool,
}

/// What another policy would have said.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Replayed {
    /// The question.
    pub input: Value,
    /// What was decided, by the policies of then.
    pub was_allowed: bool,
    /// What it would be.
    pub would_be_allowed: bool,
    /// Why there is no answer, if there is none.
    pub error: Option<String>,
}

impl Recorded {
    /// Keeps a question and forgets the oldest.
    pub fn keep(&mut self, purpose: Purpose, tenant: Option<&str>, input: &Value, allowed: bool) {
        let input = input.to_string();
        if input.len() > MAX_BYTES {
            return;
        }
        if self.questions.len() >= QUESTIONS {
            self.questions.pop_front();
        }
        self.questions.push_back(Question { purpose, tenant: tenant.map(str::to_owned), input, allowed });
    }

    /// Asks `rules` every question of `purpose` that is kept; for one tenant only its own.
    pub fn replay(&self, purpose: Purpose, tenant: Option<&str>, rules: &Rules) -> Vec<Replayed> {
        let asked = |question: &&Question| {
            question.purpose == purpose && (tenant.is_none() || question.tenant.as_deref() == tenant)
        };
        self.questions.iter().filter(asked).map(|question| question.ask(rules)).collect()
    }
}

impl Question {
    fn ask(&self, rules: &Rules) -> Replayed {
        let input = serde_json::from_str(&self.input).unwrap_or(Value::Null);
        let said = rules.allows(&input);
        Replayed {
            was_allowed: self.allowed,
            would_be_allowed: said == Ok(true),
            error: said.err().map(|error: PolicyError| error.to_string()),
            input,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules() -> Rules {
        let text = "package coffer.release\nallow if input.n == 1";
        Rules::compile(Purpose::Release, text).expect("a policy")
    }

    #[test]
    fn questions_are_asked_again_of_their_purpose_and_tenant() {
        let mut recorded = Recorded::default();
        recorded.keep(Purpose::Release, Some("acme"), &json!({"n": 1}), false);
        recorded.keep(Purpose::Release, Some("umbrella"), &json!({"n": 1}), true);
        recorded.keep(Purpose::Appraisal, None, &json!({"n": 1}), true);
        let replayed = recorded.replay(Purpose::Release, Some("acme"), &rules());
        assert_eq!(replayed.len(), 1);
        assert_eq!((replayed[0].was_allowed, replayed[0].would_be_allowed), (false, true));
        assert_eq!(recorded.replay(Purpose::Release, None, &rules()).len(), 2);
    }

    #[test]
    fn only_the_newest_and_not_the_longest_are_kept() {
        let mut recorded = Recorded::default();
        recorded.keep(Purpose::Release, None, &json!("x".repeat(MAX_BYTES)), true);
        assert!(recorded.questions.is_empty());
        (0..300).for_each(|n| recorded.keep(Purpose::Release, None, &json!({"n": n}), true));
        let replayed = recorded.replay(Purpose::Release, None, &rules());
        assert_eq!((replayed.len(), &replayed[0].input), (256, &json!({"n": 44})));
    }
}
