//! One policy, compiled.

use std::num::NonZeroU32;
use std::sync::Once;
use std::time::Duration;

use regorus::utils::limits::{ExecutionTimerConfig, set_fallback_execution_timer_config};
use regorus::{CompiledPolicy, Engine, Rc};
use serde_json::Value;

/// The longest policy, in bytes.
const MAX_BYTES: usize = 256 << 10;
/// How long one decision may take.
const DECISION: Duration = Duration::from_millis(50);
/// Steps between two looks at the clock.
const STEPS: NonZeroU32 = NonZeroU32::MIN.saturating_add(255);

/// What a policy decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// `data.coffer.appraisal.allow`: whether a guest that the built-in rules affirm is affirmed.
    Appraisal,
    /// `data.coffer.release.allow`: whether such a guest is given one secret.
    Release,
}

/// A policy that was compiled.
pub struct Rules {
    compiled: CompiledPolicy,
}

/// Why a policy cannot be used, or gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Too long.
    #[error("a policy may have {MAX_BYTES} bytes, this one has {found}")]
    TooLong {
        /// Length found.
        found: usize,
    },
    /// Not Rego, or without the rule that is asked for.
    #[error("this is no policy with a rule {rule}: {reason}")]
    Form {
        /// The rule.
        rule: &'static str,
        /// What is wrong, in one line.
        reason: String,
    },
    /// It failed, or took too long.
    #[error("the policy gave no answer: {reason}")]
    Answer {
        /// What happened, in one line.
        reason: String,
    },
}

impl Purpose {
    /// Its name in paths and logs.
    pub fn name(self) -> &'static str {
        match self {
            Purpose::Appraisal => "appraisal",
            Purpose::Release => "release",
        }
    }

    /// The purpose of that name.
    pub fn of(name: &str) -> Option<Self> {
        [Purpose::Appraisal, Purpose::Release].into_iter().find(|purpose| purpose.name() == name)
    }

    fn rule(self) -> &'static str {
        match self {
            Purpose::Appraisal => "data.coffer.appraisal.allow",
            Purpose::Release => "data.coffer.release.allow",
        }
    }
}

impl Rules {
    /// Compiles a policy. One without the purpose's rule is refused: it could never say yes.
    ///
    /// # Errors
    /// [`PolicyError`]
    pub fn compile(purpose: Purpose, text: &str) -> Result<Self, PolicyError> {
        bound_time();
        if text.len() > MAX_BYTES {
            return Err(PolicyError::TooLong { found: text.len() });
        }
        let rule = purpose.rule();
        let form = |reason: String| PolicyError::Form { rule, reason: line(&reason) };
        let mut engine = Engine::new();
        engine
            .add_policy("policy.rego".to_owned(), text.to_owned())
            .map_err(|error| form(error.to_string()))?;
        let rule: Rc<str> = rule.into();
        let compiled = engine.compile_with_entrypoint(&rule).map_err(|error| form(error.to_string()))?;
        Ok(Self { compiled })
    }

    /// Whether the policy says `true` of `input`.
    ///
    /// # Errors
    /// [`PolicyError::Answer`]
    pub fn allows(&self, input: &Value) -> Result<bool, PolicyError> {
        let said = self.compiled.eval_with_input(input.clone().into());
        let said = said.map_err(|error| PolicyError::Answer { reason: line(&error.to_string()) })?;
        Ok(said == regorus::Value::from(true))
    }
}

/// No policy of this process runs longer than [`DECISION`].
fn bound_time() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        set_fallback_execution_timer_config(Some(ExecutionTimerConfig {
            limit: DECISION,
            check_interval: STEPS,
        }));
    });
}

/// The engine draws the place of an error over several lines; these are put side by side.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn release(text: &str) -> Result<Rules, PolicyError> {
        Rules::compile(Purpose::Release, text)
    }

    #[test]
    fn a_policy_says_yes_only_where_its_rule_holds() {
        let rules = release("package coffer.release\nallow if input.type == \"key\"").expect("a policy");
        let asked = [json!({"type": "key"}), json!({"type": "other"}), json!({})];
        assert_eq!(asked.map(|input| rules.allows(&input)), [Ok(true), Ok(false), Ok(false)]);
    }

    #[test]
    fn what_is_not_exactly_true_is_no() {
        let rules = release("package coffer.release\nallow := \"true\"").expect("a policy");
        assert_eq!(rules.allows(&json!({})), Ok(false));
    }

    #[test]
    fn what_is_no_rego_or_has_another_package_is_refused() {
        assert!(matches!(release("allow if"), Err(PolicyError::Form { .. })));
        let other = release("package coffer.appraisal\nallow := true");
        assert!(matches!(other, Err(PolicyError::Form { rule: "data.coffer.release.allow", .. })));
        assert!(matches!(release(&" ".repeat(MAX_BYTES + 1)), Err(PolicyError::TooLong { .. })));
    }

    #[test]
    fn a_policy_that_runs_too_long_gives_no_answer() {
        let text = "package coffer.release\nallow if { some x in numbers.range(1, 100000)\nsome y in numbers.range(1, 100000)\nx * y == 0 }";
        let rules = release(text).expect("a policy");
        assert!(matches!(rules.allows(&json!({})), Err(PolicyError::Answer { .. })));
    }

    #[test]
    fn two_decisions_know_nothing_of_each_other() {
        let rules = release("package coffer.release\nallow if input.a == 1").expect("a policy");
        assert_eq!(rules.allows(&json!({"a": 1})), Ok(true));
        assert_eq!(rules.allows(&json!({"b": 1})), Ok(false));
    }
}
