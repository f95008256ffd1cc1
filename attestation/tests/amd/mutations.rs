//! Every change is refused, each for its own reason.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use super::case::{Case, Expected, NOW, VECTORS, complaint, invalid, judge};
use coffer_attestation::verdict::Verdict;

use super::{authorities, certificate_fields, crossed, report_fields, resigned, revocation};

static ALL: LazyLock<[Vec<Case>; 6]> = LazyLock::new(|| {
    [
        report_fields::cases(),
        certificate_fields::cases(),
        authorities::cases(),
        crossed::cases(),
        resigned::cases(),
        revocation::cases(),
    ]
});

fn refused(cases: &[Case]) {
    let complaints: Vec<String> = cases.iter().filter_map(complaint).collect();
    assert!(
        complaints.is_empty(),
        "{} of {} cases:\n  {}\n",
        complaints.len(),
        cases.len(),
        complaints.join("\n  ")
    );
}

#[test]
fn evidence_that_nobody_changed_is_not_refused() {
    let unchanged = VECTORS.map(|vector| {
        let seen = judge(&vector.evidence(), &vector.expectations(), NOW).expect("an appraisal");
        seen.reasons().map(|check| check.name).collect::<Vec<_>>()
    });
    assert_eq!(unchanged, VECTORS.map(|vector| vector.baseline.to_vec()));
}

#[test]
fn a_changed_report_is_refused_for_its_signature_and_for_what_was_changed() {
    refused(&ALL[0]);
}

#[test]
fn a_changed_certificate_is_refused() {
    refused(&ALL[1]);
}

#[test]
fn a_changed_authority_is_refused() {
    refused(&ALL[2]);
}

#[test]
fn evidence_put_together_from_parts_of_several_is_refused() {
    refused(&ALL[3]);
}

#[test]
fn a_rightly_signed_report_is_refused_for_what_it_says() {
    refused(&ALL[4]);
}

#[test]
fn a_revoked_or_unknown_standing_is_refused() {
    refused(&ALL[5]);
}

#[test]
fn there_are_at_least_700_changes_each_of_its_own_name() {
    let invalid = ALL.iter().flatten().filter(|case| match &case.expected {
        Expected::Reasons(verdict, _) => *verdict == Verdict::Invalid,
        Expected::Unread(_) => true,
    });
    let names: BTreeSet<&str> = invalid.map(|case| case.name.as_str()).collect();
    let count: usize = ALL.iter().map(Vec::len).sum();
    let every: BTreeSet<&str> = ALL.iter().flatten().map(|case| case.name.as_str()).collect();
    assert_eq!(every.len(), count, "two cases have one name");
    assert!(names.len() >= 700, "{} changes that must be refused", names.len());
}

#[test]
fn a_reason_too_many_or_too_few_is_complained_of() {
    let [_, vector, ..] = VECTORS;
    let case = |reasons: &[&'static str]| Case {
        name: "unchanged".to_owned(),
        seen: judge(&vector.evidence(), &vector.expectations(), "2040-01-01T00:00:00Z"),
        expected: invalid(reasons),
    };
    let complaints =
        [&["vek-validity"][..], &[], &["vek-validity", "debug"]].map(|reasons| complaint(&case(reasons)));
    assert_eq!(complaints.map(|complaint| complaint.is_some()), [false, true, true]);
}

#[test]
fn a_signature_number_of_more_than_384_bits_is_called_that() {
    let [_, vector, ..] = VECTORS;
    let mut evidence = vector.evidence();
    evidence.report[0x318] = 1;
    let seen = judge(&evidence, &vector.expectations(), NOW).expect("an appraisal");
    let found: Vec<&str> = seen.reasons().map(|check| check.found.as_str()).collect();
    assert_eq!(found, ["signature part S has bits above 384"]);
}
