//! Changes of quotes: bytes of a real one, and fields of a forged one that is signed again.

use coffer_attestation::tdx::{Evidence, Expectations, TrustedRoots, UnverifiedQuote};
use coffer_attestation::verdict::{Appraisal, Verdict};
use serde_json::Value;

use crate::case::{AT, Case};
use crate::forge::Forge;
use crate::forge::pki::key;

const QUOTE: &[u8] = include_bytes!("../../testdata/tdx/quote4-uptodate-phala/quote.bin");
const COLLATERAL: &[u8] = include_bytes!("../../testdata/tdx/quote4-uptodate-phala/collateral.json");
const OTHER_QUOTE: &[u8] = include_bytes!("../../testdata/tdx/quote5-tdx15/quote.bin");

// Offsets in a version 4 quote.
const BODY: usize = 48;
const ATTESTED: usize = 632;
const SIGNATURE: usize = 636;
const KEY: usize = 700;
const CERTIFICATION: usize = 764;
const ENCLAVE: usize = 770;
const ENCLAVE_SIGNATURE: usize = 1154;
const AUTHENTICATION: usize = 1218;
const PCK: usize = 1252;
const PEM: usize = 1258;
const END: usize = 4936;

/// Real evidence.
pub(crate) struct Real {
    pub(crate) quote: Vec<u8>,
    pub(crate) collateral: Value,
}

/// Appraises real evidence after a change, with every value of the report expected as it is.
pub(crate) fn appraise(change: fn(&mut Real)) -> Appraisal {
    let collateral = serde_json::from_slice(COLLATERAL).expect("JSON");
    let mut real = Real { quote: QUOTE.to_vec(), collateral };
    change(&mut real);
    let collateral = real.collateral.to_string().into_bytes();
    let evidence = Evidence { quote: &real.quote, collateral: Some(&collateral), event_log: None };
    let at = AT.parse().expect("a time");
    coffer_attestation::tdx::appraise(&evidence, &as_it_is(), &TrustedRoots::intel(), at)
}

fn as_it_is() -> Expectations {
    let report = UnverifiedQuote::parse(QUOTE).expect("a quote").report;
    Expectations {
        report_data: Some(report.report_data),
        mr_td: Some(report.mr_td),
        rtmr: report.rtmr.map(Some),
        mr_config_id: Some(report.mr_config_id),
        mr_owner: Some(report.mr_owner),
        mr_owner_config: Some(report.mr_owner_config),
        mr_seam: Some(report.mr_seam),
        mr_service_td: Some([0; 48]),
        tcb_evaluation: Some(17),
        td_attributes: Some(report.td_attributes.0),
        xfam: Some(report.xfam.0),
    }
}

/// Fails unless the real evidence is affirmed when nothing is changed.
pub(crate) fn assert_affirmed() {
    let appraisal = appraise(|_| ());
    assert_eq!(appraisal.verdict(), Verdict::Affirming, "{:#?}", appraisal.reasons().collect::<Vec<_>>());
}

