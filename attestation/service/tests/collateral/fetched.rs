//! What is fetched: how often, from whom, and what is not taken.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coffer_attestation::snp::UnverifiedReport;
use coffer_attestation::tdx;
use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::Verdict;
use coffer_verifier::collateral::{Absent, Collateral, Content};
use coffer_verifier::source::Source;
use serde_json::Value;

use crate::cases::{HERE, INTELS, INTELS_TIME, LONG, MILAN, MILAN_VCEK, NOW, QUOTE, cache, online, supplied};
use crate::forged;
use crate::played::{Played, Say};

fn milan() -> UnverifiedReport {
    UnverifiedReport::parse(MILAN).expect("a report")
}

/// What AMD's service is asked for the Milan's VCEK.
fn milan_path() -> String {
    let report = milan();
    let tcb = report.reported_tcb;
    let versions = format!(
        "blSPL={:02}&teeSPL={:02}&snpSPL={:02}&ucodeSPL={:02}",
        tcb.boot_loader, tcb.tee, tcb.snp, tcb.microcode
    );
    format!("/vcek/v1/Milan/{}?{versions}", hex::encode(report.chip_id))
}

/// Asked once, and what came of it after whoever asks has been patient.
fn ask(supply: &Collateral) -> Result<Vec<u8>, Absent> {
    supply.vcek(&milan(), HERE, NOW).map(|(vcek, _)| vcek.der().to_vec())
}

#[test]
fn many_guests_of_one_chip_ask_amd_once_and_it_is_kept_for_a_verifier_without_a_network() {
    let (folder, played) = (tempfile::tempdir().expect("a folder"), Played::start());
    played.answer(&milan_path(), MILAN_VCEK);
    let supply = Arc::new(online(folder.path(), &played, LONG));
    let guests: Vec<_> = (0..6)
        .map(|_| {
            let supply = supply.clone();
            std::thread::spawn(move || ask(&supply))
        })
        .collect();
    for guest in guests {
        assert_eq!(guest.join().expect("no thread died"), Ok(MILAN_VCEK.to_vec()));
    }
    assert_eq!(played.asked(), [milan_path()]);
    let offline = Collateral::offline(cache(folder.path()));
    assert_eq!(ask(&offline), Ok(MILAN_VCEK.to_vec()));
}

#[test]
fn what_is_not_the_chips_certificate_is_not_taken_and_not_asked_for_again() {
    let (folder, played) = (tempfile::tempdir().expect("a folder"), Played::start());
    played.answer(forged::VCEK, &forged::other_vcek());
    let supply = online(folder.path(), &played, LONG);
    let report = forged::parsed(&forged::sign(vec_of_a_report()));
    for _ in 0..3 {
        assert!(matches!(supply.vcek(&report, HERE, NOW), Err(Absent::Unknown { .. })));
    }
    assert_eq!(played.asked(), [forged::VCEK]);
    assert_eq!(cache(folder.path()).list().expect("a list"), []);
}

#[test]
fn a_redirection_is_not_followed_and_too_long_an_answer_is_not_read() {
    let (folder, played) = (tempfile::tempdir().expect("a folder"), Played::start());
    let elsewhere = format!("location: {}/elsewhere\r\n", played.origin());
    let unwanted =
        [Say::Answer(302, elsewhere, Vec::new()), Say::Answer(200, String::new(), vec![0; 1 << 20])];
    for says in unwanted {
        played.say(&milan_path(), says);
        let supply = online(folder.path(), &played, LONG);
        assert!(matches!(ask(&supply), Err(Absent::Unknown { .. })));
    }
    assert_eq!(played.asked(), [milan_path(), milan_path()]);
}

#[test]
fn a_service_that_is_busy_is_left_alone_for_as_long_as_it_wishes() {
    let (folder, played) = (tempfile::tempdir().expect("a folder"), Played::start());
    played.say(&milan_path(), Say::Answer(429, "retry-after: 3000\r\n".to_owned(), Vec::new()));
    let supply = online(folder.path(), &played, Duration::from_secs(2));
    for _ in 0..3 {
        assert!(matches!(ask(&supply), Err(Absent::Later { .. })));
    }
    assert_eq!(played.asked(), [milan_path()]);
}

#[test]
fn a_service_that_fails_once_is_asked_again() {
    let (folder, played) = (tempfile::tempdir().expect("a folder"), Played::start());
    played.say(&milan_path(), Say::Answer(503, String::new(), Vec::new()));
    let supply = Arc::new(online(folder.path(), &played, LONG));
    let waiting = {
        let supply = supply.clone();
        std::thread::spawn(move || ask(&supply))
    };
    while played.asked().is_empty() {
        std::thread::yield_now();
    }
    played.answer(&milan_path(), MILAN_VCEK);
    assert_eq!(waiting.join().expect("no thread died"), Ok(MILAN_VCEK.to_vec()));
}

#[test]
fn a_service_that_says_nothing_does_not_hold_a_guest_for_longer_than_its_patience() {
    let (folder, played) = (tempfile::tempdir().expect("a folder"), Played::start());
    played.say(&milan_path(), Say::Nothing);
    let supply = online(folder.path(), &played, Duration::from_millis(300));
    assert!(matches!(ask(&supply), Err(Absent::Later { .. })));
}

