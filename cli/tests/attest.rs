//! `coffer attest verify`, run as an operator runs it.

use std::process::{Command, Output};

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../attestation/testdata/snp");
const AT: &str = "2026-11-21T12:00:00Z";

fn verify(arguments: &[&str]) -> Output {
    let arguments = arguments.iter().map(|argument| argument.replace("DATA", DATA));
    let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
    command.args(["attest", "verify"]).args(arguments).output().expect("coffer runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const TURIN: [&str; 8] = [
    "--tee",
    "snp",
    "--report",
    "DATA/turin-v5-oak/report.bin",
    "--vek",
    "DATA/turin-v5-oak/vcek.der",
    "--at",
    AT,
];

#[test]
fn genuine_evidence_ends_with_exit_code_0() {
    let output = verify(&TURIN);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    assert!(stdout(&output).starts_with("verdict: affirming"), "{}", stdout(&output));
}

#[test]
fn a_warning_ends_with_exit_code_0() {
    let milan = [
        "--tee",
        "snp",
        "--report",
        "DATA/milan-v2-trustee/report.bin",
        "--vek",
        "DATA/milan-v2-trustee/vcek.der",
        "--at",
        AT,
    ];
    let output = verify(&milan);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("why it is warning:\n  provisional-firmware"), "{}", stdout(&output));
    assert!(stdout(&output).contains("\n  memory-aliases warned"), "{}", stdout(&output));
}

#[test]
fn evidence_with_another_chips_key_ends_with_exit_code_3() {
    let mixed = [
        "--tee",
        "snp",
        "--report",
        "DATA/milan-v3-oak/report.bin",
        "--vek",
        "DATA/milan-v2-trustee/vcek.der",
        "--at",
        AT,
    ];
    let output = verify(&mixed);
    assert_eq!(output.status.code(), Some(3));
    assert!(stdout(&output).starts_with("verdict: invalid"), "{}", stdout(&output));
}

#[test]
fn a_verdict_is_one_json_document() {
    let output = verify(&[&TURIN[..], &["--json"]].concat());
    let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&verdict["verdict"], &verdict["claims"]["tee"]), (&"affirming".into(), &"snp".into()));
    assert_eq!(verdict["checks"][0]["name"], "report-format");
}

#[test]
fn evidence_of_confidential_containers_is_read() {
    let output =
        verify(&["--tee", "snp", "--evidence", "DATA/genoa-v3-trustee/coco-evidence.json", "--at", AT]);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn authorities_of_another_generation_are_not_replaced_by_the_built_in_ones() {
    let output = verify(&[&TURIN[..], &["--ca", "DATA/ca/genoa_ask_ark_asvk.pem"]].concat());
    assert_eq!(output.status.code(), Some(3));
    assert!(stdout(&output).contains("vek-issuer failed"), "{}", stdout(&output));
}

#[test]
fn another_measurement_than_expected_is_named() {
    let zeros = "00".repeat(48);
    let output = verify(&[&TURIN[..], &["--measurement", &zeros]].concat());
    assert_eq!(output.status.code(), Some(3));
    let found = "found     f924dd18f168df60fbea937f0b086284d51b1b376de872bac43694f61134d57967c318018de7335503023dbb50dee624";
    assert!(stdout(&output).contains(found), "{}", stdout(&output));
}

#[test]
fn a_minimum_above_the_reported_firmware_is_refused() {
    let output =
        verify(&[&TURIN[..], &["--min-tcb", "fmc=0,boot_loader=1,tee=0,snp=3,microcode=71"]].concat());
    assert!(stdout(&output).contains("minimum-tcb failed"), "{}", stdout(&output));
}

#[test]
fn a_report_that_is_cut_short_is_invalid() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("report.bin");
    std::fs::write(&path, [0; 1183]).expect("a file");
    let report = path.to_str().expect("a path");
    let output =
        verify(&["--tee", "snp", "--report", report, "--vek", "DATA/turin-v5-oak/vcek.der", "--at", AT]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stdout(&output).contains("an SNP report has 1184 bytes, these are 1183"), "{}", stdout(&output));
}

#[test]
fn a_file_that_is_not_there_is_an_error_and_no_verdict() {
    let output =
        verify(&["--tee", "snp", "--report", "DATA/none", "--vek", "DATA/turin-v5-oak/vcek.der", "--at", AT]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), String::new()));
    assert!(stderr(&output).contains("reading an attestation report from"), "{}", stderr(&output));
}

#[test]
fn a_report_in_the_certificates_place_is_an_error_that_says_what_to_give() {
    let report = "DATA/turin-v5-oak/report.bin";
    let output = verify(&["--tee", "snp", "--report", report, "--vek", report, "--at", AT]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("should be a VCEK or VLEK certificate: give a certificate in PEM or DER")
    );
}

