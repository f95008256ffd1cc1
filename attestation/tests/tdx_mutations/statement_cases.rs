//! Changes of collateral: text of a real file, and fields of forged statements that are signed again.

use serde_json::{Value, json};

use crate::case::Case;
use crate::forge::Forge;
use crate::forge::pki::key;
use crate::quote_cases::{Real, case, certificates, flipped};

const LATER: &str = "2025-06-19T11:00:01Z";
const EARLIER: &str = "2025-06-19T10:59:59Z";

impl Real {
    /// Replaces `old` in a field of the collateral, where it must occur.
    fn replace(&mut self, field: &str, old: &str, new: &str) {
        let text = self.text(field);
        assert!(text.contains(old), "{field} has no {old}");
        self.collateral[field] = text.replacen(old, new, 1).into();
    }

    /// Flips a bit of a field in hexadecimal, `from_end` bytes before its end.
    fn flip_hex(&mut self, field: &str, from_end: usize) {
        let mut bytes = hex::decode(self.text(field)).expect("hexadecimal");
        let at = bytes.len() - from_end;
        bytes[at] ^= 1;
        self.collateral[field] = hex::encode(bytes).into();
    }

    /// Flips a bit at the end of a certificate in a chain.
    fn flip_pem(&mut self, field: &str, index: usize) {
        let mut chain = certificates(self.text(field).as_bytes());
        chain[index] = flipped(&chain[index], 1);
        self.collateral[field] = chain.concat().into();
    }

    fn text(&self, field: &str) -> String {
        self.collateral[field].as_str().expect("a text").to_owned()
    }

    fn remove(&mut self, field: &str) {
        self.collateral.as_object_mut().expect("an object").remove(field);
    }
}

