//! What is kept, without any network.

use std::fs;

use coffer_attestation::snp::Generation;
use coffer_attestation::time::UnixTime;
use coffer_verifier::collateral::{Absent, Cache, CacheError, Collateral, Content, Item, Unusable};

use crate::cases::{HERE, INTELS, INTELS_TIME, MILAN, MILAN_VCEK, NOW, QUOTE, cache, roots};
use crate::forged;

const SIMULATED: Item = Item::List { generation: Generation::Turin, simulated: true };

#[test]
fn what_is_imported_is_recognised_and_found_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let kept = cache(&folder.path().join("cache"));
    let import = |name: &str, bytes: &[u8], at| {
        let file = folder.path().join(name);
        fs::write(&file, bytes).expect("written");
        kept.import(&file, at).expect("kept").path()
    };
    let intels_time: UnixTime = INTELS_TIME.parse().expect("a time");
    assert_eq!(import("a", &forged::good_list(), NOW), "simulated/Turin/crl");
    assert!(import("b", MILAN_VCEK, NOW).starts_with("amd/Milan/vcek/"));
    assert!(import("c", INTELS, intels_time).starts_with("intel/"));
    let again = cache(&folder.path().join("cache"));
    assert_eq!(again.list().expect("a list").len(), 3);
    let supply = Collateral::offline(again);
    let report = coffer_attestation::snp::UnverifiedReport::parse(MILAN).expect("a report");
    let (vcek, above) = supply.vcek(&report, HERE, NOW).expect("the VCEK");
    assert_eq!((vcek.der(), above.len()), (MILAN_VCEK, 0));
    assert!(supply.platform(QUOTE, HERE, intels_time).is_some());
}

#[test]
fn a_list_that_the_root_did_not_sign_or_whose_time_is_over_is_not_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let kept = cache(folder.path());
    let dates = ["261101000000Z", "270201000000Z"];
    let foreign = kept.keep(&SIMULATED, &forged::list(&[], dates, 9), NOW);
    let stale = kept.keep(&SIMULATED, &forged::list(&[], ["261001000000Z", "261101000000Z"], 1), NOW);
    let text = |refused: Result<_, CacheError>| match refused {
        Err(CacheError::Unusable { source: Unusable::List(why), .. }) => why.to_string(),
        other => format!("{:?}", other.map(|_: std::sync::Arc<_>| ())),
    };
    assert!(text(foreign).contains("did not sign the list"));
    assert!(text(stale).contains("looked at 2026-11-21T12:00:00Z"));
    assert_eq!(kept.list().expect("a list"), []);
}

#[test]
fn the_vcek_of_another_chip_or_of_a_stranger_is_not_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let kept = cache(folder.path());
    let report = coffer_attestation::snp::UnverifiedReport::parse(MILAN).expect("a report");
    let tcb = report.reported_tcb;
    let other = Item::Vcek { generation: Generation::Milan, chip: vec![1; 64], tcb };
    let refused = kept.keep(&other, MILAN_VCEK, NOW);
    assert!(matches!(refused, Err(CacheError::Unusable { source: Unusable::Another { .. }, .. })));
    let tcb = coffer_attestation::sim::FIRMWARE;
    let forged_chip = Item::Vcek { generation: Generation::Turin, chip: forged::CHIP.to_vec(), tcb };
    // Its intermediate is not known yet.
    let refused = kept.keep(&forged_chip, &forged::vcek(), NOW);
    assert!(matches!(refused, Err(CacheError::Unusable { source: Unusable::Untrusted { .. }, .. })));
    kept.keep(&Item::Chain { generation: Generation::Turin }, &forged::chain(), NOW).expect("a chain");
    kept.keep(&forged_chip, &forged::vcek(), NOW).expect("kept");
}

#[test]
fn an_older_list_never_takes_the_place_of_a_newer_one_though_both_are_in_date() {
    let folder = tempfile::tempdir().expect("a folder");
    let kept = cache(folder.path());
    let older = forged::list(&[], ["261015000000Z", "270201000000Z"], 1);
    kept.keep(&SIMULATED, &older, NOW).expect("kept");
    kept.keep(&SIMULATED, &forged::good_list(), NOW).expect("a newer one is taken");
    let refused = [kept.keep(&SIMULATED, &older, NOW), kept.keep_fetched(&SIMULATED, &older, NOW)];
    for refused in refused {
        let text = refused.expect_err("refused").to_string();
        assert!(text.contains("newer edition") && text.contains("2026-10-15"), "{text}");
    }
    // Also by a verifier that was started since.
    let again = cache(folder.path());
    assert!(matches!(again.keep(&SIMULATED, &older, NOW), Err(CacheError::Older { .. })));
    let found = again.find(&SIMULATED, NOW).expect("found");
    assert_eq!(found.from, "2026-11-01T00:00:00Z".parse().expect("a time"));
    kept.keep(&SIMULATED, &forged::good_list(), NOW).expect("the same one is no older");
}

