//! A simulated processor signs what AMD's would not: the signature holds, so the field's own check must speak, alone.

use coffer_attestation::snp::{Evidence, TrustedRoots, appraise};
use coffer_attestation::verdict::Verdict;
use coffer_attestation::x509::Certificate;

use super::case::{Case, Expected, NOW, expectations, invalid, time};
use super::synthetic::{self, Recipe, ark, ask, asvk, certificate, key, sign_report, tlv, vcek, vlek};

/// Reports, VLEKs, certificates and chains.
pub(crate) fn cases() -> Vec<Case> {
    [reports(), vleks(), certificates(), chains()].into_iter().flatten().collect()
}

fn judged(name: &str, evidence: &Evidence, expected: Expected) -> Case {
    let expectations = expectations(&synthetic::report());
    Case {
        name: format!("simulated: {name}"),
        seen: Ok(synthetic::judge(evidence, &expectations, NOW)),
        expected,
    }
}

fn but(verdict: Verdict, reasons: &[&'static str]) -> Expected {
    Expected::Reasons(verdict, reasons.iter().map(|reason| (*reason).to_owned()).collect())
}

/// What is changed, its offset, the bytes that are written there, the verdict and its reasons.
type Change = (&'static str, usize, &'static [u8], Verdict, &'static [&'static str]);

/// The platform has SMT on and all four TCBs at fmc 3, boot loader 1, tee 2, snp 7, microcode 71; its firmware is 1.58.40.
const REPORTS: &[Change] = &[
    ("nothing", 0x004, &[0], Verdict::Affirming, &[]),
    ("guest_svn", 0x004, &[9], Verdict::Affirming, &[]),
    ("version 6", 0x000, &[6], Verdict::Invalid, &["report-format"]),
    ("version 1", 0x000, &[1], Verdict::Invalid, &["report-format"]),
    ("abi 1.59 needed", 0x008, &[59, 1], Verdict::Invalid, &["abi-version"]),
    ("abi 1.58 needed", 0x008, &[58, 1], Verdict::Affirming, &[]),
    ("smt forbidden", 0x00a, &[0x02], Verdict::Invalid, &["smt"]),
    ("bit 17 zero", 0x00a, &[0x01], Verdict::Invalid, &["policy-bits"]),
    ("bit 26", 0x00b, &[0x04], Verdict::Invalid, &["policy-bits"]),
    ("debug", 0x00a, &[0x0b], Verdict::Contraindicated, &["debug"]),
    ("migration agent allowed", 0x00a, &[0x07], Verdict::Warning, &["migration-agent"]),
    ("rapl must be off", 0x00a, &[0x83], Verdict::Invalid, &["rapl"]),
    ("ciphertext hiding needed", 0x00b, &[0x01], Verdict::Invalid, &["ciphertext-hiding"]),
    ("vmpl 2", 0x030, &[2], Verdict::Invalid, &["vmpl"]),
    ("vmpl 5", 0x030, &[5], Verdict::Invalid, &["report-format"]),
    ("signature algorithm 2", 0x034, &[2], Verdict::Invalid, &["report-format"]),
    ("newer microcode runs", 0x03f, &[72], Verdict::Warning, &["provisional-firmware"]),
    ("newer fmc runs", 0x038, &[4], Verdict::Warning, &["provisional-firmware"]),
    (
        "older microcode runs",
        0x03f,
        &[70],
        Verdict::Invalid,
        &["committed-tcb", "reported-tcb", "provisional-firmware", "launch-tcb"],
    ),
    ("aliases unchecked", 0x040, &[0x01], Verdict::Warning, &["memory-aliases"]),
    ("author key without digests", 0x048, &[1], Verdict::Invalid, &["author-key"]),
    ("chip key masked", 0x048, &[2], Verdict::Invalid, &["chip-key"]),
    ("signed by a VLEK", 0x048, &[4], Verdict::Invalid, &["signing-key"]),
    ("signed by no key", 0x048, &[0x1c], Verdict::Invalid, &["report-format"]),
    ("key_info bit 5", 0x048, &[0x20], Verdict::Invalid, &["reserved-fields"]),
    ("0x04c", 0x04c, &[1], Verdict::Invalid, &["reserved-fields"]),
    ("report_data", 0x050, &[0], Verdict::Invalid, &["report-data"]),
    ("report_data's last byte", 0x08f, &[0], Verdict::Invalid, &["report-data"]),
    ("measurement", 0x090, &[0], Verdict::Invalid, &["measurement"]),
    ("measurement's last byte", 0x0bf, &[1], Verdict::Invalid, &["measurement"]),
    ("host_data", 0x0c0, &[0], Verdict::Invalid, &["host-data"]),
    ("host_data's last byte", 0x0df, &[0], Verdict::Invalid, &["host-data"]),
    ("id_key_digest", 0x0e0, &[1], Verdict::Invalid, &["id-key-digest"]),
    ("author_key_digest", 0x110, &[1], Verdict::Invalid, &["author-key-digest", "author-key"]),
    ("report_id_ma", 0x160, &[0], Verdict::Invalid, &["migration-agent-id"]),
    ("reported fmc", 0x180, &[2], Verdict::Invalid, &["tcb-fmc", "minimum-tcb"]),
    ("reported boot loader", 0x181, &[0], Verdict::Invalid, &["tcb-boot-loader", "minimum-tcb"]),
    ("reported tee", 0x182, &[1], Verdict::Invalid, &["tcb-tee", "minimum-tcb"]),
    ("reported snp", 0x183, &[6], Verdict::Invalid, &["tcb-snp", "minimum-tcb"]),
    ("reported reserved", 0x184, &[1], Verdict::Invalid, &["reserved-fields"]),
    ("reported microcode", 0x187, &[70], Verdict::Invalid, &["tcb-microcode", "minimum-tcb"]),
    ("cpu of Milan", 0x188, &[0x19, 0x01], Verdict::Invalid, AS_MILAN),
    ("cpu of nobody", 0x188, &[0x1b], Verdict::Invalid, &["report-format"]),
    ("chip_id", 0x1a0, &[0], Verdict::Invalid, &["chip-id"]),
    ("chip_id behind 8 bytes", 0x1a8, &[1], Verdict::Invalid, &["chip-id"]),
    ("chip_id masked", 0x1a0, &[0; 64], Verdict::Affirming, &[]),
    ("committed above current", 0x1e7, &[72], Verdict::Invalid, &["committed-tcb", "provisional-firmware"]),
    ("committed below reported", 0x1e7, &[70], Verdict::Warning, &["provisional-firmware"]),
    ("firmware below committed", 0x1e8, &[39], Verdict::Invalid, &["committed-tcb", "provisional-firmware"]),
    ("firmware above committed", 0x1e9, &[59], Verdict::Warning, &["provisional-firmware"]),
    ("launch on older microcode", 0x1f7, &[70], Verdict::Invalid, &["launch-tcb", "minimum-launch-tcb"]),
    ("launch on newer microcode", 0x1f7, &[72], Verdict::Warning, &["launch-tcb"]),
    ("launch mitigations", 0x1f8, &[3], Verdict::Affirming, &[]),
    ("0x208", 0x208, &[1], Verdict::Invalid, &["reserved-fields"]),
    ("0x29f", 0x29f, &[1], Verdict::Invalid, &["reserved-fields"]),
    ("behind the signature", 0x330, &[1], Verdict::Invalid, &["reserved-fields"]),
];

