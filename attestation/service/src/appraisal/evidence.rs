//! Judges evidence of each kind, and binds it to the challenge, the guest's key and the initdata.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use base64ct::{Base64, Encoding};
use coffer_attestation::azure::{self, VtpmExpectations};
use coffer_attestation::handshake::{Attestation, Images, ImagesError, InitDataError, ReportData, Tee};
use coffer_attestation::snp::coco::CocoError;
use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::{Appraisal, Checks, Outcome};
use coffer_attestation::x509::{Certificate, RevocationList};
use coffer_attestation::{snp, tdx};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::chain::short_line_of;
use crate::challenge::Redeemed;
use crate::collateral::{Absent, Collateral, Content};
use crate::source::Source;

/// The register that Azure's guests extend with the initdata's digest.
const INITDATA_PCR: usize = 8;

/// Whom the operator believes.
#[derive(Debug, Clone)]
pub struct Trust {
    /// Roots of SNP; a simulated one only where it was named.
    pub snp: snp::TrustedRoots,
    /// Roots of TDX.
    pub tdx: tdx::TrustedRoots,
    /// Intel's collateral for the operator's machines, in JSON.
    pub tdx_collateral: Option<Vec<u8>>,
    /// Certificates, revocation lists and collateral of their makers, where they are kept.
    pub collateral: Option<Arc<Collateral>>,
    /// Whether evidence of SNP is worth nothing without a revocation list.
    pub snp_revocation_list: bool,
    /// Whether evidence without any hardware is looked at: for trying out.
    pub insecure_sample: bool,
}

impl Trust {
    /// The makers of processors and nobody else.
    pub fn makers() -> Self {
        Self {
            snp: snp::TrustedRoots::amd(),
            tdx: tdx::TrustedRoots::intel(),
            tdx_collateral: None,
            collateral: None,
            snp_revocation_list: false,
            insecure_sample: false,
        }
    }
}

/// Evidence that was judged for one challenge.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// What kind it is.
    pub tee: Tee,
    /// What it is worth.
    pub appraisal: Appraisal,
    /// The images that the guest says it has admitted, if it judges images. As good as the appraisal: the report's data cover
    /// them.
    pub images: Option<Images>,
}

