//! The quoting enclave's own report (Intel SGX REPORTBODY, 384 bytes), which vouches for the attestation key.
//!
//! ```text
//! 0x000 cpu_svn[16] | 0x010 misc_select u32 | 0x014 reserved[28] | 0x030 attributes[16] | 0x040 mr_enclave[32]
//! 0x060 reserved[32] | 0x080 mr_signer[32] | 0x0a0 reserved[96] | 0x100 isv_prod_id u16 | 0x102 isv_svn u16
//! 0x104 reserved[60] | 0x140 report_data[64]
//! ```

use crate::cursor::{Cursor, Short};

/// Length of an enclave report in bytes.
pub const ENCLAVE_REPORT_BYTES: usize = 384;

/// Bit 1 of the first byte of an enclave's attributes.
const DEBUG: u8 = 1 << 1;

/// What SGX reports about the quoting enclave. A claim, until the quote around it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnclaveReport {
    /// Security versions of the CPU, as SGX encodes them.
    pub cpu_svn: [u8; 16],
    /// Extended state that the enclave saves on exceptions.
    pub misc_select: u32,
    /// Flags and XFRM.
    pub attributes: [u8; 16],
    /// Measurement of the enclave.
    pub mr_enclave: [u8; 32],
    /// Digest of the key that signed the enclave.
    pub mr_signer: [u8; 32],
    /// Product number by that signer.
    pub isv_prod_id: u16,
    /// Security version of that product.
    pub isv_svn: u16,
    /// SHA-256 over attestation key and authentication data, then zeros.
    pub report_data: [u8; 64],
}

impl EnclaveReport {
    pub(super) fn read(bytes: &[u8; ENCLAVE_REPORT_BYTES]) -> Result<Self, Short> {
        let mut cursor = Cursor::new(bytes);
        let cpu_svn = cursor.array("cpu_svn")?;
        let misc_select = cursor.u32_le("misc_select")?;
        cursor.bytes("reserved", 28)?;
        let attributes = cursor.array("attributes")?;
        let mr_enclave = cursor.array("mr_enclave")?;
        cursor.bytes("reserved", 32)?;
        let mr_signer = cursor.array("mr_signer")?;
        cursor.bytes("reserved", 96)?;
        let isv_prod_id = cursor.u16_le("isv_prod_id")?;
        let isv_svn = cursor.u16_le("isv_svn")?;
        cursor.bytes("reserved", 60)?;
        let report_data = cursor.array("report_data")?;
        Ok(Self {
            cpu_svn,
            misc_select,
            attributes,
            mr_enclave,
            mr_signer,
            isv_prod_id,
            isv_svn,
            report_data,
        })
    }

    /// Whether the enclave's memory can be read from outside.
    pub fn debug(&self) -> bool {
        let [flags, ..] = self.attributes;
        flags & DEBUG != 0
    }
}