/// Turin's bytes in Milan's layout: boot loader 3, tee 1, snp 0, and Turin's tee and snp where Milan has nothing.
const AS_MILAN: &[&str] = &[
    "generation",
    "reserved-fields",
    "tcb-boot-loader",
    "tcb-tee",
    "tcb-snp",
    "tcb-fmc",
    "minimum-tcb",
    "minimum-launch-tcb",
];

fn reports() -> Vec<Case> {
    let case = |(name, offset, bytes, verdict, reasons): &Change| {
        let evidence = synthetic::evidence(|report| {
            report[*offset..*offset + bytes.len()].copy_from_slice(bytes);
        });
        judged(name, &evidence, but(*verdict, reasons))
    };
    REPORTS.iter().map(case).collect()
}

/// A report that a VLEK signed, and what it is judged with.
fn vlek_evidence(vek: &Recipe, authorities: Vec<Certificate>, key_info: u8) -> Evidence {
    let mut report = synthetic::report();
    report[0x048] = key_info;
    sign_report(&mut report, &key(5));
    Evidence { report, vek: certificate(vek), authorities, revocation: Vec::new() }
}

fn vleks() -> Vec<Case> {
    let above = || vec![certificate(&asvk()), certificate(&ark())];
    let vlek = vlek();
    let by_ask = Recipe { issuer: "SEV-Sim".to_owned(), signer: key(2), ..vlek.clone() };
    let vcek_by_asvk = Recipe { issuer: "SEV-VLEK-Sim".to_owned(), signer: key(3), ..vcek() };
    let with_chip = vlek.clone().with("4", &synthetic::CHIP);
    let asks = || vec![certificate(&ask()), certificate(&ark())];
    let mut masked = vlek_evidence(&vlek, above(), 0x06);
    masked.report[0x1a0..0x1e0].fill(0);
    sign_report(&mut masked.report, &key(5));
    let by_vcek =
        Evidence { authorities: above(), vek: certificate(&vcek_by_asvk), ..synthetic::evidence(|_| ()) };
    vec![
        judged("a VLEK", &vlek_evidence(&vlek, above(), 4), but(Verdict::Affirming, &[])),
        judged("a VLEK on a chip whose key and id are masked", &masked, but(Verdict::Affirming, &[])),
        judged(
            "a VLEK's report that names a VCEK",
            &vlek_evidence(&vlek, above(), 0),
            invalid(&["signing-key"]),
        ),
        judged("a VLEK under the ASK", &vlek_evidence(&vlek, asks(), 4), invalid(&["vek-issuer"])),
        judged("a VLEK that an ASK issued", &vlek_evidence(&by_ask, asks(), 4), invalid(&["vek-kind"])),
        judged("a VCEK that an ASVK issued", &by_vcek, invalid(&["vek-kind"])),
        judged("a VLEK that names a chip", &vlek_evidence(&with_chip, above(), 4), invalid(&["vek-format"])),
    ]
}

