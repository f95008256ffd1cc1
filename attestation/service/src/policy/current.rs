//! The policies that are in force.

use std::collections::BTreeMap;

use serde_json::Value;

use super::rules::{PolicyError, Purpose, Rules};

/// The name that stands for every tenant.
const EVERY: &str = "*";

/// One for appraisal, and for release one of every tenant and one of each.
#[derive(Default)]
pub struct Policies {
    by_name: BTreeMap<(Purpose, String), (u64, Rules)>,
}

/// What policies said together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether each that was asked said yes; also when none was.
    pub allowed: bool,
    /// Each that was asked, as `release/acme@3`, and what it said if that is not a plain yes.
    pub asked: Vec<String>,
}

impl Policies {
    /// Puts a policy in force, in place of an older one.
    ///
    /// # Errors
    /// [`PolicyError`]
    pub fn set(&mut self, purpose: Purpose, name: &str, version: u64, text: &str) -> Result<(), PolicyError> {
        let rules = Rules::compile(purpose, text)?;
        self.by_name.insert((purpose, name.to_owned()), (version, rules));
        Ok(())
    }

    /// Takes a policy out of force.
    pub fn remove(&mut self, purpose: Purpose, name: &str) {
        self.by_name.remove(&(purpose, name.to_owned()));
    }

    /// Whether `input` may be: every policy of `tenant` and of all must say yes.
    pub fn decide(&self, purpose: Purpose, tenant: Option<&str>, input: &Value) -> Decision {
        let mut decision = Decision { allowed: true, asked: Vec::new() };
        for name in std::iter::once(EVERY).chain(tenant) {
            let Some((version, rules)) = self.by_name.get(&(purpose, name.to_owned())) else { continue };
            let asked = format!("{}/{name}@{version}", purpose.name());
            match rules.allows(input) {
                Ok(true) => decision.asked.push(asked),
                Ok(false) => {
                    decision.allowed = false;
                    decision.asked.push(format!("{asked}: no"));
                }
                Err(error) => {
                    decision.allowed = false;
                    decision.asked.push(format!("{asked}: {error}"));
                }
            }
        }
        decision
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn where_there_is_no_policy_none_is_asked() {
        let decision = Policies::default().decide(Purpose::Release, Some("acme"), &json!({}));
        assert_eq!(decision, Decision { allowed: true, asked: Vec::new() });
    }

    #[test]
    fn a_tenants_policy_and_that_of_all_must_both_say_yes_and_another_tenants_is_not_asked() {
        let mut policies = Policies::default();
        let yes = "package coffer.release\nallow := true";
        let key = "package coffer.release\nallow if input.type == \"key\"";
        let no = "package coffer.release\nallow := false";
        policies.set(Purpose::Release, "*", 1, yes).expect("a policy");
        policies.set(Purpose::Release, "acme", 7, key).expect("a policy");
        policies.set(Purpose::Release, "umbrella", 2, no).expect("a policy");
        let good = policies.decide(Purpose::Release, Some("acme"), &json!({"type": "key"}));
        assert_eq!((good.allowed, good.asked), (true, vec!["release/*@1".into(), "release/acme@7".into()]));
        let bad = policies.decide(Purpose::Release, Some("acme"), &json!({"type": "other"}));
        assert_eq!((bad.allowed, bad.asked.last().cloned()), (false, Some("release/acme@7: no".into())));
        policies.remove(Purpose::Release, "acme");
        assert!(policies.decide(Purpose::Release, Some("acme"), &json!({"type": "other"})).allowed);
    }
}
