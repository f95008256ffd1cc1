//! `coffer attest verify --tee tdx`, run as an operator runs it.

use std::process::{Command, Output};

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../attestation/testdata/tdx");
const UP_TO_DATE: &[&str] = &[
    "--quote",
    "DATA/quote4-uptodate-phala/quote.bin",
    "--collateral",
    "DATA/quote4-uptodate-phala/collateral.json",
];
const GCP: &[&str] =
    &["--quote", "DATA/quote4-gcp-cos113/quote.bin", "--ccel", "DATA/quote4-gcp-cos113/ccel.bin"];
const IN_TIME: &str = "2025-06-19T11:00:00Z";

fn verify(at: &str, arguments: &[&[&str]]) -> Output {
    let arguments = arguments.concat();
    let arguments = arguments.iter().map(|argument| argument.replace("DATA", DATA));
    let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
    command
        .args(["attest", "verify", "--tee", "tdx", "--at", at])
        .args(arguments)
        .output()
        .expect("coffer runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_platform_that_is_up_to_date_ends_with_exit_code_0() {
    let output = verify(IN_TIME, &[UP_TO_DATE]);
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &[][..]));
    assert!(stdout(&output).starts_with("verdict: affirming"), "{}", stdout(&output));
}

#[test]
fn collateral_that_is_over_ends_with_exit_code_3() {
    let output = verify("2026-11-21T12:00:00Z", &[UP_TO_DATE]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stdout(&output).contains("tcb-info-dates failed"), "{}", stdout(&output));
}

#[test]
fn evidence_without_collateral_ends_with_exit_code_3() {
    let output = verify(IN_TIME, &[GCP]);
    assert_eq!(output.status.code(), Some(3));
    let why = "why it is contraindicated:\n  tcb-status contraindicated\n";
    assert!(stdout(&output).contains(why), "{}", stdout(&output));
}

#[test]
fn a_debug_domain_with_a_log_of_another_machine_is_refused_for_both() {
    let quote = ["--quote", "DATA/quote4-debug/quote.bin", "--ccel", "DATA/quote4-debug/ccel-unrelated.bin"];
    let output = verify(IN_TIME, &[&quote]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stdout(&output).contains("debug contraindicated"), "{}", stdout(&output));
    assert!(stdout(&output).contains("event-log-rtmr0 failed"), "{}", stdout(&output));
}

#[test]
fn a_verdict_is_one_json_document() {
    let output = verify(IN_TIME, &[GCP, &["--json"]]);
    let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&verdict["verdict"], &verdict["claims"]["tee"]), (&"contraindicated".into(), &"tdx".into()));
    assert_eq!(verdict["checks"][0]["name"], "quote-format");
    assert_eq!(verdict["claims"]["event_log"].as_array().map(Vec::len), Some(43));
}

#[test]
fn an_expected_value_is_compared() {
    let mr_td =
        "91eb2b44d141d4ece09f0c75c2c53d247a3c68edd7fafe8a3520c942a604a407de03ae6dc5f87f27428b2538873118b7";
    let right = verify(IN_TIME, &[UP_TO_DATE, &["--mr-td", mr_td, "--tcb-evaluation", "17"]]);
    assert_eq!(right.status.code(), Some(0));
    let wrong = verify(IN_TIME, &[UP_TO_DATE, &["--mr-td", &mr_td.replace('9', "8")]]);
    assert_eq!(wrong.status.code(), Some(3));
    assert!(stdout(&wrong).contains("mr-td failed"), "{}", stdout(&wrong));
}

#[test]
fn expected_attributes_are_compared_bit_by_bit() {
    let right = verify(IN_TIME, &[UP_TO_DATE, &["--td-attributes", "0x10000000", "--json"]]);
    let verdict: serde_json::Value = serde_json::from_slice(&right.stdout).expect("JSON");
    let xfam = verdict["claims"]["report"]["xfam"].as_str().expect("a number").to_owned();
    assert_eq!(verdict["verdict"], "affirming");
    assert_eq!(verify(IN_TIME, &[UP_TO_DATE, &["--xfam", &xfam]]).status.code(), Some(0));
    for (option, name) in [("--td-attributes", "expected-td-attributes"), ("--xfam", "expected-xfam")] {
        let wrong = verify(IN_TIME, &[UP_TO_DATE, &[option, "50000000"]]);
        assert_eq!(wrong.status.code(), Some(3));
        assert!(stdout(&wrong).contains(&format!("{name} failed")), "{}", stdout(&wrong));
    }
}

#[test]
fn a_quote_that_is_missing_is_an_error_and_no_verdict() {
    let output = verify(IN_TIME, &[]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &[][..]));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("give either --quote, or --evidence"), "{message}");
}

#[test]
fn answers_of_intels_service_become_collateral_that_is_affirmed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    let file = std::fs::read(format!("{DATA}/quote4-uptodate-phala/collateral.json")).expect("collateral");
    let file: serde_json::Value = serde_json::from_slice(&file).expect("JSON");
    let text = |field: &str| file[field].as_str().expect("a text").to_owned();
    let save = |name: &str, bytes: &[u8]| std::fs::write(path(name), bytes).expect("a file");
    let answer = |field: &str, name: &str| {
        format!("{{\"{name}\":{},\"signature\":\"{}\"}}", text(field), text(&format!("{field}_signature")))
    };
    save("info", answer("tcb_info", "tcbInfo").as_bytes());
    save("identity", answer("qe_identity", "enclaveIdentity").as_bytes());
    save("crl", &hex::decode(text("pck_crl")).expect("hexadecimal"));
    save("root", &hex::decode(text("root_ca_crl")).expect("hexadecimal"));
    let encoded = text("tcb_info_issuer_chain").replace('+', "%2B").replace(' ', "%20").replace('\n', "%0A");
    save("signers", encoded.as_bytes());
    save("authorities", text("pck_crl_issuer_chain").as_bytes());
    let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
    command.args(["attest", "collateral", "--tcb-info", &path("info"), "--tcb-info-chain", &path("signers")]);
    command.args(["--qe-identity", &path("identity"), "--qe-identity-chain", &path("signers")]);
    command.args(["--pck-crl", &path("crl"), "--pck-crl-chain", &path("authorities")]);
    command.args(["--root-crl", &path("root"), "--output", &path("collateral.json")]);
    let written = command.output().expect("coffer runs");
    assert_eq!((written.status.code(), written.stderr.as_slice()), (Some(0), &[][..]));
    let collateral = path("collateral.json");
    let verified = verify(IN_TIME, &[&UP_TO_DATE[..2], &["--collateral", &collateral]]);
    assert_eq!(verified.status.code(), Some(0), "{}", stdout(&verified));
}
