//! The TD report inside a quote (Intel TDX DCAP Quoting Library API, appendix 3: TD quote bodies).
//!
//! ```text
//! 0x000 tee_tcb_svn[16] | 0x010 mr_seam[48] | 0x040 mr_signer_seam[48] | 0x070 seam_attributes[8]
//! 0x078 td_attributes u64 | 0x080 xfam u64 | 0x088 mr_td[48] | 0x0b8 mr_config_id[48] | 0x0e8 mr_owner[48]
//! 0x118 mr_owner_config[48] | 0x148 rtmr0..3 [48] each | 0x208 report_data[64]
//! TDX 1.5 only: 0x248 tee_tcb_svn_2[16] | 0x258 mr_service_td[48]
//! ```

use super::attributes::{TdAttributes, Xfam};
use crate::cursor::{Cursor, Short};

/// Length of a TDX 1.0 body in bytes.
pub(super) const TDX_1_0_BYTES: usize = 584;
/// Length of a TDX 1.5 body in bytes.
pub(super) const TDX_1_5_BYTES: usize = 648;

/// What the TDX module reports about a trust domain. A claim, until the quote around it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdReport {
    /// Security versions of the TDX module (bytes 0 and 1: minor and major) and of what it runs on.
    pub tee_tcb_svn: [u8; 16],
    /// Measurement of the TDX module.
    pub mr_seam: [u8; 48],
    /// Signer of the TDX module; zero for Intel's.
    pub mr_signer_seam: [u8; 48],
    /// Attributes of the TDX module; zero for production modules.
    pub seam_attributes: [u8; 8],
    /// Attributes of the trust domain.
    pub td_attributes: TdAttributes,
    /// CPU state that the trust domain may use.
    pub xfam: Xfam,
    /// Measurement of the initial contents of the trust domain.
    pub mr_td: [u8; 48],
    /// What the host configured, for example the digest of initdata.
    pub mr_config_id: [u8; 48],
    /// Owner of the trust domain, as the host says.
    pub mr_owner: [u8; 48],
    /// Configuration by the owner, as the host says.
    pub mr_owner_config: [u8; 48],
    /// Run-time measurement registers 0 to 3.
    pub rtmr: [[u8; 48]; 4],
    /// 64 bytes that the guest chose.
    pub report_data: [u8; 64],
    /// What only a TDX 1.5 body says.
    pub service_td: Option<ServiceTd>,
}

/// The end of a TDX 1.5 body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceTd {
    /// Security versions that run now; the first ones are those of the trust domain's launch.
    pub tee_tcb_svn_2: [u8; 16],
    /// Digest over the service TDs that are bound to this one; zero if there are none.
    pub mr_service_td: [u8; 48],
}

impl TdReport {
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self, Short> {
        Ok(Self {
            tee_tcb_svn: cursor.array("tee_tcb_svn")?,
            mr_seam: cursor.array("mr_seam")?,
            mr_signer_seam: cursor.array("mr_signer_seam")?,
            seam_attributes: cursor.array("seam_attributes")?,
            td_attributes: TdAttributes(cursor.u64_le("td_attributes")?),
            xfam: Xfam(cursor.u64_le("xfam")?),
            mr_td: cursor.array("mr_td")?,
            mr_config_id: cursor.array("mr_config_id")?,
            mr_owner: cursor.array("mr_owner")?,
            mr_owner_config: cursor.array("mr_owner_config")?,
            rtmr: [
                cursor.array("rtmr0")?,
                cursor.array("rtmr1")?,
                cursor.array("rtmr2")?,
                cursor.array("rtmr3")?,
            ],
            report_data: cursor.array("report_data")?,
            service_td: None,
        })
    }

    pub(super) fn read_1_5(cursor: &mut Cursor<'_>) -> Result<Self, Short> {
        let mut report = Self::read(cursor)?;
        report.service_td = Some(ServiceTd {
            tee_tcb_svn_2: cursor.array("tee_tcb_svn_2")?,
            mr_service_td: cursor.array("mr_service_td")?,
        });
        Ok(report)
    }

    /// Major version of the TDX module: which of Intel's module identities applies (0: TDX 1.0).
    pub fn module_version(&self) -> u8 {
        let [_, version, ..] = self.tee_tcb_svn;
        version
    }

    /// Security version of the TDX module within its major version.
    pub fn module_isv_svn(&self) -> u8 {
        let [svn, ..] = self.tee_tcb_svn;
        svn
    }
}
