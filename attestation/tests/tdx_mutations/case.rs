//! One change, and how it is looked at.

use std::collections::BTreeSet;

use coffer_attestation::tdx::Expectations;
use coffer_attestation::verdict::{Appraisal, Verdict};

use crate::forge::Forge;

/// When forged evidence is appraised.
pub(crate) const AT: &str = "2025-06-19T11:00:00Z";

/// A change of evidence of kind `T`.
pub(crate) struct Case<T> {
    /// What is changed, in words.
    pub(crate) what: &'static str,
    /// Changes it.
    pub(crate) change: fn(&mut T),
    /// The checks that do not pass any more: all of them, in order.
    pub(crate) reasons: &'static [&'static str],
}

/// Changes evidence that is made anew for each case, and compares. Every case is looked at before any is complained about.
pub(crate) fn assert_refused<T>(cases: &[Case<T>], appraise: fn(fn(&mut T)) -> Appraisal) {
    let mut wrong = Vec::new();
    for case in cases {
        let appraisal = appraise(case.change);
        let reasons: Vec<&str> = appraisal.reasons().map(|check| check.name).collect();
        if appraisal.verdict() < Verdict::Contraindicated || reasons != case.reasons {
            wrong.push(describe(case.what, &appraisal));
        }
    }
    let words: BTreeSet<&str> = cases.iter().map(|case| case.what).collect();
    assert_eq!(words.len(), cases.len(), "two cases have the same words");
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn describe(what: &str, appraisal: &Appraisal) -> String {
    let each = appraisal
        .reasons()
        .map(|check| format!("\n    {:?} expected {}, found {}", check.name, check.expected, check.found));
    format!("  {what}: {}{}", appraisal.verdict(), each.collect::<String>())
}

/// Appraises forged evidence after a change.
pub(crate) fn appraise(change: fn(&mut Forge)) -> Appraisal {
    let mut forge = Forge::new();
    change(&mut forge);
    forge.appraise(&Expectations::default(), AT)
}

/// Fails unless forged evidence that nothing was changed of is affirmed.
pub(crate) fn assert_affirmed() {
    let appraisal = appraise(|_| ());
    assert_eq!(appraisal.verdict(), Verdict::Affirming, "{}", describe("nothing", &appraisal));
    assert_eq!(appraisal.claims()["simulated"], true);
}
