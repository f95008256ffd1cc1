//! Valid TDX evidence with one thing changed at a time. Each change must be refused, and for the right reason: the names
//! of the checks that did not pass are listed beside it, complete and in order.

mod case;
#[path = "../forge/mod.rs"]
mod forge;
mod log_cases;
mod pki_cases;
mod platform_cases;
mod quote_cases;
mod statement_cases;

use case::assert_refused;
use coffer_attestation::verdict::Verdict;
use forge::quote::Quote;

#[test]
fn every_change_of_a_real_quote_is_refused() {
    assert_refused(quote_cases::REAL, quote_cases::appraise);
}

#[test]
fn one_flipped_bit_anywhere_in_a_real_quote_is_refused() {
    quote_cases::every_byte_counts();
}

#[test]
fn every_change_of_real_collateral_is_refused() {
    assert_refused(statement_cases::REAL, quote_cases::appraise);
}

#[test]
fn every_change_of_a_real_event_log_is_refused() {
    assert_refused(log_cases::REAL, log_cases::appraise);
}

#[test]
fn one_changed_digest_anywhere_in_a_real_event_log_is_refused() {
    log_cases::every_digest_counts();
}

#[test]
fn every_change_of_certificates_and_lists_that_is_signed_again_is_refused() {
    assert_refused(pki_cases::FORGED, case::appraise);
}

#[test]
fn every_change_of_a_quote_that_is_signed_again_is_refused() {
    assert_refused(quote_cases::FORGED, case::appraise);
}

#[test]
fn every_change_of_statements_that_are_signed_again_is_refused() {
    assert_refused(statement_cases::FORGED, case::appraise);
}

#[test]
fn every_platform_that_intel_has_no_good_word_for_is_refused() {
    assert_refused(platform_cases::FORGED, case::appraise);
}

#[test]
fn every_value_that_was_expected_otherwise_is_refused() {
    quote_cases::every_expectation_counts();
}

#[test]
fn what_intel_only_advises_about_is_a_warning() {
    platform_cases::every_advice_warns();
}

#[test]
fn what_is_changed_is_affirmed_before() {
    case::assert_affirmed();
    quote_cases::assert_affirmed();
    log_cases::assert_authentic();
}

#[test]
fn there_are_enough_changes() {
    let real = quote_cases::REAL.len() + statement_cases::REAL.len() + log_cases::REAL.len();
    let forged = pki_cases::FORGED.len()
        + quote_cases::FORGED.len()
        + statement_cases::FORGED.len()
        + platform_cases::FORGED.len();
    assert!(real >= 140 && forged >= 150, "{real} changes of real evidence, {forged} of forged evidence");
}

#[test]
fn bodies_of_both_kinds_are_affirmed_in_version_5() {
    let of_1_0 = case::appraise(|forge| forge.quote.version = 5);
    assert_eq!(of_1_0.verdict(), Verdict::Affirming);
    assert_eq!(of_1_0.claims()["report"]["mr_service_td"], serde_json::Value::Null);
    let of_1_5 = case::appraise(|forge| forge.quote = Quote::new().with_tdx_1_5_body());
    assert_eq!(of_1_5.verdict(), Verdict::Affirming);
    assert_eq!(of_1_5.claims()["report"]["mr_service_td"], "00".repeat(48));
}

#[test]
fn a_module_of_tdx_1_0_is_affirmed_without_an_identity_of_its_own() {
    let appraisal = case::appraise(|forge| {
        forge.quote.field("tee_tcb_svn")[..2].copy_from_slice(&[5, 0]);
        forge.collateral.tcb_info["tdxModuleIdentities"] = serde_json::json!([]);
    });
    assert_eq!(appraisal.verdict(), Verdict::Affirming);
}

#[test]
fn a_platform_of_the_processor_ca_is_affirmed() {
    let appraisal = case::appraise(|forge| {
        let name = "Intel SGX PCK Processor CA";
        (forge.pki.ca.subject, forge.pki.pck.issuer, forge.pki.pck_crl.issuer) = (name, name, name);
    });
    assert_eq!(appraisal.verdict(), Verdict::Affirming);
}

#[test]
fn a_migratable_domain_is_a_warning() {
    let appraisal = case::appraise(|forge| forge.quote.field("td_attributes")[3] |= 0x20);
    let reasons: Vec<&str> = appraisal.reasons().map(|check| check.name).collect();
    assert_eq!((appraisal.verdict(), reasons), (Verdict::Warning, vec!["migration"]));
}

#[test]
fn a_domain_whose_host_can_raise_exceptions_in_it_is_a_warning() {
    let appraisal = case::appraise(|forge| forge.quote.field("td_attributes")[3] &= !0x10);
    let reasons: Vec<&str> = appraisal.reasons().map(|check| check.name).collect();
    assert_eq!((appraisal.verdict(), reasons), (Verdict::Warning, vec!["sept-ve-disable"]));
}

#[test]
fn statements_of_two_evaluations_are_a_warning() {
    let appraisal =
        case::appraise(|forge| forge.collateral.qe_identity["tcbEvaluationDataNumber"] = 18.into());
    let reasons: Vec<&str> = appraisal.reasons().map(|check| check.name).collect();
    assert_eq!((appraisal.verdict(), reasons), (Verdict::Warning, vec!["tcb-evaluations"]));
}

#[test]
fn an_evaluation_of_long_ago_is_contraindicated_unless_it_was_asked_for() {
    let mut forge = forge::Forge::new();
    for statement in [&mut forge.collateral.tcb_info, &mut forge.collateral.qe_identity] {
        statement["tcbEvaluationDataNumber"] = 16.into();
    }
    let judge = |least| {
        let expected = coffer_attestation::tdx::Expectations { tcb_evaluation: least, ..Default::default() };
        forge.appraise(&expected, case::AT)
    };
    let reasons: Vec<&str> = judge(None).reasons().map(|check| check.name).collect();
    assert_eq!((judge(None).verdict(), reasons), (Verdict::Contraindicated, vec!["tcb-evaluation"]));
    assert_eq!(judge(Some(16)).verdict(), Verdict::Affirming);
}