#[test]
fn report_data_of_48_bytes_is_not_padded() {
    let output = verify(&[&TURIN[..], &["--report-data", &"00".repeat(48)]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("it has 48 bytes, 64 are needed"), "{}", stderr(&output));
}

/// Refused for its options before it is read.
const AZURE: &str = "DATA/none";

#[test]
fn report_data_of_an_azure_machine_is_pointed_to_the_quote() {
    let data = "00".repeat(64);
    let output = verify(&["--tee", "az-snp-vtpm", "--evidence", AZURE, "--report-data", &data, "--at", AT]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("use --quote-data"), "{}", stderr(&output));
}

/// What is said of options beside `start`; none of these may end in a verdict.
fn refused(start: &[&str], options: &[&[&str]], kind: &str) {
    for option in options {
        let output = verify(&[start, option].concat());
        assert_eq!((output.status.code(), stdout(&output)), (Some(1), String::new()), "{option:?}");
        let named = format!("{} has no meaning for evidence of --tee {kind}", option[0]);
        assert!(stderr(&output).contains(&named), "{}", stderr(&output));
    }
}

#[test]
fn an_expectation_of_another_kind_of_evidence_is_refused_by_its_name() {
    let (digest, value) = ("00".repeat(48), format!("0={}", "00".repeat(32)));
    let of_snp: [&[&str]; 4] = [
        &["--measurement", &digest],
        &["--host-data", &digest[..64]],
        &["--min-tcb", "boot_loader=1,tee=0,snp=3,microcode=71"],
        &["--crl", "DATA/none"],
    ];
    let of_vtpm: [&[&str]; 2] = [&["--quote-data", "00"], &["--pcr", &value]];
    let of_tdx: [&[&str]; 3] =
        [&["--mr-td", &digest], &["--collateral", "DATA/none"], &["--tcb-evaluation", "17"]];
    refused(&TURIN, &[&of_vtpm[..], &of_tdx].concat(), "snp");
    let tdx = ["--tee", "tdx", "--quote", "DATA/../tdx/quote5-tdx15/quote.bin", "--at", AT];
    refused(&tdx, &[&of_snp[..], &of_vtpm].concat(), "tdx");
    let azure = ["--tee", "az-snp-vtpm", "--evidence", AZURE, "--at", AT];
    let inside: [&[&str]; 3] = [&["--vmpl", "0"], &["--vek", "DATA/none"], &["--report", "DATA/none"]];
    refused(&azure, &[&of_tdx[..], &inside].concat(), "az-snp-vtpm");
    let azure = ["--tee", "az-tdx-vtpm", "--evidence", AZURE, "--at", AT];
    let inside: [&[&str]; 2] = [&["--quote", "DATA/none"], &["--ccel", "DATA/none"]];
    refused(&azure, &[&of_snp[..], &inside].concat(), "az-tdx-vtpm");
}

#[test]
fn a_key_beside_evidence_that_carries_one_is_refused() {
    let evidence = ["--tee", "snp", "--evidence", "DATA/genoa-v3-trustee/coco-evidence.json", "--at", AT];
    let output = verify(&[&evidence[..], &["--vek", "DATA/genoa-v3-trustee/vcek.der"]].concat());
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), String::new()));
    assert!(stderr(&output).contains("leave the other VCEK or VLEK out"), "{}", stderr(&output));
}

#[test]
fn a_minimum_without_fmc_is_no_minimum_for_a_processor_that_has_one() {
    let output = verify(&[&TURIN[..], &["--min-tcb", "boot_loader=1,tee=0,snp=2,microcode=71"]].concat());
    assert_eq!(output.status.code(), Some(3));
    assert!(stdout(&output).contains("minimum-tcb failed"), "{}", stdout(&output));
}

#[test]
fn what_the_images_owner_named_is_compared() {
    let zeros = "00".repeat(16);
    let right = ["--min-guest-svn", "0", "--family-id", &zeros, "--image-id", &zeros];
    assert_eq!(verify(&[&TURIN[..], &right].concat()).status.code(), Some(0));
    let wrong: [(&[&str], &str); 4] = [
        (&["--min-guest-svn", "4294967295"], "guest-svn failed"),
        (&["--family-id", "01010101010101010101010101010101"], "family-id failed"),
        (&["--image-id", "01010101010101010101010101010101"], "image-id failed"),
        (&["--cloud-provider", "somecloud"], "cloud-provider failed"),
    ];
    for (option, reason) in wrong {
        let output = verify(&[&TURIN[..], option].concat());
        assert_eq!(output.status.code(), Some(3), "{option:?}");
        assert!(stdout(&output).contains(reason), "{}", stdout(&output));
    }
}
