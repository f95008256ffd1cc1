//! What is concluded of evidence: a list of named checks, and the verdict that follows from them and from nothing else.
//!
//! ```text
//! evidence -> parse -> Checks (one entry per rule, each with what was expected and what was found) -> Appraisal
//!                                                        verdict = the worst outcome; no check at all is invalid
//! ```
//! Never here: policy. A verdict says what the hardware proves, not whether anybody wants to run on it.

use std::fmt::{self, Display};

use serde::Serialize;

/// What was read from evidence, by name; values that verified code reads are only as good as the verdict beside them.
pub type Claims = serde_json::Map<String, serde_json::Value>;

/// What evidence as a whole is worth, from best to worst: a greater verdict is a worse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything that was checked is as it should be.
    Affirming,
    /// Genuine, with something that its owner should look at, such as firmware that is not yet committed.
    Warning,
    /// Genuine, and the platform says of itself that it does not protect the guest, for example by debug mode.
    Contraindicated,
    /// Not shown to be genuine: a signature, a chain, a date or a binding is wrong.
    Invalid,
}

/// How one check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Found what was expected.
    Passed,
    /// Could not be looked at because something it needs was not given. It worsens no verdict; a policy may demand
    /// that it passed.
    NotChecked,
    /// Makes the verdict at best a warning.
    Warned,
    /// Makes the verdict at best contraindicated.
    Contraindicated,
    /// Makes the verdict invalid.
    Failed,
}

/// One rule that evidence was held against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The rule's name in kebab case; a fixed set, fit to be a metric's label.
    pub name: &'static str,
    /// How it ended.
    pub result: Outcome,
    /// What the rule asks for, in words or hexadecimal.
    pub expected: String,
    /// What the evidence says.
    pub found: String,
}

/// Collects checks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checks(Vec<Check>);

/// What evidence was found to be. Its verdict follows from its checks: there is no way to set one without the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Appraisal {
    verdict: Verdict,
    checks: Vec<Check>,
    claims: Claims,
}

impl Checks {
    /// Passes when `holds`, else fails, which makes the evidence invalid. Answers `holds`.
    pub fn require(
        &mut self,
        name: &'static str,
        holds: bool,
        expected: impl Display,
        found: impl Display,
    ) -> bool {
        self.record(name, if holds { Outcome::Passed } else { Outcome::Failed }, expected, found);
        holds
    }

    /// Records a check that ended as `outcome`.
    pub fn record(
        &mut self,
        name: &'static str,
        outcome: Outcome,
        expected: impl Display,
        found: impl Display,
    ) {
        self.0.push(Check {
            name,
            result: outcome,
            expected: printable(&expected.to_string()),
            found: printable(&found.to_string()),
        });
    }

    /// Records the outcome of something that either holds or says why it does not. Answers the value if it holds.
    pub fn settle<T, E: Display>(
        &mut self,
        name: &'static str,
        expected: impl Display,
        result: Result<T, E>,
    ) -> Option<T> {
        match result {
            Ok(value) => {
                self.record(name, Outcome::Passed, &expected, &expected);
                Some(value)
            }
            Err(reason) => {
                self.record(name, Outcome::Failed, expected, reason);
                None
            }
        }
    }

    /// Records that `name` could not be looked at, and why.
    pub fn not_checked(&mut self, name: &'static str, expected: impl Display, why: impl Display) {
        self.record(name, Outcome::NotChecked, expected, why);
    }

    /// Adds the checks of `other` behind these.
    pub fn append(&mut self, other: Checks) {
        self.0.extend(other.0);
    }

    /// The verdict that follows from what was recorded so far.
    pub fn verdict(&self) -> Verdict {
        let worst = self.0.iter().map(|check| check.result.at_best()).max();
        // Evidence that nothing was checked of proves nothing.
        worst.unwrap_or(Verdict::Invalid)
    }
}

