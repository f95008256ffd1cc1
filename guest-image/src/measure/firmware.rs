//! What OVMF says of itself in the table at its end: where it takes hashes, where its other vCPUs start, and which pages a
//! monitor must add before launch.
//!
//! ```text
//! … entry n data | length u16 | GUID ‖ … ‖ footer's length u16 | footer's GUID | 32 bytes | end = 4 GiB
//! ```
//! Entries are read backwards from the footer; each length counts its data, itself and the GUID. The sections' table lies
//! elsewhere, at an offset from the end: "ASEV", length, version = 1, count, then address, length and kind of each, all u32.

use super::launch::PAGE_BYTES;

/// The largest firmware that is read, in bytes.
const LARGEST: usize = 64 << 20;
const MOST_SECTIONS: u32 = 64;
/// The most that all sections together may have, in bytes.
const MOST_SECTION_BYTES: u64 = 256 << 20;
const END: u64 = 1 << 32;
const BEHIND_TABLE: usize = 32;
const ENTRY_HEAD: usize = 18;

// GUIDs as they lie in memory: the first three groups are little endian.
const FOOTER: [u8; 16] = guid(0x96b582de, 0x1fb2, 0x45f7, 0xbaea_a366_c55a_082d);
const HASHES: [u8; 16] = guid(0x7255371f, 0x3a3b, 0x4b04, 0x927b_1da6_efa8_d454);
const RESET: [u8; 16] = guid(0x00f771de, 0x1a7e, 0x4fcb, 0x890e_68c7_7e2f_b44e);
const METADATA: [u8; 16] = guid(0xdc886566, 0x984a, 0x4798, 0xa75e_5585_a7bf_67cc);

/// Firmware with what its table says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    image: Vec<u8>,
    sections: Vec<Section>,
    hashes_address: Option<u32>,
    reset_address: Option<u32>,
}

/// Pages that are added before launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// Guest address of the first page.
    pub address: u32,
    /// Length in bytes, whole pages.
    pub bytes: u32,
    /// What the pages are for.
    pub kind: SectionKind,
}

/// What pages are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionKind {
    /// Memory that the firmware uses before it accepts any.
    Memory,
    /// Secrets of the secure processor.
    Secrets,
    /// CPUID values.
    Cpuid,
    /// Calling area of a service module.
    ServiceModule,
    /// Hashes of kernel, initrd and command line.
    KernelHashes,
}

/// Why a file is no firmware that can be measured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FirmwareError {
    /// Not whole pages, or not a plausible size.
    #[error(
        "firmware has {found} bytes: whole pages of {PAGE_BYTES}, at most {LARGEST} bytes, can be measured"
    )]
    Size {
        /// Length found.
        found: usize,
    },
    /// Other firmware, or OVMF of before SEV.
    #[error(
        "the firmware has no OVMF table at its end: use an OVMF that was built for confidential machines"
    )]
    NoTable,
    /// A length that leads out of the table, or out of the file.
    #[error("the firmware's table is damaged: its {what} has length {length} where {room} bytes are")]
    Damaged {
        /// The part.
        what: &'static str,
        /// The length it gives.
        length: usize,
        /// The bytes that are there.
        room: usize,
    },
    /// The sections' table has another form.
    #[error("the firmware's table of sections has another form than version 1 of ASEV")]
    Metadata,
    /// A kind that this code does not know.
    #[error("the firmware asks for pages of kind {kind:#x} at {address:#x}, which is unknown")]
    Kind {
        /// The kind.
        kind: u32,
        /// Guest address.
        address: u32,
    },
    /// Sections of parts of pages, or of more memory than anything real.
    #[error(
        "the firmware's section at {address:#x} has {bytes} bytes: whole pages are needed, {MOST_SECTION_BYTES} bytes at most in all"
    )]
    Section {
        /// Guest address.
        address: u32,
        /// Length found.
        bytes: u32,
    },
}

impl Firmware {
    /// Reads the table of `image`.
    pub fn parse(image: Vec<u8>) -> Result<Self, FirmwareError> {
        if image.is_empty() || image.len() > LARGEST || !image.len().is_multiple_of(PAGE_BYTES) {
            return Err(FirmwareError::Size { found: image.len() });
        }
        let address = |guid, what| table_entry(&image, guid)?.map(|data| first_u32(data, what)).transpose();
        let hashes_address = address(&HASHES, "entry for hashes")?.filter(|address| *address != 0);
        let reset_address = address(&RESET, "entry for the reset address")?;
        let sections = match address(&METADATA, "entry for sections")? {
            Some(offset) => sections(&image, offset)?,
            None => Vec::new(),
        };
        Ok(Self { image, sections, hashes_address, reset_address })
    }

    /// The bytes that are mapped.
    pub fn image(&self) -> &[u8] {
        &self.image
    }

    /// Guest address of its first byte; it ends at 4 GiB.
    pub fn address(&self) -> u64 {
        // At most 64 MiB, so neither can fail.
        END.saturating_sub(u64::try_from(self.image.len()).unwrap_or(END))
    }

    /// Pages to add before launch, in order.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Guest address at which it looks for hashes of kernel, initrd and command line.
    pub fn hashes_address(&self) -> Option<u32> {
        self.hashes_address
    }