#[test]
fn chips_that_a_stranger_invents_keep_nobody_elses_from_being_asked_for() {
    let (folder, played) = (tempfile::tempdir().expect("a folder"), Played::start());
    // Nothing else is asked while the service is silent.
    played.say(&milan_path(), Say::Nothing);
    let supply = supplied(folder.path(), &played, [LONG, Duration::ZERO]);
    assert!(matches!(ask(&supply), Err(Absent::Later { .. })));
    let mut invented = milan();
    let stranger = Source::V4([192, 0, 2, 66]);
    for number in 1..=40 {
        invented.chip_id = [number; 64];
        assert!(matches!(supply.vcek(&invented, stranger, NOW), Err(Absent::Later { .. })));
    }
    let report = forged::parsed(&forged::sign(vec_of_a_report()));
    played.answer(forged::VCEK, &forged::vcek());
    played.answer(forged::CHAIN, &forged::chain());
    assert!(matches!(supply.vcek(&report, HERE, NOW), Err(Absent::Later { .. })));
    played.answer(&milan_path(), MILAN_VCEK);
    played.hang_up();
    let start = Instant::now();
    while supply.vcek(&report, HERE, NOW).is_err() {
        assert!(start.elapsed() < LONG, "asked were {:?}", played.asked());
    }
    let of_the_stranger = played.asked().iter().filter(|path| path.starts_with("/vcek/v1/Milan")).count();
    // The one that it was silent about, once more, and at most a share of what was invented.
    assert!(of_the_stranger <= 2 + 4, "asked were {:?}", played.asked());
}

#[test]
fn a_service_below_another_authority_is_not_asked() {
    let (folder, played, other) = (tempfile::tempdir().expect("a folder"), Played::start(), Played::start());
    std::fs::copy(other.authority(), played.authority()).expect("copied");
    let supply = online(folder.path(), &played, Duration::from_secs(3));
    assert!(matches!(ask(&supply), Err(Absent::Later { .. })));
    assert_eq!(played.asked(), Vec::<String>::new());
}

#[test]
fn intels_answers_become_collateral_and_only_the_quotes_own_platform_is_asked_for() {
    let (folder, played) = (tempfile::tempdir().expect("a folder"), Played::start());
    let fmspc = play_intel(&played, |answer| answer);
    let supply = online(folder.path(), &played, LONG);
    let at: UnixTime = INTELS_TIME.parse().expect("a time");
    let kept = supply.platform(QUOTE, HERE, at).expect("collateral");
    let Content::Platform(json) = &kept.content else { panic!("not collateral") };
    let evidence = tdx::Evidence { quote: QUOTE, collateral: Some(json), event_log: None };
    let judged = tdx::appraise(&evidence, &tdx::Expectations::default(), &tdx::TrustedRoots::intel(), at);
    assert_eq!(judged.verdict(), Verdict::Affirming, "{:?}", judged.reasons().collect::<Vec<_>>());
    let tcb = format!("/tdx/certification/v4/tcb?fmspc={fmspc}");
    assert_eq!((played.asked().len(), &played.asked()[0]), (4, &tcb));
    assert!(supply.platform(QUOTE, HERE, at).is_some() && played.asked().len() == 4);
}

#[test]
fn a_statement_of_intels_that_was_changed_on_the_way_is_not_kept() {
    let (folder, played) = (tempfile::tempdir().expect("a folder"), Played::start());
    play_intel(&played, |answer| answer.replace("UpToDate", "UpToDatE"));
    let supply = online(folder.path(), &played, LONG);
    assert!(supply.platform(QUOTE, HERE, INTELS_TIME.parse().expect("a time")).is_none());
    assert_eq!(cache(folder.path()).list().expect("a list"), []);
}

/// Plays Intel's services with what they once said. Answers the platform's FMSPC.
fn play_intel(played: &Played, change: impl Fn(String) -> String) -> String {
    let file: Value = serde_json::from_slice(INTELS).expect("JSON");
    let text = |field: &str| file[field].as_str().expect("a text").to_owned();
    let chain = |name: &str, field: &str| {
        let escaped: String = text(field).bytes().map(|byte| format!("%{byte:02X}")).collect();
        format!("{name}: {escaped}\r\n")
    };
    let signed = |name: &str, field: &str| {
        let signature = text(&format!("{field}_signature"));
        change(format!("{{\"{name}\":{},\"signature\":\"{signature}\"}}", text(field))).into_bytes()
    };
    let der = |field: &str| hex::decode(text(field)).expect("hexadecimal");
    let info: Value = serde_json::from_str(&text("tcb_info")).expect("JSON");
    let fmspc = info["fmspc"].as_str().expect("a text").to_lowercase();
    let answers = [
        (
            format!("/tdx/certification/v4/tcb?fmspc={fmspc}"),
            chain("TCB-Info-Issuer-Chain", "tcb_info_issuer_chain"),
            signed("tcbInfo", "tcb_info"),
        ),
        (
            "/tdx/certification/v4/qe/identity".to_owned(),
            chain("SGX-Enclave-Identity-Issuer-Chain", "qe_identity_issuer_chain"),
            signed("enclaveIdentity", "qe_identity"),
        ),
        (
            "/sgx/certification/v4/pckcrl?ca=platform&encoding=der".to_owned(),
            chain("SGX-PCK-CRL-Issuer-Chain", "pck_crl_issuer_chain"),
            der("pck_crl"),
        ),
        ("/IntelSGXRootCA.der".to_owned(), String::new(), der("root_ca_crl")),
    ];
    for (path, headers, body) in answers {
        played.say(&path, Say::Answer(200, headers, body));
    }
    fmspc
}

fn vec_of_a_report() -> Vec<u8> {
    crate::judged::unsigned(&[0; 64])
}
