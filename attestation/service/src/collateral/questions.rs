//! What the makers' services are asked for an item, and how their answers become one.
//!
//! AMD's Key Distribution Service (publication 57230, section 4): `/vcek/v1/PRODUCT/…`. Intel's Provisioning Certification
//! Service, version 4: `/tdx/certification/v4/…`, `/sgx/certification/v4/pckcrl`, and the root's list on a server of its own.

use coffer_attestation::snp::Tcb;
use coffer_attestation::tdx::{Answers, CollateralError, PlatformKind, issuer_chain};

use super::https::{Got, Origin};
use super::item::Item;

/// The longest certificate or chain, list, and statement, in bytes.
const CERTIFICATES: usize = 32 << 10;
const LIST: usize = 1 << 20;
const STATEMENT: usize = 256 << 10;

/// Where the makers' services are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Makers {
    /// AMD's Key Distribution Service.
    pub amd: Origin,
    /// Intel's Provisioning Certification Service, or a cache in its place that speaks the same.
    pub intel: Origin,
    /// Where the list of Intel's root is.
    pub intel_root: Origin,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question<'a> {
    pub(super) origin: &'a Origin,
    /// Path and query.
    pub(super) path: String,
    /// The most that is read.
    pub(super) limit: usize,
}

impl Item {
    /// What has to be asked. Only what the evidence itself names is in it.
    pub(super) fn questions<'a>(&self, makers: &'a Makers) -> Vec<Question<'a>> {
        let amd = |path, limit| vec![Question { origin: &makers.amd, path, limit }];
        match self {
            Item::List { generation, .. } => amd(format!("/vcek/v1/{generation}/crl"), LIST),
            Item::Chain { generation } => amd(format!("/vcek/v1/{generation}/cert_chain"), CERTIFICATES),
            Item::Vcek { generation, chip, tcb } => {
                let Tcb { fmc, boot_loader, tee, snp, microcode } = tcb;
                let fmc = fmc.map_or_else(String::new, |fmc| format!("fmcSPL={fmc:02}&"));
                let chip = hex::encode(chip);
                let versions = format!(
                    "{fmc}blSPL={boot_loader:02}&teeSPL={tee:02}&snpSPL={snp:02}&ucodeSPL={microcode:02}"
                );
                amd(format!("/vcek/v1/{generation}/{chip}?{versions}"), CERTIFICATES)
            }
            Item::Platform(PlatformKind { fmspc, authority }) => {
                let (fmspc, ca) = (hex::encode(fmspc), authority.name());
                let intel = |path, limit| Question { origin: &makers.intel, path, limit };
                vec![
                    intel(format!("/tdx/certification/v4/tcb?fmspc={fmspc}"), STATEMENT),
                    intel("/tdx/certification/v4/qe/identity".to_owned(), STATEMENT),
                    intel(format!("/sgx/certification/v4/pckcrl?ca={ca}&encoding=der"), LIST),
                    Question {
                        origin: &makers.intel_root,
                        path: "/IntelSGXRootCA.der".to_owned(),
                        limit: LIST,
                    },
                ]
            }
        }
    }

    /// Puts the answers together, in the order of the questions.
    pub(super) fn assemble(&self, answers: Vec<Got>) -> Result<Vec<u8>, CollateralError> {
        match (self, answers.as_slice()) {
            (Item::Platform(_), [info, identity, list, root]) => Answers {
                tcb_info: &info.body,
                tcb_info_issuers: &chain(info, "TCB-Info-Issuer-Chain")?,
                qe_identity: &identity.body,
                qe_identity_issuers: &chain(identity, "SGX-Enclave-Identity-Issuer-Chain")?,
                pck_crl: &list.body,
                pck_crl_issuers: &chain(list, "SGX-PCK-CRL-Issuer-Chain")?,
                root_crl: &root.body,
            }
            .to_file(),
            _ => Ok(answers.into_iter().next().map(|answer| answer.body).unwrap_or_default()),
        }
    }
}

fn chain(answer: &Got, header: &'static str) -> Result<String, CollateralError> {
    let value = answer.headers.get(header).and_then(|value| value.to_str().ok());
    value
        .and_then(issuer_chain)
        .ok_or_else(|| CollateralError::Json { reason: format!("the header {header} holds no chain") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_attestation::snp::Generation;
    use coffer_attestation::tdx::PckAuthority;

    fn paths(item: &Item) -> Vec<String> {
        let at = |host: &str| format!("https://{host}").parse().expect("a service");
        let makers = Makers { amd: at("amd"), intel: at("intel"), intel_root: at("root") };
        let questions = item.questions(&makers);
        questions.iter().map(|question| format!("{}{}", question.origin, question.path)).collect()
    }

    #[test]
    fn amds_service_is_asked_with_chip_and_versions_in_two_digits() {
        let tcb = Tcb { fmc: None, boot_loader: 4, tee: 0, snp: 24, microcode: 219 };
        let milan = Item::Vcek { generation: Generation::Milan, chip: vec![0xab, 0xcd], tcb };
        let expected = "https://amd/vcek/v1/Milan/abcd?blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219";
        assert_eq!(paths(&milan), [expected]);
        let newer = Tcb { fmc: Some(1), ..tcb };
        let turin = Item::Vcek { generation: Generation::Turin, chip: vec![1; 8], tcb: newer };
        let expected =
            "https://amd/vcek/v1/Turin/0101010101010101?fmcSPL=01&blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219";
        assert_eq!(paths(&turin), [expected]);
    }

    #[test]
    fn intels_service_is_asked_four_things_of_a_platform() {
        let kind = PlatformKind { fmspc: [0xb0, 0xc0, 0x6f, 0, 0, 0], authority: PckAuthority::Platform };
        let expected = [
            "https://intel/tdx/certification/v4/tcb?fmspc=b0c06f000000",
            "https://intel/tdx/certification/v4/qe/identity",
            "https://intel/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
            "https://root/IntelSGXRootCA.der",
        ];
        assert_eq!(paths(&Item::Platform(kind)), expected);
    }

    #[test]
    fn an_answer_of_intels_without_its_chain_is_refused() {
        let kind = PlatformKind { fmspc: [0; 6], authority: PckAuthority::Platform };
        let got = || Got { body: Vec::new(), headers: Default::default() };
        let refused = Item::Platform(kind).assemble(vec![got(), got(), got(), got()]);
        assert!(refused.is_err_and(|error| error.to_string().contains("TCB-Info-Issuer-Chain")));
    }
}
