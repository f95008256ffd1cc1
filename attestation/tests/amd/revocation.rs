//! Revocation lists of a simulated root: what they say of its intermediates, and lists that say nothing.

use coffer_attestation::snp::{Evidence, Expectations};
use coffer_attestation::verdict::{Outcome, Verdict};
use coffer_attestation::x509::RevocationList;

use super::case::{Case, Expected, NOW, VECTORS, expectations, invalid, judge};
use super::synthetic::{self, ListRecipe, Recipe, ark, ask, certificate, key};

/// Every list, and what becomes of evidence that is held against it.
pub(crate) fn cases() -> Vec<Case> {
    let of = ListRecipe::of_the_root;
    let affirmed = || Expected::Reasons(Verdict::Affirming, Default::default());
    let unusable = || invalid(&["revocation-list"]);
    let mut silent_root = ark();
    silent_root.extensions[1].2 = vec![0x03, 0x02, 0x02, 0x04];
    vec![
        judged("an empty list", &of(&[]), affirmed()),
        judged("a list of others", &of(&[7, 8, 9]), affirmed()),
        judged("a list that names the ASK", &of(&[7, 2]), invalid(&["revocation"])),
        judged("a list that names the ARK", &of(&[1]), invalid(&["revocation"])),
        judged(
            "a list of tomorrow",
            &ListRecipe { dates: [Some("261122000000Z"), Some("261222000000Z")], ..of(&[]) },
            unusable(),
        ),
        judged(
            "a list of last month",
            &ListRecipe { dates: [Some("261001000000Z"), Some("261101000000Z")], ..of(&[]) },
            unusable(),
        ),
        judged(
            "a list without end",
            &ListRecipe { dates: [Some("261101000000Z"), None], ..of(&[]) },
            unusable(),
        ),
        judged("a list that another key signed", &ListRecipe { signer: key(9), ..of(&[]) }, unusable()),
        judged("a list that the ASK's key signed", &ListRecipe { signer: key(2), ..of(&[]) }, unusable()),
        judged("a list of changes only", &ListRecipe { critical: true, ..of(&[]) }, unusable()),
        judged("a list of another authority", &ListRecipe { issuer: "ARK-Other", ..of(&[]) }, unusable()),
        judged(
            "a list of the ASK that names the VCEK",
            &ListRecipe { issuer: "SEV-Sim", signer: key(2), ..of(&[0]) },
            invalid(&["revocation"]),
        ),
        root_that_may_not(silent_root),
    ]
}

fn judged(name: &str, list: &ListRecipe, expected: Expected) -> Case {
    let evidence = Evidence { revocation: vec![list.list()], ..synthetic::evidence(|_| ()) };
    let seen = synthetic::judge(&evidence, &expectations(&synthetic::report()), NOW);
    Case { name: format!("simulated: {name}"), seen: Ok(seen), expected }
}

/// A root whose key usage has certificate signing only.
fn root_that_may_not(root: Recipe) -> Case {
    let root = certificate(&root);
    let evidence = Evidence {
        authorities: vec![certificate(&ask()), root.clone()],
        revocation: vec![ListRecipe::of_the_root(&[]).list()],
        ..synthetic::evidence(|_| ())
    };
    let trust = coffer_attestation::snp::TrustedRoots::amd().and_simulated(root);
    let expected = expectations(&synthetic::report());
    let seen = coffer_attestation::snp::appraise(&evidence, &expected, &trust, super::case::time(NOW));
    let name = "simulated: a root that may not sign lists".to_owned();
    Case { name, seen: Ok(seen), expected: invalid(&["revocation-list"]) }
}

#[test]
fn without_a_list_the_verdict_says_that_nothing_was_looked_up() {
    let seen = synthetic::judge(&synthetic::evidence(|_| ()), &expectations(&synthetic::report()), NOW);
    let check = seen.checks().iter().find(|check| check.name == "revocation").expect("the check");
    assert_eq!(check.result, Outcome::NotChecked);
}

#[test]
fn every_truncation_of_a_list_is_refused() {
    let der = ListRecipe::of_the_root(&[1, 2, 3]).der();
    let read = (0..der.len()).filter(|length| RevocationList::from_der(&der[..*length]).is_ok()).count();
    assert_eq!(read, 0);
}

#[test]
fn a_list_in_pem_is_the_same_list() {
    let der = ListRecipe::of_the_root(&[1]).der();
    let pem = der::pem::encode_string("X509 CRL", der::pem::LineEnding::LF, &der).expect("PEM");
    assert_eq!(RevocationList::from_file(pem.as_bytes()), RevocationList::from_der(&der));
}

#[test]
fn where_a_list_is_required_its_absence_contraindicates_and_names_whose_list_is_missing() {
    let required = Expectations { revocation_list: true, ..expectations(&synthetic::report()) };
    let seen = synthetic::judge(&synthetic::evidence(|_| ()), &required, NOW);
    let check = seen.checks().iter().find(|check| check.name == "revocation").expect("the check");
    assert_eq!(seen.verdict(), Verdict::Contraindicated);
    assert!(check.expected.contains("ARK-Sim") && check.found == "no revocation list was given", "{check:?}");
    let list = ListRecipe::of_the_root(&[]).list();
    let evidence = Evidence { revocation: vec![list], ..synthetic::evidence(|_| ()) };
    assert_eq!(synthetic::judge(&evidence, &required, NOW).verdict(), Verdict::Affirming);
}

#[test]
fn a_required_list_is_missed_of_real_processors_too_whose_intermediates_are_built_in() {
    let vector = VECTORS[3];
    let required = Expectations { revocation_list: true, ..vector.expectations() };
    let seen = judge(&vector.evidence(), &required, NOW).expect("judged");
    let reasons: Vec<_> = seen.reasons().map(|check| (check.name, check.result)).collect();
    assert_eq!(reasons, [("revocation", Outcome::Contraindicated)]);
}

#[test]
fn a_revoked_intermediate_and_a_list_out_of_date_say_what_was_expected_and_found() {
    let reason = |list: &ListRecipe| {
        let evidence = Evidence { revocation: vec![list.list()], ..synthetic::evidence(|_| ()) };
        let seen = synthetic::judge(&evidence, &expectations(&synthetic::report()), NOW);
        let mut reasons = seen.reasons();
        let check = reasons.next().expect("a reason");
        (check.expected.clone(), check.found.clone())
    };
    let (expected, found) = reason(&ListRecipe::of_the_root(&[2]));
    assert_eq!(expected, "not revoked");
    assert!(found.starts_with("the intermediate is revoked:") && found.ends_with("serial 02"), "{found}");
    let of = ListRecipe::of_the_root(&[]);
    let (expected, found) =
        reason(&ListRecipe { dates: [Some("261001000000Z"), Some("261101000000Z")], ..of });
    assert!(expected.contains("ARK-Sim"), "{expected}");
    assert!(found.contains("from 2026-10-01T00:00:00Z to 2026-11-01T00:00:00Z"), "{found}");
}
