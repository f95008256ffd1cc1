//! The ACPI table "CCEL", which says where a guest's event log lies (ACPI 6.5, section 5.2.34).
//!
//! ```text
//! "CCEL" | length u32 = 56 | revision u8 | checksum u8 | OEM[6] | OEM table[8] | OEM revision u32 | creator u32, u32
//! kind u8 | subtype u8 | reserved u16 | log's length in bytes u64 | log's physical address u64
//! ```
//! Bytes of the table add up to zero modulo 256. Numbers are little endian.

use crate::cursor::{Cursor, Short};

/// Length of the table in bytes.
pub const CCEL_TABLE_BYTES: usize = 56;

const SIGNATURE: [u8; 4] = *b"CCEL";
const TDX: u8 = 2;

/// Where the log lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CcelTable {
    /// Length of the memory that is reserved for the log, in bytes; the log itself may be shorter.
    pub log_length: u64,
    /// Its physical address.
    pub log_address: u64,
}

/// Why bytes are not the table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CcelTableError {
    /// Fewer bytes than the table has.
    #[error(transparent)]
    Short(#[from] Short),
    /// Another table, or another length.
    #[error(
        "this is no CCEL table of {CCEL_TABLE_BYTES} bytes: signature {}, length {length}",
        hex::encode(signature)
    )]
    Header {
        /// Signature found.
        signature: [u8; 4],
        /// Length that it claims, in bytes.
        length: u32,
    },
    /// Bytes after the table.
    #[error("{left} bytes follow after the CCEL table")]
    Trailing {
        /// Bytes left over.
        left: usize,
    },
    /// Damaged.
    #[error("the CCEL table's bytes add up to {found:#04x} modulo 256, they must add up to zero")]
    Checksum {
        /// Sum found.
        found: u8,
    },
    /// Of another kind of confidential guest.
    #[error("the CCEL table is for confidential guests of kind {found}, TDX is 2")]
    Kind {
        /// Kind found.
        found: u8,
    },
}

impl CcelTable {
    /// Parses the table, as `/sys/firmware/acpi/tables/CCEL` has it.
    ///
    /// # Errors
    /// [`CcelTableError`]
    pub fn parse(bytes: &[u8]) -> Result<Self, CcelTableError> {
        let mut cursor = Cursor::new(bytes);
        let signature = cursor.array("signature")?;
        let length = cursor.u32_le("length")?;
        if signature != SIGNATURE || usize::try_from(length) != Ok(CCEL_TABLE_BYTES) {
            return Err(CcelTableError::Header { signature, length });
        }
        cursor.bytes("revision, checksum, OEM and creator", 28)?;
        let kind = cursor.u8("kind")?;
        cursor.bytes("subtype and reserved", 3)?;
        let table =
            Self { log_length: cursor.u64_le("log length")?, log_address: cursor.u64_le("log address")? };
        if !cursor.rest().is_empty() {
            return Err(CcelTableError::Trailing { left: cursor.rest().len() });
        }
        let sum = bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
        if sum != 0 {
            return Err(CcelTableError::Checksum { found: sum });
        }
        if kind != TDX {
            return Err(CcelTableError::Kind { found: kind });
        }
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GCP: &[u8] = include_bytes!("../../testdata/tdx/quote4-gcp-cos113/ccel_table.dat");

    #[test]
    fn a_real_table_says_where_the_log_lies() {
        let table = CcelTable { log_length: 0x40000, log_address: 0xbedbf000 };
        assert_eq!(CcelTable::parse(GCP), Ok(table));
    }

    #[test]
    fn a_damaged_table_is_refused() {
        let mut table = GCP.to_vec();
        table[48] ^= 1;
        assert_eq!(CcelTable::parse(&table), Err(CcelTableError::Checksum { found: 1 }));
    }

    #[test]
    fn a_table_for_other_guests_is_refused() {
        let mut table = GCP.to_vec();
        (table[36], table[9]) = (1, table[9].wrapping_add(1));
        assert_eq!(CcelTable::parse(&table), Err(CcelTableError::Kind { found: 1 }));
    }

    #[test]
    fn another_table_is_refused() {
        let mut table = GCP.to_vec();
        table[..4].copy_from_slice(b"TPM2");
        assert!(matches!(CcelTable::parse(&table), Err(CcelTableError::Header { .. })));
    }

    #[test]
    fn a_table_that_is_cut_or_longer_is_refused() {
        assert!(matches!(CcelTable::parse(&GCP[..55]), Err(CcelTableError::Short(_))));
        let longer = [GCP, &[0]].concat();
        assert_eq!(CcelTable::parse(&longer), Err(CcelTableError::Trailing { left: 1 }));
    }
}