fn chip(number: u8) -> (Item, Vec<u8>) {
    let tcb = coffer_attestation::sim::FIRMWARE;
    let item = Item::Vcek { generation: Generation::Turin, chip: vec![number; 8], tcb };
    (item, forged::vcek_of(&[number; 8]))
}

#[test]
fn of_what_was_fetched_the_least_used_gives_way_and_nothing_that_somebody_brought() {
    let folder = tempfile::tempdir().expect("a folder");
    let few = || Cache::open(folder.path(), roots()).expect("a cache").with_most_fetched(2);
    let kept = few();
    kept.keep(&Item::Chain { generation: Generation::Turin }, &forged::chain(), NOW).expect("a chain");
    let put = |cache: &Cache, number| {
        let (item, der) = chip(number);
        cache.keep_fetched(&item, &der, NOW).map(|_| ())
    };
    let has = |numbers: &[u8]| {
        let here = kept.list().expect("a list");
        numbers.iter().map(|number| here.contains(&chip(*number).0)).collect::<Vec<_>>()
    };
    (30..34).for_each(|number| drop(kept.keep(&chip(number).0, &chip(number).1, NOW).expect("brought")));
    put(&kept, 1).expect("kept");
    put(&kept, 2).expect("kept");
    assert!(kept.find(&chip(1).0, NOW).is_some());
    put(&kept, 3).expect("kept");
    assert_eq!(has(&[1, 2, 3, 30, 31, 32, 33]), [true, false, true, true, true, true, true]);
    assert!(kept.find(&chip(2).0, NOW).is_none(), "nor in memory");
    // After a restart it is known by the files which was used.
    let again = few();
    assert!(again.find(&chip(1).0, UnixTime(NOW.0 + 9)).is_some());
    again.forget();
    let age = |number, seconds| {
        let path = folder.path().join("fetched").join(chip(number).0.path());
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(NOW.0 - seconds);
        fs::File::options().append(true).open(path).expect("a file").set_modified(time).expect("a time");
    };
    age(3, 60);
    put(&again, 4).expect("kept");
    assert_eq!(has(&[1, 3, 4, 30]), [true, false, true, true]);
    // What does not verify makes no room.
    let refused = again.keep_fetched(&chip(5).0, &chip(6).1, NOW);
    assert!(refused.is_err());
    assert_eq!(has(&[1, 4]), [true, true]);
}

#[test]
fn a_chain_below_no_trusted_root_is_not_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let nobody =
        coffer_verifier::collateral::Roots { snp: coffer_attestation::snp::TrustedRoots::amd(), ..roots() };
    let kept = coffer_verifier::collateral::Cache::open(folder.path(), nobody).expect("a cache");
    let refused = kept.keep(&Item::Chain { generation: Generation::Turin }, &forged::chain(), NOW);
    assert!(matches!(refused, Err(CacheError::Unusable { source: Unusable::Untrusted { .. }, .. })));
}

#[test]
fn a_file_that_was_changed_is_not_used_and_one_that_is_out_of_date_is_found_as_such() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("simulated/Turin");
    fs::create_dir_all(&place).expect("a folder");
    let kept = cache(folder.path());
    let stale = forged::list(&[], ["261001000000Z", "261101000000Z"], 1);
    fs::write(place.join("crl"), &stale).expect("written");
    let found = kept.find(&SIMULATED, NOW).expect("found");
    assert!(matches!(found.content, Content::List(_)) && found.until < NOW);
    let mut changed = stale;
    let last = changed.len() - 1;
    changed[last] ^= 1;
    fs::write(place.join("crl"), &changed).expect("written");
    assert!(kept.find(&SIMULATED, NOW).is_some(), "what is in memory stays until it is told");
    kept.forget();
    assert!(kept.find(&SIMULATED, NOW).is_none());
}

#[test]
fn without_a_network_what_is_missing_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let supply = Collateral::offline(cache(folder.path()));
    let report = coffer_attestation::snp::UnverifiedReport::parse(MILAN).expect("a report");
    let missing = supply.vcek(&report, HERE, NOW).expect_err("nothing");
    assert!(matches!(&missing, Absent::Unknown { item } if item.contains("VCEK of Milan")), "{missing}");
    let masked = coffer_attestation::snp::UnverifiedReport { chip_id: [0; 64], ..report.clone() };
    let old = coffer_attestation::snp::UnverifiedReport { generation: None, ..report };
    for report in [masked, old] {
        assert!(matches!(supply.vcek(&report, HERE, NOW), Err(Absent::Unnamed { .. })));
    }
}
