//! The table of certificates that a host hands to a guest beside a report (GHCB specification, publication 56421, section
//! 4.1.8.1): what Linux's configfs-tsm calls `auxblob`.
//!
//! ```text
//! entries: GUID[16] | offset u32 | length u32, little endian, until a GUID of zeros ── then the certificates, at their offsets
//! ```

/// The longest table that is read, in bytes.
pub const MAX_TABLE_BYTES: usize = 64 << 10;

const ENTRY_BYTES: usize = 24;
const MAX_ENTRIES: usize = 16;

/// Kinds of entries, by the names that evidence has for them, and their GUIDs in the order in which they are printed.
const KINDS: [(&str, [u8; 16]); 5] = [
    ("VCEK", 0x63da758d_e664_4564_adc5_f4b93be8accd_u128.to_be_bytes()),
    ("VLEK", 0xa8074bc2_a25a_483e_aae6_39c045a0b8a1_u128.to_be_bytes()),
    ("ASK", 0x4ab7b379_bbac_4fe4_a02f_05aef327c782_u128.to_be_bytes()),
    ("ARK", 0xc0b406a4_a803_4952_9743_3fb6014cd0ae_u128.to_be_bytes()),
    ("CRL", 0x92f81bc3_5811_4d3d_97ff_d19f88dc67ea_u128.to_be_bytes()),
];

/// Why bytes are no table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Longer than anything real.
    #[error("a table of certificates may have {MAX_TABLE_BYTES} bytes, this has {found}")]
    TooLong {
        /// Length found.
        found: usize,
    },
    /// More entries than there are kinds of.
    #[error("the table of certificates does not end within {MAX_ENTRIES} entries")]
    NoEnd,
    /// A certificate that is not in the table.
    #[error(
        "entry {index} of the table of certificates lies at {offset} with {length} bytes, the table has {found}"
    )]
    Outside {
        /// Which entry, from 0.
        index: usize,
        /// Where it says that it lies.
        offset: u32,
        /// How long it says that it is.
        length: u32,
        /// Length of the table.
        found: usize,
    },
}

/// Reads a table; entries of other kinds are the host's own business. Nothing at all is an empty table.
///
/// # Errors
/// [`TableError`]
pub fn read(table: &[u8]) -> Result<Vec<(&'static str, &[u8])>, TableError> {
    if table.len() > MAX_TABLE_BYTES {
        return Err(TableError::TooLong { found: table.len() });
    }
    let mut found = Vec::new();
    for (index, entry) in table.chunks(ENTRY_BYTES).enumerate() {
        let (Some((guid, place)), true) = (entry.split_first_chunk::<16>(), index < MAX_ENTRIES) else {
            return Err(TableError::NoEnd);
        };
        if *guid == [0; 16] {
            return Ok(found);
        }
        let number = |at: usize| place.get(at..).and_then(|rest| rest.first_chunk::<4>());
        let (Some(offset), Some(length)) = (number(0), number(4)) else { return Err(TableError::NoEnd) };
        let (offset, length) = (u32::from_le_bytes(*offset), u32::from_le_bytes(*length));
        let outside = TableError::Outside { index, offset, length, found: table.len() };
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let to = from.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        let content = table.get(from..to).ok_or(outside)?;
        if let Some((kind, _)) = KINDS.iter().find(|(_, known)| known == guid) {
            found.push((*kind, content));
        }
    }
    if table.is_empty() { Ok(found) } else { Err(TableError::NoEnd) }
}

/// Writes a table. What is of no kind that there is, is left out.
pub fn write(certificates: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let known = |kind: &str| KINDS.iter().find(|(name, _)| *name == kind).map(|(_, guid)| guid);
    let kept: Vec<_> = certificates.iter().filter_map(|(kind, der)| Some((known(kind)?, der))).collect();
    let (mut table, mut contents) = (Vec::new(), Vec::<u8>::new());
    let begin = (kept.len() + 1) * ENTRY_BYTES;
    for (guid, der) in kept {
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
        table.extend(guid);
        table.extend(number(begin + contents.len()));
        table.extend(number(der.len()));
        contents.extend(der);
    }
    table.extend([0; ENTRY_BYTES]);
    table.extend(contents);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<u8> {
        write(&[("VCEK", vec![1, 2, 3]), ("ASK", vec![4])])
    }

    #[test]
    fn a_table_reads_as_it_was_written() {
        assert_eq!(read(&table()), Ok(vec![("VCEK", &[1, 2, 3][..]), ("ASK", &[4][..])]));
        assert_eq!(read(&[]), Ok(Vec::new()));
    }

    #[test]
    fn an_entry_that_lies_outside_is_refused() {
        let mut table = table();
        table[20] = 0xff;
        assert!(matches!(read(&table), Err(TableError::Outside { index: 0, length: 0xff, .. })));
        table[16..24].fill(0xff);
        assert!(matches!(read(&table), Err(TableError::Outside { .. })));
    }

    #[test]
    fn a_table_that_does_not_end_is_refused() {
        assert_eq!(
            read(&table()[..48]).map(drop),
            Err(TableError::Outside { index: 0, offset: 72, length: 3, found: 48 })
        );
        assert!(read(&[1; 24 * 40]).is_err());
        assert_eq!(read(&[0; 7]).map(drop), Err(TableError::NoEnd));
    }

    #[test]
    fn what_is_of_an_unknown_kind_is_passed_over() {
        let mut table = table();
        table[0] ^= 1;
        assert_eq!(read(&table), Ok(vec![("ASK", &[4][..])]));
    }
}