/// Why there is nothing to judge.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// Evidence of devices that nobody here can judge, or records of images that are none.
    #[error("the additional evidence cannot be judged here, and evidence is not passed over: leave it out")]
    Additional(#[source] ImagesError),
    /// Evidence without hardware.
    #[error("sample evidence proves nothing: it is taken only where the operator set insecure-sample")]
    Sample,
    /// Initdata that the hardware cannot carry whole.
    #[error("the initdata cannot be compared")]
    InitData(#[from] InitDataError),
    /// A key without a certificate.
    #[error(transparent)]
    Absent(#[from] Absent),
    /// Not evidence of the kind that was announced.
    #[error("this is no evidence of kind {tee}: {reason}")]
    Form {
        /// The kind.
        tee: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// By whom evidence is shown, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Which client: nobody may have more fetched than its share.
    pub from: Source,
    /// Now.
    pub at: UnixTime,
}

/// Judges what was sent in answer to `redeemed`.
///
/// # Errors
/// [`JudgeError`]; evidence that is read and wrong is no error, but a verdict.
pub fn judge(
    sent: &Attestation,
    redeemed: &Redeemed,
    trust: &Trust,
    asked: Asked,
) -> Result<Judged, JudgeError> {
    let images = (!sent.additional.is_empty()).then(|| Images::parse(&sent.additional)).transpose();
    let images = images.map_err(JudgeError::Additional)?;
    let form = |reason: &(dyn Error + 'static)| form(redeemed.tee, reason);
    let bound = sent.report_data(redeemed.hash).map_err(|error| form(&error))?;
    let json = sent.evidence.as_bytes();
    let Asked { from, at } = asked;
    let case = Case { sent, tee: redeemed.tee, bound: &bound, trust, from, at };
    let appraisal = match redeemed.tee {
        Tee::Snp => case.snp(case.snp_evidence(json)?)?,
        Tee::Tdx => case.tdx(&tdx::coco::parse(json).map_err(|error| form(&error))?)?,
        Tee::AzSnpVtpm => case.azure_snp(azure::parse_snp(json).map_err(|error| form(&error))?)?,
        Tee::Sample if trust.insecure_sample => case.sample()?,
        Tee::Sample => return Err(JudgeError::Sample),
    };
    Ok(Judged { tee: redeemed.tee, appraisal, images })
}

fn form(tee: Tee, reason: &(dyn Error + 'static)) -> JudgeError {
    JudgeError::Form { tee: tee.name(), reason: short_line_of(reason) }
}

struct Case<'a> {
    sent: &'a Attestation,
    tee: Tee,
    bound: &'a ReportData,
    trust: &'a Trust,
    from: Source,
    at: UnixTime,
}

impl Case<'_> {
    /// The digest of the initdata for a field of `N` bytes, if initdata was sent.
    fn initdata<const N: usize>(&self) -> Result<Option<[u8; N]>, InitDataError> {
        self.sent.init_data.as_ref().map(|data| data.field()).transpose()
    }

    /// What was sent, with the certificate of the key that the report names where none was sent.
    fn snp_evidence(&self, json: &[u8]) -> Result<snp::Evidence, JudgeError> {
        let form = |reason: &(dyn Error + 'static)| form(self.tee, reason);
        match (snp::coco::parse(json, None), &self.trust.collateral) {
            (Err(CocoError::NoKey), Some(collateral)) => {
                let report = snp::coco::parse_report(json).map_err(|error| form(&error))?;
                let report = snp::UnverifiedReport::parse(&report).map_err(|error| form(&error))?;
                let (vcek, above) = collateral.vcek(&report, self.from, self.at)?;
                let mut evidence = snp::coco::parse(json, Some(vcek)).map_err(|error| form(&error))?;
                if evidence.authorities.is_empty() {
                    evidence.authorities = above;
                }
                Ok(evidence)
            }
            (evidence, _) => evidence.map_err(|error| form(&error)),
        }
    }

    /// The list that is kept for the key's authorities. Where one is kept the evidence need not bring it, and cannot choose an
    /// older one.
    fn lists(&self, vek: &Certificate, sent: Vec<RevocationList>) -> Vec<RevocationList> {
        let kept =
            self.trust.collateral.as_ref().and_then(|collateral| collateral.list(vek, self.from, self.at));
        kept.map_or(sent, |list| vec![list])
    }

    fn snp(&self, mut evidence: snp::Evidence) -> Result<Appraisal, InitDataError> {
        evidence.revocation = self.lists(&evidence.vek, evidence.revocation);
        let expected = snp::Expectations {
            report_data: Some(self.bound.as_report_field()),
            host_data: self.initdata()?,
            vmpl: Some(0),
            revocation_list: self.trust.snp_revocation_list,
            ..snp::Expectations::default()
        };
        Ok(snp::appraise(&evidence, &expected, &self.trust.snp, self.at))
    }

    fn tdx(&self, sent: &tdx::coco::Sent) -> Result<Appraisal, InitDataError> {
        let expected = tdx::Expectations {
            report_data: Some(self.bound.as_report_field()),
            mr_config_id: self.initdata()?,
            ..tdx::Expectations::default()
        };
        let given = self.trust.tdx_collateral.as_deref();
        let kept = match (given, &self.trust.collateral) {
            (None, Some(collateral)) => collateral.platform(&sent.quote, self.from, self.at),
            _ => None,
        };
        let kept = kept.as_deref().and_then(|kept| match &kept.content {
            Content::Platform(json) => Some(json.as_slice()),
            _ => None,
        });
        let evidence = tdx::Evidence {
            quote: &sent.quote,
            collateral: given.or(kept),
            event_log: sent.event_log.as_deref(),
        };
        Ok(tdx::appraise(&evidence, &expected, &self.trust.tdx, self.at))
    }

    fn azure_snp(&self, mut evidence: azure::SnpEvidence) -> Result<Appraisal, InitDataError> {
        evidence.revocation = self.lists(&evidence.vek, evidence.revocation);
        let extended = self.initdata::<32>()?.map(|digest| {
            let value: [u8; 32] = Sha256::new().chain_update([0; 32]).chain_update(digest).finalize().into();
            (INITDATA_PCR, value)
        });
        let expected = VtpmExpectations {
            quote_data: Some(self.bound.as_bytes().to_vec()),
            pcrs: BTreeMap::from_iter(extended),
        };
        let hardware = snp::Expectations {
            revocation_list: self.trust.snp_revocation_list,
            ..snp::Expectations::default()
        };
        Ok(azure::appraise_snp(&evidence, &expected, &hardware, &self.trust.snp, self.at))
    }

    /// The stand-in of Confidential Containers: a hash that anybody can write.
    fn sample(&self) -> Result<Appraisal, InitDataError> {
        let mut checks = Checks::default();
        let evidence: Value = serde_json::from_str(&self.sent.evidence).unwrap_or_default();
        let carried = evidence.get("report_data").and_then(Value::as_str);
        let expected = Base64::encode_string(self.bound.as_bytes());
        let found: String = carried.unwrap_or("nothing").chars().take(128).collect();
        checks.require("report-data", carried == Some(expected.as_str()), &expected, found);
        checks.record("hardware", Outcome::Warned, "a processor that signs", "SIMULATED: sample evidence");
        let digest = self.sent.init_data.as_ref().map(|data| hex::encode(data.digest()));
        let claims = json!({ "tee": "sample", "simulated": true, "init_data": digest });
        let claims = claims.as_object().cloned().unwrap_or_else(Map::new);
        Ok(Appraisal::new(checks, claims))
    }
}