pub(crate) static REAL: &[Case<Real>] = &[
    case!(
        "TCB info: another date of issue",
        |real| real.replace("tcb_info", "2025-06-19T10:16:03Z", "2025-06-18T10:16:03Z"),
        ["tcb-info-signature", "tcb-status"]
    ),
    case!(
        "TCB info: good for longer",
        |real| real.replace("tcb_info", "2025-07-19", "2029-07-19"),
        ["tcb-info-signature", "tcb-status"]
    ),
    case!(
        "TCB info: FMSPC",
        |real| real.replace("tcb_info", "B0C06F", "B0C06E"),
        ["tcb-info-signature", "tcb-status"]
    ),
    case!(
        "TCB info: PCE",
        |real| real.replace("tcb_info", "\"pceId\":\"0000\"", "\"pceId\":\"0001\""),
        ["tcb-info-signature", "tcb-status"]
    ),
    case!(
        "TCB info: evaluation",
        |real| real.replace("tcb_info", ":17", ":18"),
        ["tcb-info-signature", "tcb-status"]
    ),
    case!(
        "TCB info: a level's status",
        |real| real.replace("tcb_info", "\"OutOfDate\",\"advisoryIDs\"", "\"UpToDate\",\"advisoryIDs\""),
        ["tcb-info-signature", "tcb-status"]
    ),
    case!(
        "TCB info: a level's component",
        |real| real.replace("tcb_info", "\"svn\":2", "\"svn\":1"),
        ["tcb-info-signature", "tcb-status"]
    ),
    case!(
        "TCB info: a level's PCE SVN",
        |real| real.replace("tcb_info", "\"pcesvn\":5", "\"pcesvn\":4"),
        ["tcb-info-signature", "tcb-status"]
    ),
    case!(
        "TCB info: a module's security version",
        |real| real.replace("tcb_info", "\"isvsvn\":4", "\"isvsvn\":3"),
        ["tcb-info-signature", "tcb-status"]
    ),
    case!(
        "TCB info: an advisory",
        |real| real.replace("tcb_info", "INTEL-SA-00106", "INTEL-SA-00107"),
        ["tcb-info-signature", "tcb-status"]
    ),
    case!(
        "TCB info: a blank that changes nothing",
        |real| real.replace("tcb_info", "{\"id\"", "{ \"id\""),
        ["tcb-info-signature", "tcb-status"]
    ),
    case!(
        "TCB info: a line break at its end",
        |real| real.collateral["tcb_info"] = format!("{}\n", real.text("tcb_info")).into(),
        ["tcb-info-signature", "tcb-status"]
    ),
    case!(
        "TCB info: R",
        |real| real.flip_hex("tcb_info_signature", 64),
        ["tcb-info-signature", "tcb-status"]
    ),
    case!("TCB info: S", |real| real.flip_hex("tcb_info_signature", 1), ["tcb-info-signature", "tcb-status"]),
    case!(
        "TCB info: the other statement's signature",
        |real| real.collateral["tcb_info_signature"] = real.collateral["qe_identity_signature"].clone(),
        ["tcb-info-signature", "tcb-status"]
    ),
    case!(
        "TCB info: a short signature",
        |real| real.collateral["tcb_info_signature"] = "00".into(),
        ["tcb-info-signature", "tcb-status"]
    ),
    case!(
        "TCB info: a signature of zeros",
        |real| real.collateral["tcb_info_signature"] = "00".repeat(64).into(),
        ["tcb-info-signature", "tcb-status"]
    ),
    case!(
        "TCB info: a signature that is no hexadecimal",
        |real| real.collateral["tcb_info_signature"] = "R".into(),
        ["collateral-format"]
    ),
    case!(
        "TCB info: the other statement",
        |real| {
            real.collateral["tcb_info"] = real.collateral["qe_identity"].clone();
            real.collateral["tcb_info_signature"] = real.collateral["qe_identity_signature"].clone();
        },
        ["tcb-info-format", "tcb-status"]
    ),
    case!(
        "TCB info: the signer's certificate",
        |real| real.flip_pem("tcb_info_issuer_chain", 0),
        ["tcb-info-signer-issuer", "tcb-status"]
    ),
    case!(
        "TCB info: the root's certificate",
        |real| real.flip_pem("tcb_info_issuer_chain", 1),
        ["tcb-info-root", "tcb-status"]
    ),
    case!(
        "TCB info: the CA as its signer",
        |real| real.collateral["tcb_info_issuer_chain"] = real.collateral["pck_crl_issuer_chain"].clone(),
        ["tcb-info-signer-name", "tcb-info-signature", "tcb-status"]
    ),
    case!(
        "QE identity: another date of issue",
        |real| real.replace("qe_identity", "2025-06-19T10:32:27Z", "2025-06-18T10:32:27Z"),
        ["qe-identity-signature", "tcb-status"]
    ),
    case!(
        "QE identity: good for longer",
        |real| real.replace("qe_identity", "2025-07-19", "2029-07-19"),
        ["qe-identity-signature", "tcb-status"]
    ),
    case!(
        "QE identity: attributes",
        |real| real.replace("qe_identity", "\"11", "\"13"),
        ["qe-identity-signature", "tcb-status"]
    ),
    case!(
        "QE identity: mask of attributes",
        |real| real.replace("qe_identity", "FBFF", "F9FF"),
        ["qe-identity-signature", "tcb-status"]
    ),
    case!(
        "QE identity: signer",
        |real| real.replace("qe_identity", "DC9E", "DC9F"),
        ["qe-identity-signature", "tcb-status"]
    ),
    case!(
        "QE identity: product",
        |real| real.replace("qe_identity", "\"isvprodid\":2", "\"isvprodid\":1"),
        ["qe-identity-signature", "tcb-status"]
    ),
    case!(
        "QE identity: security version",
        |real| real.replace("qe_identity", "\"isvsvn\":4", "\"isvsvn\":1"),
        ["qe-identity-signature", "tcb-status"]
    ),
    case!(
        "QE identity: R",
        |real| real.flip_hex("qe_identity_signature", 64),
        ["qe-identity-signature", "tcb-status"]
    ),
    case!(
        "QE identity: S",
        |real| real.flip_hex("qe_identity_signature", 1),
        ["qe-identity-signature", "tcb-status"]
    ),
    case!(
        "QE identity: the signer's certificate",
        |real| real.flip_pem("qe_identity_issuer_chain", 0),
        ["qe-identity-signer-issuer", "tcb-status"]
    ),
    case!(
        "QE identity: the root's certificate",
        |real| real.flip_pem("qe_identity_issuer_chain", 1),
        ["qe-identity-root", "tcb-status"]
    ),
    case!("CA's list: its signature", |real| real.flip_hex("pck_crl", 1), ["pck-crl"]),
    case!("CA's list: a revoked serial number", |real| real.flip_hex("pck_crl", 300), ["pck-crl"]),
    case!(
        "CA's list: its certificate",
        |real| real.flip_pem("pck_crl_issuer_chain", 0),
        ["pck-crl-ca-issuer"]
    ),
    case!("CA's list: its root", |real| real.flip_pem("pck_crl_issuer_chain", 1), ["pck-crl-root"]),
    case!(
        "CA's list: the root's instead",
        |real| real.collateral["pck_crl"] = real.collateral["root_ca_crl"].clone(),
        ["pck-crl"]
    ),
    case!(
        "CA's list: a byte behind it",
        |real| real.collateral["pck_crl"] = format!("{}00", real.text("pck_crl")).into(),
        ["collateral-format"]
    ),
    case!("CA's list: nothing", |real| real.collateral["pck_crl"] = "".into(), ["collateral-format"]),
    case!("root's list: its signature", |real| real.flip_hex("root_ca_crl", 1), ["root-crl"]),
    case!(
        "root's list: the CA's instead",
        |real| real.collateral["root_ca_crl"] = real.collateral["pck_crl"].clone(),
        ["root-crl", "pck-crl-ca-revoked", "tcb-info-signer-revoked", "qe-identity-signer-revoked"]
    ),
    case!("no TCB info", |real| real.remove("tcb_info"), ["collateral-format"]),
    case!("no QE identity", |real| real.remove("qe_identity"), ["collateral-format"]),
    case!("no CA's list", |real| real.remove("pck_crl"), ["collateral-format"]),
    case!("no root's list", |real| real.remove("root_ca_crl"), ["collateral-format"]),
    case!("no issuer of the CA's list", |real| real.remove("pck_crl_issuer_chain"), ["collateral-format"]),
    case!("no JSON object", |real| real.collateral = Value::Array(Vec::new()), ["collateral-format"]),
];