/// `text` with every character replaced that a terminal would obey rather than show: control characters, and those that
/// change the direction of writing. Names in certificates and in evidence are whatever somebody wrote there.
pub fn printable(text: &str) -> String {
    let obeyed = |char: char| {
        char.is_control()
            || matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(obeyed) {
        return text.to_owned();
    }
    text.chars().map(|char| if obeyed(char) { char::REPLACEMENT_CHARACTER } else { char }).collect()
}

impl Outcome {
    /// The best verdict that evidence with such a check can have.
    fn at_best(self) -> Verdict {
        match self {
            Outcome::Passed | Outcome::NotChecked => Verdict::Affirming,
            Outcome::Warned => Verdict::Warning,
            Outcome::Contraindicated => Verdict::Contraindicated,
            Outcome::Failed => Verdict::Invalid,
        }
    }
}

impl Appraisal {
    /// Concludes.
    pub fn new(checks: Checks, claims: Claims) -> Self {
        Self { verdict: checks.verdict(), checks: checks.0, claims }
    }

    /// Its checks and claims, to become part of a larger appraisal.
    pub fn into_parts(self) -> (Checks, Claims) {
        (Checks(self.checks), self.claims)
    }

    /// What the evidence as a whole is worth.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Every check in the order in which it was made.
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// What was read from the evidence.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The checks that are why the verdict is not affirming.
    pub fn reasons(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.result.at_best() != Verdict::Affirming)
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Affirming => "affirming",
            Verdict::Warning => "warning",
            Verdict::Contraindicated => "contraindicated",
            Verdict::Invalid => "invalid",
        })
    }
}

impl Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Passed => "passed",
            Outcome::NotChecked => "not checked",
            Outcome::Warned => "warned",
            Outcome::Contraindicated => "contraindicated",
            Outcome::Failed => "failed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(outcomes: &[Outcome]) -> Checks {
        let mut checks = Checks::default();
        outcomes.iter().for_each(|outcome| checks.record("rule", *outcome, "this", "that"));
        checks
    }

    #[test]
    fn evidence_that_nothing_was_checked_of_is_invalid() {
        assert_eq!(checks(&[]).verdict(), Verdict::Invalid);
    }

    #[test]
    fn one_failed_check_outweighs_every_other() {
        let all = [Outcome::Passed, Outcome::Failed, Outcome::Contraindicated, Outcome::Warned];
        assert_eq!(checks(&all).verdict(), Verdict::Invalid);
    }

    #[test]
    fn what_a_terminal_would_obey_is_not_recorded() {
        let mut checks = Checks::default();
        checks.record("rule", Outcome::Passed, "\u{1b}[2K\rA", "B\u{9b}1A\u{7f}\u{202e}ü");
        let appraisal = Appraisal::new(checks, Claims::new());
        let seen = appraisal.checks().first().map(|check| (check.expected.as_str(), check.found.as_str()));
        assert_eq!(seen, Some(("\u{fffd}[2K\u{fffd}A", "B\u{fffd}1A\u{fffd}\u{fffd}ü")));
    }

    #[test]
    fn contraindicated_outweighs_a_warning() {
        assert_eq!(checks(&[Outcome::Contraindicated, Outcome::Warned]).verdict(), Verdict::Contraindicated);
    }

    #[test]
    fn what_was_not_checked_leaves_the_verdict_alone() {
        assert_eq!(checks(&[Outcome::Passed, Outcome::NotChecked]).verdict(), Verdict::Affirming);
    }

    #[test]
    fn reasons_are_the_checks_that_did_not_pass() {
        let appraisal = Appraisal::new(checks(&[Outcome::Passed, Outcome::Warned]), Claims::new());
        assert_eq!(appraisal.reasons().map(|check| check.result).collect::<Vec<_>>(), [Outcome::Warned]);
    }

    #[test]
    fn a_verdict_is_written_in_kebab_case() {
        let appraisal = Appraisal::new(checks(&[Outcome::NotChecked]), Claims::new());
        let json = serde_json::to_string(&appraisal).expect("plain data");
        let expected = r#"{"verdict":"affirming","checks":[{"name":"rule","result":"not-checked","expected":"this","found":"that"}],"claims":{}}"#;
        assert_eq!(json, expected);
    }
}
