//! Puts the answers of Intel's provisioning certification service (PCS API, version 4) together into one collateral file.
//!
//! ```text
//! GET /tdx/certification/v4/tcb?fmspc=…     {"tcbInfo": …, "signature": hex}          TCB-Info-Issuer-Chain
//! GET /tdx/certification/v4/qe/identity     {"enclaveIdentity": …, "signature": hex}  SGX-Enclave-Identity-Issuer-Chain
//! GET /sgx/certification/v4/pckcrl?ca=…&encoding=der       DER                        SGX-PCK-CRL-Issuer-Chain
//! GET /IntelSGXRootCA.der                                  DER
//! ```
//! A signature is over the very bytes of the statement inside its answer, so those are taken out as they are. Nothing is
//! verified here: whoever uses the file does that.

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::collateral::{CollateralError, UnverifiedCollateral};

/// Answers and the chains that came in their headers, as PEM (the headers themselves are percent-encoded).
#[derive(Debug, Clone, Copy)]
pub struct Answers<'a> {
    /// TCB info of the platform's FMSPC.
    pub tcb_info: &'a [u8],
    /// Who signed it: the signer, then the root.
    pub tcb_info_issuers: &'a str,
    /// QE identity for TDX.
    pub qe_identity: &'a [u8],
    /// Who signed it: the signer, then the root.
    pub qe_identity_issuers: &'a str,
    /// Revocation list of the PCK's CA, DER.
    pub pck_crl: &'a [u8],
    /// Who signed it: the CA, then the root.
    pub pck_crl_issuers: &'a str,
    /// Revocation list of the root, DER.
    pub root_crl: &'a [u8],
}

#[derive(Deserialize)]
struct TcbInfoAnswer<'a> {
    #[serde(rename = "tcbInfo", borrow)]
    statement: &'a RawValue,
    signature: &'a str,
}

#[derive(Deserialize)]
struct IdentityAnswer<'a> {
    #[serde(rename = "enclaveIdentity", borrow)]
    statement: &'a RawValue,
    signature: &'a str,
}

impl Answers<'_> {
    /// The file that [`UnverifiedCollateral::parse`] reads.
    ///
    /// # Errors
    /// [`CollateralError`], if an answer is not one, or if the file could not be read.
    pub fn to_file(&self) -> Result<Vec<u8>, CollateralError> {
        let info: TcbInfoAnswer<'_> = serde_json::from_slice(self.tcb_info).map_err(unreadable)?;
        let identity: IdentityAnswer<'_> = serde_json::from_slice(self.qe_identity).map_err(unreadable)?;
        let file = json!({
            "tcb_info": info.statement.get(),
            "tcb_info_signature": info.signature,
            "tcb_info_issuer_chain": self.tcb_info_issuers,
            "qe_identity": identity.statement.get(),
            "qe_identity_signature": identity.signature,
            "qe_identity_issuer_chain": self.qe_identity_issuers,
            "pck_crl": hex::encode(self.pck_crl),
            "pck_crl_issuer_chain": self.pck_crl_issuers,
            "root_ca_crl": hex::encode(self.root_crl),
        });
        let bytes = file.to_string().into_bytes();
        UnverifiedCollateral::parse(&bytes)?;
        Ok(bytes)
    }
}

/// A chain from its header: replaces each `%` and the two hexadecimal digits behind it; `None` if they are missing. PEM has no
/// `%` and stays as it is.
pub fn issuer_chain(header: &str) -> Option<String> {
    let mut parts = header.trim().split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

fn unreadable(error: serde_json::Error) -> CollateralError {
    CollateralError::Json { reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &[u8] = include_bytes!("../../testdata/tdx/quote4-uptodate-phala/collateral.json");

    /// The texts of a real file.
    struct Texts(serde_json::Value);

    impl Texts {
        fn read() -> Self {
            Self(serde_json::from_slice(FILE).expect("JSON"))
        }

        fn get(&self, field: &str) -> &str {
            self.0[field].as_str().expect("a text")
        }

        fn der(&self, field: &str) -> Vec<u8> {
            hex::decode(self.get(field)).expect("hexadecimal")
        }

        /// Statement and signature as Intel's service sends them.
        fn answer(&self, field: &str, name: &str) -> String {
            let signature = self.get(&format!("{field}_signature"));
            format!("{{\"{name}\":{},\"signature\":\"{signature}\"}}", self.get(field))
        }

        fn to_file(&self, tcb_info: &str) -> Result<Vec<u8>, CollateralError> {
            let identity = self.answer("qe_identity", "enclaveIdentity");
            let answers = Answers {
                tcb_info: tcb_info.as_bytes(),
                tcb_info_issuers: self.get("tcb_info_issuer_chain"),
                qe_identity: identity.as_bytes(),
                qe_identity_issuers: self.get("qe_identity_issuer_chain"),
                pck_crl: &self.der("pck_crl"),
                pck_crl_issuers: self.get("pck_crl_issuer_chain"),
                root_crl: &self.der("root_ca_crl"),
            };
            answers.to_file()
        }
    }

    #[test]
    fn answers_become_the_file_that_they_were_taken_from() {
        let texts = Texts::read();
        let file = texts.to_file(&texts.answer("tcb_info", "tcbInfo")).expect("a file");
        assert_eq!(UnverifiedCollateral::parse(&file), UnverifiedCollateral::parse(FILE));
    }

    #[test]
    fn a_statement_keeps_every_blank_that_was_signed() {
        let texts = Texts::read();
        let answer = "{\"tcbInfo\": { \"id\" :\n1 } , \"signature\":\"00\"}";
        let file = UnverifiedCollateral::parse(&texts.to_file(answer).expect("a file")).expect("collateral");
        assert_eq!(file.tcb_info.text, "{ \"id\" :\n1 }");
    }

    #[test]
    fn the_answer_to_another_question_is_refused() {
        let texts = Texts::read();
        let refused = texts.to_file(&texts.answer("qe_identity", "enclaveIdentity"));
        assert!(matches!(refused, Err(CollateralError::Json { .. })), "{refused:?}");
    }

    #[test]
    fn a_header_is_decoded_and_pem_stays_as_it_is() {
        assert_eq!(
            issuer_chain("-----BEGIN%20C-----%0AMII%2B\n").as_deref(),
            Some("-----BEGIN C-----\nMII+")
        );
        assert_eq!(issuer_chain("-----BEGIN C-----\nMII+").as_deref(), Some("-----BEGIN C-----\nMII+"));
    }

    #[test]
    fn a_header_that_is_cut_is_refused() {
        assert_eq!(issuer_chain("-----BEGIN%2"), None);
        assert_eq!(issuer_chain("-----BEGIN%zz"), None);
    }
}