impl Forge {
    fn info(&mut self) -> &mut Value {
        &mut self.collateral.tcb_info
    }

    fn identity(&mut self) -> &mut Value {
        &mut self.collateral.qe_identity
    }
}

fn without(value: &mut Value, field: &str) {
    value.as_object_mut().expect("an object").remove(field).expect("the field");
}

pub(crate) static FORGED: &[Case<Forge>] = &[
    // TCB info
    case!(
        "TCB info signed by another key",
        |forge| forge.collateral.tcb_info_signed_by = key(9),
        ["tcb-info-signature", "tcb-status"]
    ),
    case!(
        "TCB info signed by the root",
        |forge| forge.collateral.tcb_info_signed_by = key(1),
        ["tcb-info-signature", "tcb-status"]
    ),
    case!(
        "TCB info signed by the CA",
        |forge| forge.collateral.tcb_info_signed_by = key(2),
        ["tcb-info-signature", "tcb-status"]
    ),
    case!("TCB info for SGX", |forge| forge.info()["id"] = "SGX".into(), ["tcb-info-format", "tcb-status"]),
    case!(
        "TCB info of version 2",
        |forge| forge.info()["version"] = 2.into(),
        ["tcb-info-format", "tcb-status"]
    ),
    case!(
        "TCB info of another type",
        |forge| forge.info()["tcbType"] = 1.into(),
        ["tcb-info-format", "tcb-status"]
    ),
    case!("TCB info that is over", |forge| forge.info()["nextUpdate"] = EARLIER.into(), ["tcb-info-dates"]),
    case!("TCB info of the future", |forge| forge.info()["issueDate"] = LATER.into(), ["tcb-info-dates"]),
    case!(
        "TCB info with a date of no calendar",
        |forge| forge.info()["issueDate"] = "2025-02-30T00:00:00Z".into(),
        ["tcb-info-format", "tcb-status"]
    ),
    case!("TCB info of another platform", |forge| forge.info()["fmspc"] = "B0C06F000001".into(), ["fmspc"]),
    case!("TCB info of another PCE", |forge| forge.info()["pceId"] = "0100".into(), ["pce-id"]),
    case!(
        "an FMSPC of five bytes",
        |forge| forge.info()["fmspc"] = "B0C06F0000".into(),
        ["tcb-info-format", "tcb-status"]
    ),
    case!(
        "an FMSPC that is no hexadecimal",
        |forge| forge.info()["fmspc"] = "B0C06F00000G".into(),
        ["tcb-info-format", "tcb-status"]
    ),
    case!("no levels", |forge| forge.info()["tcbLevels"] = json!([]), ["tcb-info-format", "tcb-status"]),
    case!(
        "257 levels",
        |forge| {
            let level = forge.info()["tcbLevels"][0].clone();
            forge.info()["tcbLevels"] = vec![level; 257].into();
        },
        ["tcb-info-format", "tcb-status"]
    ),
    case!(
        "a level twice",
        |forge| {
            let level = forge.info()["tcbLevels"][0].clone();
            forge.info()["tcbLevels"].as_array_mut().expect("levels").push(level);
        },
        ["tcb-info-format", "tcb-status"]
    ),
    case!(
        "a level of 15 components",
        |forge| drop(
            forge.info()["tcbLevels"][0]["tcb"]["tdxtcbcomponents"].as_array_mut().expect("components").pop()
        ),
        ["tcb-info-format", "tcb-status"]
    ),
    case!(
        "a level of 17 components",
        |forge| forge.info()["tcbLevels"][0]["tcb"]["sgxtcbcomponents"]
            .as_array_mut()
            .expect("components")
            .push(json!({"svn": 0})),
        ["tcb-info-format", "tcb-status"]
    ),
    case!(
        "a component of two bytes in a level",
        |forge| forge.info()["tcbLevels"][0]["tcb"]["sgxtcbcomponents"][0]["svn"] = 256.into(),
        ["tcb-info-format", "tcb-status"]
    ),
    case!(
        "a component below nothing",
        |forge| forge.info()["tcbLevels"][0]["tcb"]["sgxtcbcomponents"][0]["svn"] = json!(-1),
        ["tcb-info-format", "tcb-status"]
    ),
    case!(
        "a level without TDX components",
        |forge| without(&mut forge.info()["tcbLevels"][0]["tcb"], "tdxtcbcomponents"),
        ["tcb-info-format", "tcb-status"]
    ),
    case!(
        "a level without status",
        |forge| without(&mut forge.info()["tcbLevels"][1], "tcbStatus"),
        ["tcb-info-format", "tcb-status"]
    ),
    case!("no TDX module", |forge| without(forge.info(), "tdxModule"), ["tcb-info-format", "tcb-status"]),
    case!(
        "no module identities",
        |forge| without(forge.info(), "tdxModuleIdentities"),
        ["tdx-module", "tdx-module-tcb", "tcb-status"]
    ),
    case!(
        "an identity of another module version",
        |forge| forge.info()["tdxModuleIdentities"][0]["id"] = "TDX_03".into(),
        ["tdx-module", "tdx-module-tcb", "tcb-status"]
    ),
    case!(
        "another signer of the module",
        |forge| forge.info()["tdxModuleIdentities"][0]["mrsigner"] = "07".repeat(48).into(),
        ["tdx-module-signer"]
    ),
    case!(
        "other attributes of the module",
        |forge| forge.info()["tdxModuleIdentities"][0]["attributes"] = "0100000000000000".into(),
        ["tdx-module-attributes"]
    ),
    case!(
        "a module identity without levels",
        |forge| forge.info()["tdxModuleIdentities"][0]["tcbLevels"] = json!([]),
        ["tcb-info-format", "tcb-status"]
    ),
    case!(
        "a module level twice",
        |forge| forge.info()["tdxModuleIdentities"][0]["tcbLevels"][1]["tcb"]["isvsvn"] = 4.into(),
        ["tcb-info-format", "tcb-status"]
    ),
    // QE identity
    case!(
        "QE identity signed by another key",
        |forge| forge.collateral.qe_identity_signed_by = key(9),
        ["qe-identity-signature", "tcb-status"]
    ),
    case!(
        "QE identity of SGX",
        |forge| forge.identity()["id"] = "QE".into(),
        ["qe-identity-format", "tcb-status"]
    ),
    case!(
        "QE identity of version 1",
        |forge| forge.identity()["version"] = 1.into(),
        ["qe-identity-format", "tcb-status"]
    ),
    case!(
        "QE identity that is over",
        |forge| forge.identity()["nextUpdate"] = EARLIER.into(),
        ["qe-identity-dates"]
    ),
    case!(
        "QE identity of the future",
        |forge| forge.identity()["issueDate"] = LATER.into(),
        ["qe-identity-dates"]
    ),
    case!(
        "QE identity of another signer",
        |forge| forge.identity()["mrsigner"] = "DD".repeat(32).into(),
        ["qe-identity"]
    ),
    case!(
        "QE identity of another product",
        |forge| forge.identity()["isvprodid"] = 1.into(),
        ["qe-identity"]
    ),
    case!(
        "QE identity with other attributes",
        |forge| forge.identity()["attributes"] = "15000000000000000000000000000000".into(),
        ["qe-identity"]
    ),
    case!(
        "QE identity with a wider mask",
        |forge| forge.identity()["attributesMask"] = "FFFFFFFFFFFFFFFFFF00000000000000".into(),
        ["qe-identity"]
    ),
    case!(
        "QE identity with other MISCSELECT",
        |forge| forge.identity()["miscselect"] = "00000001".into(),
        ["qe-identity"]
    ),
    case!(
        "QE identity without levels",
        |forge| forge.identity()["tcbLevels"] = json!([]),
        ["qe-identity-format", "tcb-status"]
    ),
    case!(
        "QE identity with a level twice",
        |forge| forge.identity()["tcbLevels"][1]["tcb"]["isvsvn"] = 6.into(),
        ["qe-identity-format", "tcb-status"]
    ),
    case!(
        "QE identity without its signer",
        |forge| without(forge.identity(), "mrsigner"),
        ["qe-identity-format", "tcb-status"]
    ),
    case!(
        "QE identity with a short signer",
        |forge| forge.identity()["mrsigner"] = "DC".into(),
        ["qe-identity-format", "tcb-status"]
    ),
    // The file
    case!(
        "collateral whose TCB info is no text",
        |forge| forge.collateral.fields.push(("tcb_info", json!({}))),
        ["collateral-format"]
    ),
    case!(
        "collateral whose chain is no certificate",
        |forge| forge.collateral.fields.push(("tcb_info_issuer_chain", "none".into())),
        ["collateral-format"]
    ),
    case!(
        "collateral whose list is a certificate",
        |forge| forge.collateral.fields.push(("root_ca_crl", hex::encode(forge.pki.ca.build()).into())),
        ["collateral-format"]
    ),
    case!(
        "collateral of five mebibytes",
        |forge| forge.collateral.fields.push(("more", "x".repeat(5 << 20).into())),
        ["collateral-format"]
    ),
];