fn certificates() -> Vec<Case> {
    let format = &["vek-format"][..];
    let critical = ("1.2.3.4".to_owned(), true, vec![5, 0]);
    let mut with_critical = vcek();
    with_critical.extensions.push(critical);
    let changed: Vec<(&str, Recipe, &[&str])> = vec![
        ("VCEK without product", vcek().without("2"), format),
        ("VCEK without fmc", vcek().without("3.9"), format),
        ("VCEK without boot loader", vcek().without("3.1"), format),
        ("VCEK without tee", vcek().without("3.2"), format),
        ("VCEK without snp", vcek().without("3.3"), format),
        ("VCEK without microcode", vcek().without("3.8"), format),
        ("VCEK without hardware id", vcek().without("4"), format),
        ("VCEK with a hardware id of 7 bytes", vcek().with("4", &synthetic::CHIP[..7]), format),
        ("VCEK of another chip", vcek().with("4", &[7; 8]), &["chip-id"]),
        ("VCEK with a chip id of 64 bytes", vcek().with("4", &[7; 64]), &["chip-id"]),
        ("VCEK with a wrapped hardware id", vcek().with("4", &tlv(4, &synthetic::CHIP)), &[]),
        ("VCEK of Milan", vcek().with("2", &tlv(0x16, b"Milan-B0")), &["generation", "tcb-fmc"]),
        ("VCEK of Genoa", vcek().with("2", &tlv(0x16, b"Genoa")), &["generation", "tcb-fmc"]),
        ("VCEK of an unknown product", vcek().with("2", &tlv(0x16, b"Venice")), format),
        ("VCEK with a product in UTF-8", vcek().with("2", &tlv(0x0c, b"Turin")), format),
        ("VCEK of another fmc", vcek().with("3.9", &[2, 1, 4]), &["tcb-fmc"]),
        ("VCEK of another boot loader", vcek().with("3.1", &[2, 1, 2]), &["tcb-boot-loader"]),
        ("VCEK of another tee", vcek().with("3.2", &[2, 1, 3]), &["tcb-tee"]),
        ("VCEK of another snp", vcek().with("3.3", &[2, 1, 8]), &["tcb-snp"]),
        ("VCEK of another microcode", vcek().with("3.8", &[2, 1, 70]), &["tcb-microcode"]),
        ("VCEK with a microcode of 256", vcek().with("3.8", &[2, 2, 1, 0]), format),
        ("VCEK with a negative microcode", vcek().with("3.8", &[2, 1, 0x80]), format),
        ("VCEK with bytes behind the microcode", vcek().with("3.8", &[2, 1, 71, 0]), format),
        (
            "VCEK that begins tomorrow",
            Recipe { dates: ["261122000000Z", "320101000000Z"], ..vcek() },
            &["vek-validity"],
        ),
        (
            "VCEK that ended yesterday",
            Recipe { dates: ["250101000000Z", "261120000000Z"], ..vcek() },
            &["vek-validity"],
        ),
        ("VCEK of another name", Recipe { subject: "SEV-XCEK".to_owned(), ..vcek() }, format),
        ("VCEK with another key", Recipe { key: key(9), ..vcek() }, &["report-signature"]),
        ("VCEK that the ARK's key signed", Recipe { signer: key(1), ..vcek() }, &["vek-issuer"]),
        ("VCEK that nobody's key signed", Recipe { signer: key(9), ..vcek() }, &["vek-issuer"]),
        ("VCEK that signed itself", Recipe { signer: key(4), ..vcek() }, &["vek-issuer"]),
        ("VCEK of another issuer", Recipe { issuer: "SEV-Milan".to_owned(), ..vcek() }, &["vek-issuer"]),
        ("VCEK with something critical", with_critical, &["vek-issuer"]),
        (
            "VCEK with two algorithms",
            Recipe { outer_algorithm: "1.2.840.10045.4.3.2", ..vcek() },
            &["vek-issuer"],
        ),
    ];
    let case = |(name, recipe, reasons): (&str, Recipe, &[&'static str])| {
        let evidence = Evidence { vek: certificate(&recipe), ..synthetic::evidence(|_| ()) };
        let verdict = if reasons.is_empty() { Verdict::Affirming } else { Verdict::Invalid };
        judged(name, &evidence, but(verdict, reasons))
    };
    changed.into_iter().map(case).collect()
}

fn chains() -> Vec<Case> {
    let with = |authorities: Vec<Recipe>| Evidence {
        authorities: authorities.iter().map(certificate).collect(),
        ..synthetic::evidence(|_| ())
    };
    let mut no_ca = ask();
    no_ca.extensions[0].2 = tlv(0x30, &[]);
    let mut no_constraints = ask();
    no_constraints.extensions.remove(0);
    let mut no_signing = ask();
    no_signing.extensions[1].2 = vec![0x03, 0x02, 0x07, 0x80];
    let expired = Recipe { dates: ["200101000000Z", "260101000000Z"], ..ask() };
    let early = Recipe { dates: ["270101000000Z", "450101000000Z"], ..ask() };
    let other_root = Recipe { key: key(9), signer: key(9), ..ark() };
    let under_other = Recipe { signer: key(9), ..ask() };
    let old_root = Recipe { dates: ["200101000000Z", "260101000000Z"], ..ark() };
    // Below a root that nobody trusts no intermediate is known either.
    let short = &["intermediate-issuer", "revocation", "root-of-trust"][..];
    let invalid_sets: Vec<(&str, Vec<Recipe>, &[&str])> = vec![
        ("ASK that is no authority", vec![no_ca, ark()], &["vek-issuer"]),
        ("ASK without constraints", vec![no_constraints, ark()], &["vek-issuer"]),
        ("ASK that may not sign certificates", vec![no_signing, ark()], &["vek-issuer"]),
        ("ASK that ended", vec![expired, ark()], &["intermediate-validity"]),
        ("ASK that has not begun", vec![early, ark()], &["intermediate-validity"]),
        ("ASK with another key", vec![Recipe { key: key(9), ..ask() }, ark()], &["vek-issuer"]),
        ("ASK that another key signed", vec![under_other.clone(), ark()], &["intermediate-issuer"]),
        ("a root of the same name", vec![ask(), other_root.clone()], short),
        (
            "a whole chain under a root of the same name",
            vec![under_other, other_root],
            &["revocation", "root-of-trust"],
        ),
        (
            "the same root with other dates",
            vec![ask(), old_root],
            &["root-validity", "revocation", "root-of-trust"],
        ),
        ("the ASVK in place of the ASK", vec![asvk(), ark()], &["vek-issuer"]),
        ("the ARK alone", vec![ark()], &["vek-issuer"]),
    ];
    let mut cases: Vec<Case> = invalid_sets
        .into_iter()
        .map(|(name, set, reasons)| judged(name, &with(set), invalid(reasons)))
        .collect();
    cases.push(judged("the ASK alone, its root is known", &with(vec![ask()]), but(Verdict::Affirming, &[])));
    let expected = expectations(&synthetic::report());
    cases.push(Case {
        name: "simulated: a root that nobody configured".to_owned(),
        seen: Ok(appraise(&synthetic::evidence(|_| ()), &expected, &TrustedRoots::amd(), time(NOW))),
        expected: invalid(&["revocation", "root-of-trust"]),
    });
    cases
}

#[test]
fn a_simulated_root_is_named_in_verdict_and_claims() {
    let seen = synthetic::judge(&synthetic::evidence(|_| ()), &expectations(&synthetic::report()), NOW);
    let root = seen.checks().iter().find(|check| check.name == "root-of-trust").expect("the check");
    assert!(root.found.contains("SIMULATED"), "{}", root.found);
    assert_eq!(seen.claims()["simulated"], true);
}

#[test]
fn a_masked_chip_id_is_named_and_not_taken_for_a_match() {
    let evidence = synthetic::evidence(|report| report[0x1a0..0x1e0].fill(0));
    let seen = synthetic::judge(&evidence, &expectations(&synthetic::report()), NOW);
    let chip = seen.checks().iter().find(|check| check.name == "chip-id").expect("the check");
    assert_eq!(chip.result, coffer_attestation::verdict::Outcome::NotChecked);
    assert!(chip.found.contains("masks its chip id"), "{}", chip.found);
}
