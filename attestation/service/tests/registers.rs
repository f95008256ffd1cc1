//! Guests whose launch measurement is that of firmware alone: what they boot is in registers, and those are pinned too.

use std::collections::BTreeMap;

use coffer_attestation::handshake::Tee;
use coffer_attestation::tdx;
use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::{Appraisal, Check, Checks, Verdict};
use coffer_verifier::appraisal::{Judged, References, appraise};
use serde_json::{Value, json};

const QUOTE: &[u8] = include_bytes!("../../testdata/tdx/quote4-uptodate-phala/quote.bin");
const COLLATERAL: &[u8] = include_bytes!("../../testdata/tdx/quote4-uptodate-phala/collateral.json");
/// Within the dates of that collateral.
const THEN: &str = "2025-06-19T11:00:00Z";

/// A recorded quote, judged in its time.
fn domain() -> Judged {
    let evidence = tdx::Evidence { quote: QUOTE, collateral: Some(COLLATERAL), event_log: None };
    let at: UnixTime = THEN.parse().expect("a time");
    let appraisal = tdx::appraise(&evidence, &tdx::Expectations::default(), &tdx::TrustedRoots::intel(), at);
    assert_eq!(appraisal.verdict(), Verdict::Affirming);
    Judged { tee: Tee::Tdx, appraisal, images: None }
}

/// What verified evidence of a machine of Azure's says, as far as references speak of it.
fn azure() -> Judged {
    let pcr = |number: u8| (format!("pcr{number:02}"), json!(hex::encode([number; 32])));
    let claims = json!({
        "policy": { "debug_allowed": false },
        "report": { "measurement": "ab".repeat(48) },
        "tcb": { "reported": { "fmc": null, "boot_loader": 4, "tee": 0, "snp": 24, "microcode": 219 } },
        "vtpm": { "pcrs": (0..24).map(pcr).collect::<serde_json::Map<_, _>>() },
    });
    let mut checks = Checks::default();
    checks.require("signature", true, "good", "good");
    Judged {
        tee: Tee::AzSnpVtpm,
        appraisal: Appraisal::new(checks, claims.as_object().expect("claims").clone()),
        images: None,
    }
}

/// Every register that a reference for `judged` must pin, with the value that the evidence shows.
fn shown(judged: &Judged) -> BTreeMap<String, String> {
    let claims = judged.appraisal.claims();
    let text = |value: &Value| value.as_str().expect("a register").to_owned();
    match judged.tee {
        Tee::Tdx => {
            (0..3).map(|number| (format!("rtmr{number}"), text(&claims["report"]["rtmr"][number]))).collect()
        }
        _ => ["pcr04", "pcr09", "pcr11", "pcr12"]
            .map(|name| (name.to_owned(), text(&claims["vtpm"]["pcrs"][name])))
            .into_iter()
            .collect(),
    }
}

/// A reference that pins everything else as it is.
fn references(judged: &Judged, registers: &BTreeMap<String, String>) -> References {
    let report = &judged.appraisal.claims()["report"];
    let measurement = report.get("mr_td").unwrap_or(&report["measurement"]).as_str().expect("a measurement");
    let (initdata, more) = match report.get("mr_config_id") {
        Some(value) => (value.as_str().expect("initdata").to_owned(), String::new()),
        // What the register was extended with is not known; the test looks at other checks.
        None => (
            "00".repeat(32),
            "minimum_tcb = { boot_loader = 4, tee = 0, snp = 24, microcode = 219 }".to_owned(),
        ),
    };
    let pinned: Vec<String> = registers.iter().map(|(name, value)| format!("{name} = \"{value}\"")).collect();
    let text = format!(
        "[[reference]]\nname = \"it\"\ntee = \"{}\"\ntenants = [\"acme\"]\nmeasurement = \"{measurement}\"\n\
         initdata = [\"{initdata}\"]\nregisters = {{ {} }}\n{more}\n",
        judged.tee.name(),
        pinned.join(", ")
    );
    References::parse(&text).expect("references")
}

/// Which registers do not hold.
fn amiss(judged: Judged, registers: &BTreeMap<String, String>) -> Vec<Check> {
    let references = references(&judged, registers);
    let appraised = appraise(judged, &references);
    let reasons = appraised.appraisal().reasons();
    reasons.filter(|check| check.name == "reference-registers").cloned().collect()
}

#[test]
fn a_domain_with_every_register_pinned_is_admitted() {
    let references = references(&domain(), &shown(&domain()));
    let admitted = appraise(domain(), &references).admit();
    assert_eq!(admitted.expect("a known guest").reference().name, "it");
}

#[test]
fn known_firmware_alone_says_nothing_of_the_kernel() {
    for judged in [domain, azure] {
        let missing = amiss(judged(), &BTreeMap::new());
        assert_eq!(missing.len(), shown(&judged()).len());
        assert!(
            missing.iter().all(|check| check.expected.ends_with("of \"it\", which is missing")),
            "{missing:?}"
        );
        let references = references(&judged(), &BTreeMap::new());
        assert!(appraise(judged(), &references).admit().is_err());
    }
}

#[test]
fn another_value_of_any_register_is_named_with_what_was_found() {
    for judged in [domain, azure] {
        let shown = shown(&judged());
        assert_eq!(amiss(judged(), &shown), []);
        for (name, value) in &shown {
            let other = "5a".repeat(value.len() / 2);
            let mut pinned = shown.clone();
            pinned.insert(name.clone(), other.clone());
            let wrong = amiss(judged(), &pinned);
            let [check] = wrong.as_slice() else { panic!("{wrong:?}") };
            assert_eq!(
                (&check.expected, &check.found),
                (&format!("{name} {other}"), &format!("{name} {value}"))
            );
        }
    }
}

#[test]
fn a_register_beyond_the_required_ones_holds_too_once_it_is_named() {
    let mut pinned = shown(&domain());
    pinned.insert("rtmr3".to_owned(), "5a".repeat(48));
    assert_eq!(amiss(domain(), &pinned).len(), 1);
}