    /// Where vCPUs other than the first start.
    pub fn reset_address(&self) -> Option<u32> {
        self.reset_address
    }
}

/// The data that the table at the end of `image` has under `guid`.
pub(crate) fn table_entry<'a>(image: &'a [u8], guid: &[u8; 16]) -> Result<Option<&'a [u8]>, FirmwareError> {
    Ok(entries(image)?.into_iter().find(|(found, _)| found == guid).map(|(_, data)| data))
}

type Entry<'a> = ([u8; 16], &'a [u8]);

/// Every entry of the table, the last first.
fn entries(image: &[u8]) -> Result<Vec<Entry<'_>>, FirmwareError> {
    let table = image.len().checked_sub(BEHIND_TABLE).and_then(|end| image.get(..end)).unwrap_or_default();
    let (before, length, guid) = last_head(table).ok_or(FirmwareError::NoTable)?;
    if guid != FOOTER {
        return Err(FirmwareError::NoTable);
    }
    let mut rest = data_of("footer", before, length)?;
    let mut found = Vec::new();
    while let Some((before, length, guid)) = last_head(rest) {
        let data = data_of("entry", before, length)?;
        found.push((guid, data));
        rest = before.len().checked_sub(data.len()).and_then(|end| before.get(..end)).unwrap_or_default();
    }
    Ok(found)
}

/// Splits length and GUID off the end.
fn last_head(bytes: &[u8]) -> Option<(&[u8], usize, [u8; 16])> {
    let (rest, guid) = bytes.split_last_chunk()?;
    let (before, length) = rest.split_last_chunk()?;
    Some((before, usize::from(u16::from_le_bytes(*length)), *guid))
}

/// The data that belongs to a head of `length`.
fn data_of<'a>(what: &'static str, before: &'a [u8], length: usize) -> Result<&'a [u8], FirmwareError> {
    let damaged = FirmwareError::Damaged { what, length, room: before.len() + ENTRY_HEAD };
    let start = length.checked_sub(ENTRY_HEAD).and_then(|data| before.len().checked_sub(data));
    start.and_then(|start| before.get(start..)).ok_or(damaged)
}

fn first_u32(data: &[u8], what: &'static str) -> Result<u32, FirmwareError> {
    let first = data.first_chunk().ok_or(FirmwareError::Damaged { what, length: 4, room: data.len() })?;
    Ok(u32::from_le_bytes(*first))
}

fn sections(image: &[u8], from_end: u32) -> Result<Vec<Section>, FirmwareError> {
    let start = usize::try_from(from_end).ok().and_then(|back| image.len().checked_sub(back));
    let table = start.and_then(|start| image.get(start..)).ok_or(FirmwareError::Metadata)?;
    let (head, items) = table.split_at_checked(16).ok_or(FirmwareError::Metadata)?;
    let mut words = head.chunks_exact(4);
    let magic = words.next();
    let mut number = || words.next().and_then(|word| word.try_into().ok()).map(u32::from_le_bytes);
    let (Some(b"ASEV"), Some(_length), Some(1), Some(count @ 0..=MOST_SECTIONS)) =
        (magic, number(), number(), number())
    else {
        return Err(FirmwareError::Metadata);
    };
    let mut left = MOST_SECTION_BYTES;
    let items = items.chunks_exact(12).take(usize::try_from(count).unwrap_or(usize::MAX));
    let read: Vec<Section> = items.map(|item| section(item, &mut left)).collect::<Result<_, _>>()?;
    if u32::try_from(read.len()) != Ok(count) {
        return Err(FirmwareError::Metadata);
    }
    Ok(read)
}

fn section(item: &[u8], left: &mut u64) -> Result<Section, FirmwareError> {
    let mut words = item.chunks_exact(4).filter_map(|word| word.try_into().ok()).map(u32::from_le_bytes);
    let (Some(address), Some(bytes), Some(kind)) = (words.next(), words.next(), words.next()) else {
        return Err(FirmwareError::Metadata);
    };
    let kind = match kind {
        1 => SectionKind::Memory,
        2 => SectionKind::Secrets,
        3 => SectionKind::Cpuid,
        4 => SectionKind::ServiceModule,
        0x10 => SectionKind::KernelHashes,
        _ => return Err(FirmwareError::Kind { kind, address }),
    };
    let whole = address.is_multiple_of(4096) && bytes.is_multiple_of(4096) && bytes > 0;
    let room = left.checked_sub(u64::from(bytes));
    match (whole, room) {
        (true, Some(room)) => *left = room,
        _ => return Err(FirmwareError::Section { address, bytes }),
    }
    Ok(Section { address, bytes, kind })
}

/// A GUID as it lies in memory.
pub(crate) const fn guid(first: u32, second: u16, third: u16, rest: u64) -> [u8; 16] {
    let (a, b, c, d) = (first.to_le_bytes(), second.to_le_bytes(), third.to_le_bytes(), rest.to_be_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_table_is_refused() {
        assert_eq!(Firmware::parse(vec![0; PAGE_BYTES]), Err(FirmwareError::NoTable));
    }

    #[test]
    fn a_part_of_a_page_is_refused() {
        assert_eq!(Firmware::parse(vec![0; 4095]), Err(FirmwareError::Size { found: 4095 }));
    }
}
