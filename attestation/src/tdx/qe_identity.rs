//! QE identity, version 2: what Intel's quoting enclave for TDX must be (Intel PCS API, version 4).
//!
//! Parsed only after its signature was verified over the very same bytes.

use serde::Deserialize;

use super::enclave::EnclaveReport;
use super::hexadecimal::{fixed, time};
use super::tcb_info::{IsvLevel, TcbInfoError, order};
use super::tcb_status::TcbStatus;
use crate::time::UnixTime;

/// What the quoting enclave must be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QeIdentity {
    id: String,
    version: u32,
    /// When Intel made it.
    #[serde(deserialize_with = "time")]
    pub issue_date: UnixTime,
    /// When it is no longer good.
    #[serde(deserialize_with = "time")]
    pub next_update: UnixTime,
    /// Counts up with every disclosure that Intel has taken into account.
    pub tcb_evaluation_data_number: u32,
    #[serde(deserialize_with = "fixed")]
    miscselect: [u8; 4],
    #[serde(deserialize_with = "fixed")]
    miscselect_mask: [u8; 4],
    #[serde(deserialize_with = "fixed")]
    attributes: [u8; 16],
    #[serde(deserialize_with = "fixed")]
    attributes_mask: [u8; 16],
    /// Its signer.
    #[serde(deserialize_with = "fixed")]
    pub mrsigner: [u8; 32],
    /// Its product number.
    pub isvprodid: u16,
    /// Levels, the highest first.
    pub tcb_levels: Vec<IsvLevel>,
}

/// Why QE identity cannot be used for a TDX quote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QeIdentityError {
    /// Not JSON, or not the fields that a QE identity has.
    #[error("QE identity cannot be read: {reason}")]
    Json {
        /// What the parser says.
        reason: String,
    },
    /// Of another enclave or format.
    #[error("QE identity is of id {id:?}, version {version}: id \"TD_QE\", version 2 is understood")]
    Kind {
        /// Identifier found.
        id: String,
        /// Version found.
        version: u32,
    },
    /// Levels that cannot be.
    #[error(transparent)]
    Levels(#[from] TcbInfoError),
}

/// A field of a quoting enclave's report that is not what Intel says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mismatch {
    pub(super) expected: String,
    pub(super) found: String,
}

impl QeIdentity {
    /// Reads the JSON text that Intel signs: the value of `enclaveIdentity` in the answer of Intel's service.
    ///
    /// # Errors
    /// [`QeIdentityError`]
    pub fn parse(json: &[u8]) -> Result<Self, QeIdentityError> {
        let identity = serde_json::from_slice(json);
        let mut identity: Self =
            identity.map_err(|error| QeIdentityError::Json { reason: error.to_string() })?;
        if identity.id != "TD_QE" || identity.version != 2 {
            return Err(QeIdentityError::Kind { id: identity.id, version: identity.version });
        }
        order(&mut identity.tcb_levels)?;
        Ok(identity)
    }

    /// Holds the enclave's report against this identity, apart from its security version.
    pub(super) fn compare(&self, report: &EnclaveReport) -> Result<(), Mismatch> {
        // Intel's library takes the hexadecimal text of MISCSELECT in the order of the report's bytes.
        let miscselect = masked(report.misc_select.to_le_bytes(), self.miscselect_mask);
        compare("miscselect", &self.miscselect, &miscselect)?;
        compare("attributes", &self.attributes, &masked(report.attributes, self.attributes_mask))?;
        compare("mrsigner", &self.mrsigner, &report.mr_signer)?;
        compare("isvprodid", &self.isvprodid.to_be_bytes(), &report.isv_prod_id.to_be_bytes())
    }

    /// The level that an enclave of this security version has reached.
    fn level(&self, isv_svn: u16) -> Option<&IsvLevel> {
        self.tcb_levels.iter().find(|level| level.tcb.isvsvn <= isv_svn)
    }

    /// Advisories about an enclave of this security version.
    pub(super) fn advisories(&self, isv_svn: u16) -> &[String] {
        self.level(isv_svn).map_or(&[], |level| &level.advisory_ids)
    }

    /// What Intel says of an enclave of this security version.
    pub fn status(&self, isv_svn: u16) -> TcbStatus {
        self.level(isv_svn).map_or(TcbStatus::NotSupported, |level| level.tcb_status)
    }
}

fn masked<const N: usize>(mut bytes: [u8; N], mask: [u8; N]) -> [u8; N] {
    bytes.iter_mut().zip(mask).for_each(|(byte, mask)| *byte &= mask);
    bytes
}

fn compare(field: &'static str, expected: &[u8], found: &[u8]) -> Result<(), Mismatch> {
    if expected == found {
        return Ok(());
    }
    let text = |bytes: &[u8]| format!("{field} {}", hex::encode(bytes));
    Err(Mismatch { expected: text(expected), found: text(found) })
}
