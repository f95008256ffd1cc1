//! TCB info, version 3: what Intel says of platforms of one FMSPC (Intel PCS API, version 4, "TDX TCB info").
//!
//! Parsed only after its signature was verified over the very same bytes. Fields that are not read here may be there:
//! Intel adds some, and signs them.

use std::cmp::{Ordering, Reverse};

use serde::Deserialize;

use super::hexadecimal::{fixed, time};
use super::tcb_status::TcbStatus;
use crate::time::UnixTime;

/// Most levels, module identities or advisories that are looked at; Intel publishes about twenty.
const MOST: usize = 256;

/// What Intel says of platforms of one FMSPC.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TcbInfo {
    id: String,
    version: u32,
    /// When Intel made it.
    #[serde(deserialize_with = "time")]
    pub issue_date: UnixTime,
    /// When it is no longer good.
    #[serde(deserialize_with = "time")]
    pub next_update: UnixTime,
    /// Platforms that it is about.
    #[serde(deserialize_with = "fixed")]
    pub fmspc: [u8; 6],
    /// Provisioning certification enclave that it is about.
    #[serde(deserialize_with = "fixed")]
    pub pce_id: [u8; 2],
    tcb_type: u32,
    /// Counts up with every disclosure that Intel has taken into account.
    pub tcb_evaluation_data_number: u32,
    /// What a TDX module of version 0 must be.
    pub tdx_module: TdxModule,
    /// What TDX modules of the other versions must be.
    #[serde(default)]
    pub tdx_module_identities: Vec<TdxModuleIdentity>,
    /// Levels, the highest first.
    pub tcb_levels: Vec<TcbLevel>,
}

/// What a TDX module must be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TdxModule {
    /// Its signer.
    #[serde(deserialize_with = "fixed")]
    pub mrsigner: [u8; 48],
    /// Its attributes, in the bits of the mask.
    #[serde(deserialize_with = "fixed")]
    pub attributes: [u8; 8],
    /// Bits that are compared.
    #[serde(deserialize_with = "fixed")]
    pub attributes_mask: [u8; 8],
}

/// What a TDX module of one version must be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TdxModuleIdentity {
    /// `TDX_` and the version in two hexadecimal digits.
    pub id: String,
    /// What it must be.
    #[serde(flatten)]
    pub module: TdxModule,
    /// Levels, the highest first.
    pub tcb_levels: Vec<IsvLevel>,
}

/// A level of a TDX module or a quoting enclave.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IsvLevel {
    /// From which security version on.
    pub tcb: IsvTcb,
    /// What was known up to this date is taken into account.
    #[serde(deserialize_with = "time")]
    pub tcb_date: UnixTime,
    /// What Intel says of it.
    pub tcb_status: TcbStatus,
    /// Why it is not up to date.
    #[serde(default, rename = "advisoryIDs")]
    pub advisory_ids: Vec<String>,
}

/// The security version of a TDX module or a quoting enclave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct IsvTcb {
    /// Security version.
    pub isvsvn: u16,
}

/// A level of a platform.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TcbLevel {
    /// From which versions on.
    pub tcb: Tcb,
    /// What was known up to this date is taken into account.
    #[serde(deserialize_with = "time")]
    pub tcb_date: UnixTime,
    /// What Intel says of it.
    pub tcb_status: TcbStatus,
    /// Why it is not up to date.
    #[serde(default, rename = "advisoryIDs")]
    pub advisory_ids: Vec<String>,
}

/// Versions of everything a TD relies on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Tcb {
    /// What the PCK certificate is compared with.
    #[serde(rename = "sgxtcbcomponents")]
    pub sgx: [Component; 16],
    /// The provisioning certification enclave's.
    pub pcesvn: u16,
    /// What the TD report is compared with.
    #[serde(rename = "tdxtcbcomponents")]
    pub tdx: [Component; 16],
}

/// The version of one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Component {
    /// Security version.
    pub svn: u8,
}

/// Why TCB info cannot be used for a TDX quote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TcbInfoError {
    /// Not JSON, or not the fields that TCB info has.
    #[error("TCB info cannot be read: {reason}")]
    Json {
        /// What the parser says.
        reason: String,
    },
    /// Of another TEE or format.
    #[error(
        "TCB info is of id {id:?}, version {version}, type {kind}: id \"TDX\", version 3, type 0 is understood"
    )]
    Kind {
        /// Identifier found.
        id: String,
        /// Version found.
        version: u32,
        /// TCB type found.
        kind: u32,
    },
    /// A list that is empty or too long.
    #[error("Intel's statement has {found} {list}: 1 to {MOST} can be")]
    Length {
        /// What the list is of.
        list: &'static str,
        /// Entries found.
        found: usize,
    },
    /// Two entries for the same thing.
    #[error("Intel's statement has two {list} for the same versions")]
    Twice {
        /// What the list is of.
        list: &'static str,
    },
}

impl TcbInfo {
    /// Reads the JSON text that Intel signs: the value of `tcbInfo` in the answer of Intel's service.
    ///
    /// # Errors
    /// [`TcbInfoError`]
    pub fn parse(json: &[u8]) -> Result<Self, TcbInfoError> {
        let info = serde_json::from_slice(json);
        let mut info: Self = info.map_err(|error| TcbInfoError::Json { reason: error.to_string() })?;
        if info.id != "TDX" || info.version != 3 || info.tcb_type != 0 {
            return Err(TcbInfoError::Kind { id: info.id, version: info.version, kind: info.tcb_type });
        }
        info.order_levels()?;
        if info.tdx_module_identities.len() > MOST {
            let found = info.tdx_module_identities.len();
            return Err(TcbInfoError::Length { list: "TDX module identities", found });
        }
        info.tdx_module_identities.iter_mut().try_for_each(|identity| order(&mut identity.tcb_levels))?;
        Ok(info)
    }

    /// The highest level first, as Intel's library has it: the order in the text means nothing.
    fn order_levels(&mut self) -> Result<(), TcbInfoError> {
        let levels = &mut self.tcb_levels;
        bounded("TCB levels", levels.len())?;
        levels.sort_by(|a, b| b.tcb.cmp(&a.tcb));
        let twice =
            levels.iter().zip(levels.iter().skip(1)).any(|(a, b)| a.tcb.cmp(&b.tcb) == Ordering::Equal);
        if twice { Err(TcbInfoError::Twice { list: "TCB levels" }) } else { Ok(()) }
    }

    /// What is said of TDX modules of `version`.
    pub(super) fn identity(&self, version: u8) -> Option<&TdxModuleIdentity> {
        let id = format!("TDX_{version:02X}");
        self.tdx_module_identities.iter().find(|identity| identity.id.eq_ignore_ascii_case(&id))
    }
}

/// The highest level first, for a TDX module or a quoting enclave.
pub(super) fn order(levels: &mut [IsvLevel]) -> Result<(), TcbInfoError> {
    bounded("levels", levels.len())?;
    levels.sort_by_key(|level| Reverse(level.tcb.isvsvn));
    let twice = levels.iter().zip(levels.iter().skip(1)).any(|(a, b)| a.tcb.isvsvn == b.tcb.isvsvn);
    if twice { Err(TcbInfoError::Twice { list: "levels" }) } else { Ok(()) }
}

fn bounded(list: &'static str, found: usize) -> Result<(), TcbInfoError> {
    if (1..=MOST).contains(&found) { Ok(()) } else { Err(TcbInfoError::Length { list, found }) }
}