impl Real {
    fn flip(&mut self, at: usize) {
        self.quote[at] ^= 1;
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.quote[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Replaces the PEM text and corrects the three lengths around it.
    fn put_chain(&mut self, chain: &str) {
        let padding = self.quote.split_off(END);
        self.quote.truncate(PEM);
        self.quote.extend(chain.as_bytes());
        let length = |from: usize, to: usize| ((to - from) as u32).to_le_bytes();
        let end = self.quote.len();
        self.put(PCK + 2, &length(PEM, end));
        self.put(CERTIFICATION + 2, &length(ENCLAVE, end));
        self.put(ATTESTED, &length(SIGNATURE, end));
        self.quote.extend(padding);
    }

    fn chain(&self) -> Vec<String> {
        certificates(&self.quote[PEM..END])
    }

    /// Flips a bit of certificate `index`, counted from its end.
    fn flip_certificate(&mut self, index: usize, from_end: usize) {
        let mut chain = self.chain();
        chain[index] = flipped(&chain[index], from_end);
        self.put_chain(&chain.concat());
    }
}

/// The blocks of a PEM text.
pub(crate) fn certificates(pem: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(pem).replace('\0', "");
    text.split_inclusive("-----END CERTIFICATE-----\n").map(str::to_owned).collect()
}

/// A PEM block with one bit of its DER flipped, `from_end` bytes before its end.
pub(crate) fn flipped(pem: &str, from_end: usize) -> String {
    let (label, mut bytes) = der::pem::decode_vec(pem.as_bytes()).expect("PEM");
    let at = bytes.len() - from_end;
    bytes[at] ^= 1;
    der::pem::encode_string(label, der::pem::LineEnding::LF, &bytes).expect("PEM")
}

/// Flips a bit in every seventh byte before the certificates, one after the other.
pub(crate) fn every_byte_counts() {
    let at = AT.parse().expect("a time");
    for byte in (0..PEM).step_by(7) {
        let mut quote = QUOTE.to_vec();
        quote[byte] ^= 1 << (byte % 8);
        let evidence = Evidence { quote: &quote, collateral: Some(COLLATERAL), event_log: None };
        let expected = Expectations::default();
        let appraisal = coffer_attestation::tdx::appraise(&evidence, &expected, &TrustedRoots::intel(), at);
        assert_eq!(appraisal.verdict(), Verdict::Invalid, "byte {byte}");
    }
}

macro_rules! case {
    ($what:literal, $change:expr, [$($reason:literal),* $(,)?]) => {
        Case { what: $what, change: $change, reasons: &[$($reason),*] }
    };
}
pub(crate) use case;

pub(crate) static REAL: &[Case<Real>] = &[
    case!("version 6", |real| real.put(0, &[6]), ["quote-format"]),
    case!("version 5 for the layout of 4", |real| real.put(0, &[5]), ["quote-format"]),
    case!("key type 3", |real| real.put(2, &[3]), ["quote-format"]),
    case!("TEE type of SGX", |real| real.put(4, &[0]), ["quote-format"]),
    case!("a reserved byte of the header", |real| real.flip(8), ["quote-signature"]),
    case!("another vendor", |real| real.flip(12), ["quote-format"]),
    case!("the quoting enclave's user data", |real| real.flip(28), ["quote-signature"]),
    case!("the end of the user data", |real| real.flip(47), ["quote-signature"]),
    case!("TEE TCB SVN of the module", |real| real.flip(BODY), ["quote-signature"]),
    case!("mr_seam", |real| real.flip(BODY + 16), ["quote-signature", "mr-seam"]),
    case!("mr_signer_seam", |real| real.flip(BODY + 64), ["quote-signature", "tdx-module-signer"]),
    case!(
        "seam_attributes",
        |real| real.flip(BODY + 112),
        ["quote-signature", "seam-attributes", "tdx-module-attributes"]
    ),
    case!(
        "td_attributes: DEBUG",
        |real| real.flip(BODY + 120),
        ["quote-signature", "debug", "expected-td-attributes"]
    ),
    case!(
        "td_attributes: reserved",
        |real| real.flip(BODY + 125),
        ["quote-signature", "td-attributes", "expected-td-attributes"]
    ),
    case!("xfam", |real| real.flip(BODY + 128), ["quote-signature", "xfam", "expected-xfam"]),
    case!("mr_td", |real| real.flip(BODY + 136), ["quote-signature", "mr-td"]),
    case!("mr_config_id", |real| real.flip(BODY + 184), ["quote-signature", "mr-config-id"]),
    case!("mr_owner", |real| real.flip(BODY + 232), ["quote-signature", "mr-owner"]),
    case!("mr_owner_config", |real| real.flip(BODY + 280), ["quote-signature", "mr-owner-config"]),
    case!("rtmr0", |real| real.flip(BODY + 328), ["quote-signature", "rtmr0"]),
    case!("rtmr1", |real| real.flip(BODY + 376), ["quote-signature", "rtmr1"]),
    case!("rtmr2", |real| real.flip(BODY + 424), ["quote-signature", "rtmr2"]),
    case!("rtmr3", |real| real.flip(BODY + 472), ["quote-signature", "rtmr3"]),
    case!("report_data", |real| real.flip(BODY + 520), ["quote-signature", "report-data"]),
    case!("the last byte of report_data", |real| real.flip(BODY + 583), ["quote-signature", "report-data"]),
    case!(
        "signature data one byte shorter",
        |real| real.put(ATTESTED, &4299_u32.to_le_bytes()),
        ["quote-format"]
    ),
    case!(
        "signature data one byte longer",
        |real| real.put(ATTESTED, &4301_u32.to_le_bytes()),
        ["quote-format"]
    ),
    case!("signature data beyond the end", |real| real.put(ATTESTED, &[255; 4]), ["quote-format"]),
    case!("R of the quote's signature", |real| real.flip(SIGNATURE), ["quote-signature"]),
    case!("S of the quote's signature", |real| real.flip(SIGNATURE + 63), ["quote-signature"]),
    case!("no quote signature", |real| real.put(SIGNATURE, &[0; 64]), ["quote-signature"]),
    case!("X of the attestation key", |real| real.flip(KEY), ["attestation-key-binding", "attestation-key"]),
    case!(
        "Y of the attestation key",
        |real| real.flip(KEY + 63),
        ["attestation-key-binding", "attestation-key"]
    ),
    case!("certification type 5", |real| real.put(CERTIFICATION, &[5]), ["quote-format"]),
    case!(
        "certification data one byte longer",
        |real| real.put(CERTIFICATION + 2, &4167_u32.to_le_bytes()),
        ["quote-format"]
    ),
    case!(
        "certification data one byte shorter",
        |real| real.put(CERTIFICATION + 2, &4165_u32.to_le_bytes()),
        ["quote-format"]
    ),
    case!("QE: cpu_svn", |real| real.flip(ENCLAVE), ["qe-report-signature"]),
    case!("QE: misc_select", |real| real.flip(ENCLAVE + 16), ["qe-report-signature", "qe-identity"]),
    case!("QE: reserved after misc_select", |real| real.flip(ENCLAVE + 20), ["qe-report-signature"]),
    case!("QE: attributes", |real| real.flip(ENCLAVE + 48), ["qe-report-signature", "qe-identity"]),
    case!("QE: mr_enclave", |real| real.flip(ENCLAVE + 64), ["qe-report-signature"]),
    case!("QE: mr_signer", |real| real.flip(ENCLAVE + 128), ["qe-report-signature", "qe-identity"]),
    case!("QE: isv_prod_id", |real| real.flip(ENCLAVE + 256), ["qe-report-signature", "qe-identity"]),
    case!(
        "QE: isv_svn 3",
        |real| real.put(ENCLAVE + 258, &[3]),
        ["qe-report-signature", "qe-tcb", "tcb-status"]
    ),
    case!(
        "QE: report data",
        |real| real.flip(ENCLAVE + 320),
        ["qe-report-signature", "attestation-key-binding"]
    ),
    case!(
        "QE: end of report data",
        |real| real.flip(ENCLAVE + 383),
        ["qe-report-signature", "attestation-key-binding"]
    ),
    case!("R of the enclave's signature", |real| real.flip(ENCLAVE_SIGNATURE), ["qe-report-signature"]),
    case!("S of the enclave's signature", |real| real.flip(ENCLAVE_SIGNATURE + 63), ["qe-report-signature"]),
    case!("one byte of authentication data more", |real| real.put(AUTHENTICATION, &[33]), ["quote-format"]),
    case!("authentication data", |real| real.flip(AUTHENTICATION + 2), ["attestation-key-binding"]),
    case!("the end of the authentication data", |real| real.flip(PCK - 1), ["attestation-key-binding"]),
    case!("certification type 4 inside", |real| real.put(PCK, &[4]), ["quote-format"]),
    case!("chain one byte shorter", |real| real.put(PCK + 2, &3677_u32.to_le_bytes()), ["quote-format"]),
    case!("chain one byte longer", |real| real.put(PCK + 2, &3679_u32.to_le_bytes()), ["quote-format"]),
    case!("a byte of padding", |real| real.flip(END), ["quote-format"]),
    case!("a byte after the padding", |real| real.quote.push(1), ["quote-format"]),
    case!("the last byte of the chain missing", |real| real.quote.truncate(END - 1), ["quote-format"]),
    case!("half a quote", |real| real.quote.truncate(BODY + 292), ["quote-format"]),
    case!("nothing at all", |real| real.quote.clear(), ["quote-format"]),
    case!("64 KiB of zeros behind it", |real| real.quote.resize(65537, 0), ["quote-format"]),
    case!(
        "the PCK's signature",
        |real| real.flip_certificate(0, 1),
        ["pck-issuer", "qe-report-signature", "tcb-status"]
    ),
    case!(
        "the PCK's platform",
        |real| real.flip_certificate(0, 100),
        ["pck-issuer", "qe-report-signature", "tcb-status"]
    ),
    case!(
        "the CA's signature",
        |real| real.flip_certificate(1, 1),
        ["pck-ca-issuer", "qe-report-signature", "tcb-status"]
    ),
    case!(
        "the root's signature",
        |real| real.flip_certificate(2, 1),
        ["pck-root", "qe-report-signature", "tcb-status"]
    ),
    case!(
        "the chain without its root",
        |real| real.put_chain(&real.chain()[..2].concat()),
        ["pck-chain", "qe-report-signature", "tcb-status"]
    ),
    case!(
        "the root twice",
        |real| real.put_chain(&[real.chain().concat(), real.chain()[2].clone()].concat()),
        ["pck-chain", "qe-report-signature", "tcb-status"]
    ),
    case!(
        "no PEM",
        |real| real.put_chain("no certificate at all"),
        ["pck-chain", "qe-report-signature", "tcb-status"]
    ),
    case!(
        "CA before PCK",
        |real| {
            let chain = real.chain();
            real.put_chain(&[chain[1].as_str(), &chain[0], &chain[2]].concat());
        },
        ["pck-ca-issuer", "pck-ca-name", "pck-issuer", "pck-name", "qe-report-signature", "tcb-status"]
    ),
    case!(
        "PCK of another machine",
        |real| {
            let other = certificates(&OTHER_QUOTE[1328..]);
            real.put_chain(&[other[0].as_str(), &real.chain()[1], &real.chain()[2]].concat());
        },
        ["qe-report-signature", "fmspc", "platform-tcb", "tcb-status"]
    ),
];

pub(crate) static FORGED: &[Case<Forge>] = &[
    case!("DEBUG", |forge| forge.quote.field("td_attributes")[0] |= 1, ["debug"]),
    case!("HGS_PLUS_PROF", |forge| forge.quote.field("td_attributes")[0] |= 1 << 4, ["profiling"]),
    case!("PERF_PROF", |forge| forge.quote.field("td_attributes")[0] |= 1 << 5, ["profiling"]),
    case!(
        "a reserved bit under debug",
        |forge| forge.quote.field("td_attributes")[0] |= 1 << 1,
        ["profiling"]
    ),
    case!(
        "a reserved security attribute",
        |forge| forge.quote.field("td_attributes")[1] |= 1,
        ["td-attributes"]
    ),
    case!(
        "another reserved attribute",
        |forge| forge.quote.field("td_attributes")[5] |= 1,
        ["td-attributes"]
    ),
    case!("no SSE", |forge| forge.quote.field("xfam")[0] &= !2, ["xfam"]),
    case!("MPX, which no domain can have", |forge| forge.quote.field("xfam")[0] |= 8, ["xfam"]),
    case!("features that nobody knows", |forge| forge.quote.field("xfam")[7] |= 0x80, ["xfam"]),
    case!(
        "a TDX module with attributes",
        |forge| forge.quote.field("seam_attributes")[0] = 1,
        ["seam-attributes", "tdx-module-attributes"]
    ),
    case!(
        "a TDX module of another signer",
        |forge| forge.quote.field("mr_signer_seam").fill(7),
        ["tdx-module-signer"]
    ),
    case!(
        "version 5 with a body of an enclave",
        |forge| {
            forge.quote.version = 5;
            forge.quote.body_header = (1, 384);
        },
        ["quote-format"]
    ),
    case!(
        "version 5 with the size of the other body",
        |forge| {
            forge.quote.version = 5;
            forge.quote.body_header = (2, 648);
        },
        ["quote-format"]
    ),
    case!(
        "version 5 with a body that is too long",
        |forge| {
            forge.quote.version = 5;
            forge.quote.body.push(0);
        },
        ["quote-format"]
    ),
    case!("a quote signed by another key", |forge| forge.quote.signed_by = key(9), ["quote-signature"]),
    case!(
        "an attestation key off the curve",
        |forge| forge.quote.attestation_key_bytes = Some([1; 64]),
        ["attestation-key-binding", "attestation-key"]
    ),
    case!(
        "an attestation key of zeros",
        |forge| forge.quote.attestation_key_bytes = Some([0; 64]),
        ["attestation-key-binding", "attestation-key"]
    ),
    case!(
        "no binding of the attestation key",
        |forge| forge.quote.binding = Some([0; 64]),
        ["attestation-key-binding"]
    ),
    case!(
        "an enclave's report signed by another key",
        |forge| forge.quote.enclave_signed_by = key(9),
        ["qe-report-signature"]
    ),
    case!("a debug enclave", |forge| forge.quote.enclave[48] |= 2, ["qe-debug", "qe-identity"]),
    case!(
        "an enclave without the provisioning key",
        |forge| forge.quote.enclave[48] &= !0x10,
        ["qe-identity"]
    ),
    case!("an enclave of another signer", |forge| forge.quote.enclave[128] = 0, ["qe-identity"]),
    case!("another product of the same signer", |forge| forge.quote.enclave[256] = 1, ["qe-identity"]),
    case!(
        "an enclave with extended state on exceptions",
        |forge| forge.quote.enclave[16] = 1,
        ["qe-identity"]
    ),
];

/// One expectation at a time is another than what the report says.
pub(crate) fn every_expectation_counts() {
    type Change = fn(&mut Expectations);
    let changes: [(&str, Change); 15] = [
        ("report-data", |expected| expected.report_data = Some([1; 64])),
        ("mr-td", |expected| expected.mr_td = Some([1; 48])),
        ("rtmr0", |expected| expected.rtmr[0] = Some([1; 48])),
        ("rtmr1", |expected| expected.rtmr[1] = Some([1; 48])),
        ("rtmr2", |expected| expected.rtmr[2] = Some([1; 48])),
        ("rtmr3", |expected| expected.rtmr[3] = Some([1; 48])),
        ("mr-config-id", |expected| expected.mr_config_id = Some([1; 48])),
        ("mr-owner", |expected| expected.mr_owner = Some([1; 48])),
        ("mr-owner-config", |expected| expected.mr_owner_config = Some([1; 48])),
        ("mr-seam", |expected| expected.mr_seam = Some([1; 48])),
        ("service-td", |expected| expected.mr_service_td = Some([1; 48])),
        ("tcb-evaluation", |expected| expected.tcb_evaluation = Some(18)),
        ("report-data", |expected| expected.report_data = Some([0xff; 64])),
        ("expected-td-attributes", |expected| expected.td_attributes = Some(1 << 30)),
        ("expected-xfam", |expected| expected.xfam = Some(3)),
    ];
    for (name, change) in changes {
        let mut expected = Expectations::default();
        change(&mut expected);
        let appraisal = Forge::new().appraise(&expected, AT);
        let reasons: Vec<&str> = appraisal.reasons().map(|check| check.name).collect();
        assert_eq!((appraisal.verdict(), reasons), (Verdict::Invalid, vec![name]));
    }
}
