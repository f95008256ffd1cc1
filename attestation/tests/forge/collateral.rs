//! Intel's statements, as Intel would publish them.

use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use serde_json::{Value, json};

use super::pki::{Pki, key};

/// Statements before they are signed.
pub(crate) struct Collateral {
    pub(crate) tcb_info: Value,
    pub(crate) qe_identity: Value,
    pub(crate) tcb_info_signed_by: SigningKey,
    pub(crate) qe_identity_signed_by: SigningKey,
    /// Changes to the finished file: field, value.
    pub(crate) fields: Vec<(&'static str, Value)>,
}

impl Collateral {
    pub(crate) fn new() -> Self {
        Self {
            tcb_info: tcb_info(),
            qe_identity: qe_identity(),
            tcb_info_signed_by: key(4),
            qe_identity_signed_by: key(4),
            fields: Vec::new(),
        }
    }

    pub(crate) fn build(&self, pki: &Pki) -> Vec<u8> {
        let mut file = json!({
            "tcb_info": self.tcb_info.to_string(),
            "tcb_info_signature": sign(&self.tcb_info, &self.tcb_info_signed_by),
            "tcb_info_issuer_chain": pki.signer_chain(),
            "qe_identity": self.qe_identity.to_string(),
            "qe_identity_signature": sign(&self.qe_identity, &self.qe_identity_signed_by),
            "qe_identity_issuer_chain": pki.signer_chain(),
            "pck_crl": hex::encode(pki.pck_crl.build()),
            "pck_crl_issuer_chain": pki.crl_chain(),
            "root_ca_crl": hex::encode(pki.root_crl.build()),
        });
        self.fields.iter().for_each(|(field, value)| file[*field] = value.clone());
        file.to_string().into_bytes()
    }
}

fn sign(statement: &Value, by: &SigningKey) -> String {
    let signature: Signature = by.sign(statement.to_string().as_bytes());
    hex::encode(signature.to_bytes())
}

/// Sixteen components, of which the first few are given.
fn components(first: &[u8]) -> Value {
    (0..16).map(|index| json!({"svn": first.get(index).copied().unwrap_or(0)})).collect()
}

fn tcb_info() -> Value {
    let level = |pcesvn: u16, status: &str, advisories: &[&str]| {
        json!({
            "tcb": {
                "sgxtcbcomponents": components(&[2, 2, 2, 2, 3, 1, 0, 5]),
                "pcesvn": pcesvn,
                "tdxtcbcomponents": components(&[5, 0, 2]),
            },
            "tcbDate": "2024-03-13T00:00:00Z",
            "tcbStatus": status,
            "advisoryIDs": advisories,
        })
    };
    json!({
        "id": "TDX",
        "version": 3,
        "issueDate": "2025-06-10T00:00:00Z",
        "nextUpdate": "2025-07-10T00:00:00Z",
        "fmspc": "B0C06F000000",
        "pceId": "0000",
        "tcbType": 0,
        "tcbEvaluationDataNumber": 17,
        "tdxModule": module(),
        "tdxModuleIdentities": [{
            "id": "TDX_01",
            "mrsigner": "00".repeat(48),
            "attributes": "0000000000000000",
            "attributesMask": "FFFFFFFFFFFFFFFF",
            "tcbLevels": [isv_level(4, "UpToDate"), isv_level(2, "OutOfDate")],
        }],
        "tcbLevels": [level(11, "UpToDate", &[]), level(5, "OutOfDate", &["INTEL-SA-00106"])],
    })
}

fn module() -> Value {
    json!({"mrsigner": "00".repeat(48), "attributes": "0000000000000000", "attributesMask": "FFFFFFFFFFFFFFFF"})
}

fn isv_level(isvsvn: u16, status: &str) -> Value {
    json!({"tcb": {"isvsvn": isvsvn}, "tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": status})
}

fn qe_identity() -> Value {
    json!({
        "id": "TD_QE",
        "version": 2,
        "issueDate": "2025-06-11T00:00:00Z",
        "nextUpdate": "2025-07-11T00:00:00Z",
        "tcbEvaluationDataNumber": 17,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": "DC".repeat(32),
        "isvprodid": 2,
        "tcbLevels": [isv_level(6, "UpToDate"), isv_level(5, "OutOfDate"), isv_level(4, "Revoked")],
    })
}
