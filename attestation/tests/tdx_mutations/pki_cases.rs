//! Changes of certificates and revocation lists that are signed again.

use coffer_attestation::tdx::TrustedRoots;

use crate::case::Case;
use crate::forge::Forge;
use crate::forge::asn1::integer;
use crate::forge::pki::{Pki, key};
use crate::quote_cases::{case, certificates};

const LATER: &str = "2025-06-19T11:00:01Z";
const EARLIER: &str = "2025-06-19T10:59:59Z";
const NAME_CONSTRAINTS: &str = "2.5.29.30";

impl Pki {
    /// Puts certificates of the quote's chain into another order.
    fn reorder(&mut self, order: &[usize]) {
        let chain = certificates(self.quote_chain().as_bytes());
        self.quote_chain = Some(order.iter().map(|index| chain[*index].as_str()).collect());
    }
}

pub(crate) static FORGED: &[Case<Forge>] = &[
    case!(
        "Intel's root only is trusted",
        |forge| forge.trusted = Some(TrustedRoots::intel()),
        ["pck-root", "qe-report-signature", "tcb-info-root", "qe-identity-root", "tcb-status"]
    ),
    case!(
        "a root that is over",
        |forge| forge.pki.root.not_after = EARLIER,
        ["pck-ca-dates", "pck-crl-ca-dates", "tcb-info-signer-dates", "qe-identity-signer-dates"]
    ),
    case!(
        "a root that is no authority",
        |forge| forge.pki.root.ca = false,
        [
            "pck-ca-issuer",
            "qe-report-signature",
            "tcb-info-signer-issuer",
            "qe-identity-signer-issuer",
            "tcb-status"
        ]
    ),
    // CA
    case!(
        "a CA that another key signed",
        |forge| forge.pki.ca.signed_by = key(9),
        ["pck-ca-issuer", "qe-report-signature", "tcb-status"]
    ),
    case!(
        "a CA of another issuer",
        |forge| forge.pki.ca.issuer = "Some Root CA",
        ["pck-ca-issuer", "qe-report-signature", "tcb-status"]
    ),
    case!(
        "a CA that is over",
        |forge| forge.pki.ca.not_after = EARLIER,
        ["pck-ca-dates", "pck-crl-ca-dates"]
    ),
    case!(
        "a CA that has not begun",
        |forge| forge.pki.ca.not_before = LATER,
        ["pck-ca-dates", "pck-crl-ca-dates"]
    ),
    case!(
        "a CA of another name",
        |forge| {
            forge.pki.ca.subject = "Intel SGX Spare CA";
            forge.pki.pck.issuer = "Intel SGX Spare CA";
            forge.pki.pck_crl.issuer = "Intel SGX Spare CA";
        },
        ["pck-ca-name", "pck-crl-ca-name"]
    ),
    case!(
        "a CA that is no authority",
        |forge| forge.pki.ca.ca = false,
        ["pck-issuer", "qe-report-signature", "tcb-status"]
    ),
    case!(
        "a CA that may not sign certificates",
        |forge| forge.pki.ca.usage = 0x02,
        ["pck-issuer", "qe-report-signature", "tcb-status"]
    ),
    case!("a CA that may not sign lists", |forge| forge.pki.ca.usage = 0x04, ["pck-crl"]),
    case!(
        "a CA with constraints that are not understood",
        |forge| {
            forge.pki.ca.more.push((NAME_CONSTRAINTS, true, integer(&[1])));
        },
        ["pck-ca-issuer", "qe-report-signature", "tcb-status"]
    ),
    // PCK
    case!(
        "a PCK that another key signed",
        |forge| forge.pki.pck.signed_by = key(9),
        ["pck-issuer", "qe-report-signature", "tcb-status"]
    ),
    case!(
        "a PCK that the root signed",
        |forge| forge.pki.pck.signed_by = key(1),
        ["pck-issuer", "qe-report-signature", "tcb-status"]
    ),
    case!(
        "a PCK of another issuer",
        |forge| forge.pki.pck.issuer = "Intel SGX PCK Processor CA",
        ["pck-issuer", "qe-report-signature", "tcb-status"]
    ),
    case!("a PCK of another name", |forge| forge.pki.pck.subject = "Intel SGX TCB Signing", ["pck-name"]),
    case!("a PCK that is over", |forge| forge.pki.pck.not_after = EARLIER, ["pck-dates"]),
    case!("a PCK that has not begun", |forge| forge.pki.pck.not_before = LATER, ["pck-dates"]),
    case!(
        "a PCK with constraints that are not understood",
        |forge| {
            forge.pki.pck.more.push((NAME_CONSTRAINTS, true, integer(&[1])));
        },
        ["pck-issuer", "qe-report-signature", "tcb-status"]
    ),
    case!("a PCK with a key of its own", |forge| forge.pki.pck.key = key(9), ["qe-report-signature"]),
    case!(
        "a PCK with the same extension twice",
        |forge| {
            forge.pki.pck.more.extend([("1.2.3", false, Vec::new()), ("1.2.3", false, Vec::new())]);
        },
        ["pck-chain", "qe-report-signature", "tcb-status"]
    ),
    // The platform in the PCK
    case!("no platform", |forge| forge.pki.platform.present = false, ["pck-platform", "tcb-status"]),
    case!("no PPID", |forge| forge.pki.platform.ppid = None, ["pck-platform", "tcb-status"]),
    case!(
        "a PPID of 15 bytes",
        |forge| forge.pki.platform.ppid = Some(vec![0; 15]),
        ["pck-platform", "tcb-status"]
    ),
    case!(
        "15 components",
        |forge| forge.pki.platform.components.truncate(15),
        ["pck-platform", "tcb-status"]
    ),
    case!(
        "a component of two bytes",
        |forge| forge.pki.platform.components[0] = 258,
        ["pck-platform", "tcb-status"]
    ),
    case!("no PCE SVN", |forge| forge.pki.platform.pce_svn = None, ["pck-platform", "tcb-status"]),
    case!(
        "a PCE SVN of three bytes",
        |forge| forge.pki.platform.pce_svn = Some(65547),
        ["pck-platform", "tcb-status"]
    ),
    case!("no CPU SVN", |forge| forge.pki.platform.cpu_svn = None, ["pck-platform", "tcb-status"]),
    case!("no PCE identity", |forge| forge.pki.platform.pce_id = None, ["pck-platform", "tcb-status"]),
    case!("another PCE", |forge| forge.pki.platform.pce_id = Some(vec![1, 0]), ["pce-id"]),
    case!("no FMSPC", |forge| forge.pki.platform.fmspc = None, ["pck-platform", "tcb-status"]),
    case!(
        "an FMSPC of 7 bytes",
        |forge| forge.pki.platform.fmspc = Some(vec![0; 7]),
        ["pck-platform", "tcb-status"]
    ),
    case!("another FMSPC", |forge| forge.pki.platform.fmspc = Some(vec![0; 6]), ["fmspc"]),
    case!("two FMSPCs", |forge| forge.pki.platform.fmspc_again = true, ["pck-platform", "tcb-status"]),
    // The quote's chain
    case!(
        "a chain that begins with the CA",
        |forge| forge.pki.reorder(&[1, 0, 2]),
        ["pck-ca-issuer", "pck-ca-name", "pck-issuer", "pck-name", "qe-report-signature", "tcb-status"]
    ),
    case!(
        "a chain without PCK",
        |forge| forge.pki.reorder(&[1, 2]),
        ["pck-chain", "qe-report-signature", "tcb-status"]
    ),
    case!(
        "a chain of nine",
        |forge| forge.pki.reorder(&[0, 1, 2, 2, 2, 2, 2, 2, 2]),
        ["pck-chain", "qe-report-signature", "tcb-status"]
    ),
    case!(
        "the root instead of the CA",
        |forge| forge.pki.reorder(&[0, 2, 2]),
        ["pck-ca-name", "pck-issuer", "qe-report-signature", "tcb-status"]
    ),
    // Signer of statements
    case!(
        "a signer that another key signed",
        |forge| forge.pki.signer.signed_by = key(9),
        ["tcb-info-signer-issuer", "qe-identity-signer-issuer", "tcb-status"]
    ),
    case!(
        "a signer of the CA",
        |forge| {
            forge.pki.signer.issuer = "Intel SGX PCK Platform CA";
            forge.pki.signer.signed_by = key(2);
        },
        ["tcb-info-signer-issuer", "qe-identity-signer-issuer", "tcb-status"]
    ),
    case!(
        "a signer of another name",
        |forge| forge.pki.signer.subject = "Intel SGX PCK Certificate",
        ["tcb-info-signer-name", "qe-identity-signer-name"]
    ),
    case!(
        "a signer that is over",
        |forge| forge.pki.signer.not_after = EARLIER,
        ["tcb-info-signer-dates", "qe-identity-signer-dates"]
    ),
    case!(
        "a signer that has not begun",
        |forge| forge.pki.signer.not_before = LATER,
        ["tcb-info-signer-dates", "qe-identity-signer-dates"]
    ),
    case!(
        "a signer with a key of its own",
        |forge| forge.pki.signer.key = key(9),
        ["tcb-info-signature", "qe-identity-signature", "tcb-status"]
    ),
    case!(
        "a signer without its root",
        |forge| forge.pki.signer_chain = Some(forge.pki.signer.pem()),
        ["tcb-info-chain", "qe-identity-chain", "tcb-status"]
    ),
    case!(
        "a signer below a root of its own",
        |forge| {
            let mut root = forge.pki.root.clone();
            root.serial = 99;
            forge.pki.signer_chain = Some([forge.pki.signer.pem(), root.pem()].concat());
        },
        ["tcb-info-root", "qe-identity-root", "tcb-status"]
    ),
    case!(
        "a signer that the root revoked",
        |forge| forge.pki.root_crl.revoked.push(4),
        ["tcb-info-signer-revoked", "qe-identity-signer-revoked"]
    ),
    // Revocation lists
    case!(
        "a CA that the root revoked",
        |forge| forge.pki.root_crl.revoked.push(2),
        ["pck-ca-revoked", "pck-crl-ca-revoked"]
    ),
    case!("a PCK that the CA revoked", |forge| forge.pki.pck_crl.revoked.push(3), ["pck-revoked"]),
    case!("a root's list that is over", |forge| forge.pki.root_crl.next_update = Some(EARLIER), ["root-crl"]),
    case!("a root's list of the future", |forge| forge.pki.root_crl.this_update = LATER, ["root-crl"]),
    case!("a root's list without an end", |forge| forge.pki.root_crl.next_update = None, ["root-crl"]),
    case!(
        "a root's list that another key signed",
        |forge| forge.pki.root_crl.signed_by = key(9),
        ["root-crl"]
    ),
    case!("a root's list of changes", |forge| forge.pki.root_crl.critical_extension = true, ["root-crl"]),
    case!(
        "a root's list of another root",
        |forge| forge.pki.root_crl.issuer = "Some Root CA",
        ["root-crl", "pck-crl-ca-revoked", "tcb-info-signer-revoked", "qe-identity-signer-revoked"]
    ),
    case!("a CA's list that is over", |forge| forge.pki.pck_crl.next_update = Some(EARLIER), ["pck-crl"]),
    case!("a CA's list of the future", |forge| forge.pki.pck_crl.this_update = LATER, ["pck-crl"]),
    case!("a CA's list without an end", |forge| forge.pki.pck_crl.next_update = None, ["pck-crl"]),
    case!("a CA's list that another key signed", |forge| forge.pki.pck_crl.signed_by = key(9), ["pck-crl"]),
    case!("a CA's list of changes", |forge| forge.pki.pck_crl.critical_extension = true, ["pck-crl"]),
    case!(
        "a list of the Processor CA",
        |forge| {
            let mut other = forge.pki.ca.clone();
            other.subject = "Intel SGX PCK Processor CA";
            forge.pki.pck_crl.issuer = "Intel SGX PCK Processor CA";
            forge.pki.crl_chain = Some([other.pem(), forge.pki.root.pem()].concat());
        },
        ["pck-revoked"]
    ),
    case!(
        "a list's CA that another key signed",
        |forge| {
            let mut other = forge.pki.ca.clone();
            other.signed_by = key(9);
            forge.pki.crl_chain = Some([other.pem(), forge.pki.root.pem()].concat());
        },
        ["pck-crl-ca-issuer"]
    ),
    case!(
        "a list's CA below another root",
        |forge| {
            let mut root = forge.pki.root.clone();
            root.serial = 99;
            forge.pki.crl_chain = Some([forge.pki.ca.pem(), root.pem()].concat());
        },
        ["pck-crl-root"]
    ),
    case!(
        "a list's CA without its root",
        |forge| forge.pki.crl_chain = Some(forge.pki.ca.pem()),
        ["pck-crl-chain"]
    ),
];
