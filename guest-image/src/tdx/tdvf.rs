//! The table in which a TDX firmware says which pages a monitor must add before launch.
//!
//! ```text
//! "TDVF" | length u32 = 16 + 32 × count | version u32 = 1 | count u32
//! each    offset in the file u32 | bytes in the file u32 | guest address u64 | bytes u64 | kind u32 | attributes u32
//! ```
//! All little endian. It lies at an offset from the firmware's end, which OVMF's table of GUIDs names (TDX Virtual Firmware
//! Design Guide, section 11). What QEMU refuses is refused here, and what it would do in a way that the guide does not say.

use std::ops::Range;

use crate::measure::{FirmwareError, PAGE_BYTES, guid, table_entry};

/// The largest firmware that is read, in bytes.
const LARGEST: usize = 64 << 20;
const SECTIONS: std::ops::RangeInclusive<u32> = 2..=64;
/// The most that all sections together may have, in bytes.
const MOST_SECTION_BYTES: u64 = 256 << 20;
const METADATA: [u8; 16] = guid(0xe47a6535, 0x984a, 0x4798, 0x865e_4685_a7bf_8ec2);
const HEAD: usize = 16;
const ITEM: usize = 32;
/// The section's content counts, not only its place.
const EXTEND: u32 = 1;

/// Firmware for trust domains, with what its table says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tdvf {
    image: Vec<u8>,
    sections: Vec<TdvfSection>,
}

/// Pages that are added before launch. Sections of one firmware do not overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdvfSection {
    /// Where its content lies in the file; empty for memory.
    pub(super) content: Range<usize>,
    /// Guest address of the first page.
    pub address: u64,
    /// Length in bytes, whole pages.
    pub bytes: u64,
    /// What the pages are for.
    pub kind: TdvfKind,
    /// Whether their content is measured into MRTD.
    pub extended: bool,
}

/// What pages are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TdvfKind {
    /// Code.
    Boot,
    /// Variables.
    Configuration,
    /// Where the monitor writes the list of memory ranges.
    Hob,
    /// Memory that the firmware uses before it accepts any.
    Temporary,
}

/// Why a file is no firmware whose launch in a trust domain can be measured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TdvfError {
    /// Not whole pages, or not a plausible size.
    #[error(
        "firmware has {found} bytes: whole pages of {PAGE_BYTES}, at most {LARGEST} bytes, can be measured"
    )]
    Size {
        /// Length found.
        found: usize,
    },
    /// Its table of GUIDs.
    #[error(transparent)]
    Table(#[from] FirmwareError),
    /// Firmware without support for TDX.
    #[error("this firmware has no table of sections for TDX: use an OVMF that was built for TDX")]
    NoTdx,
    /// The sections' table has another form.
    #[error("the firmware's table of sections has another form than version 1 of TDVF")]
    Metadata,
    /// A kind that QEMU does not add.
    #[error("the firmware asks for pages of kind {kind} at {address:#x}, which are not added at launch")]
    Kind {
        /// The kind.
        kind: u32,
        /// Guest address.
        address: u64,
    },
    /// Attributes whose effect is not the same everywhere, or unknown.
    #[error(
        "the firmware's section at {address:#x} has attributes {attributes:#x}, which are not understood"
    )]
    Attributes {
        /// The attributes.
        attributes: u32,
        /// Guest address.
        address: u64,
    },
    /// Sections of parts of pages, over another, or of more memory than anything real.
    #[error(
        "the firmware's section at {address:#x} has {bytes} bytes: whole pages that no other section has are needed, {MOST_SECTION_BYTES} bytes at most in all"
    )]
    Section {
        /// Guest address.
        address: u64,
        /// Length found.
        bytes: u64,
    },
    /// Content that is not there, is there and should not be, or does not fill its pages.
    #[error(
        "the firmware's section at {address:#x} has {bytes} bytes of memory and {content} bytes from offset {offset} of the file"
    )]
    Content {
        /// Guest address.
        address: u64,
        /// Length in memory.
        bytes: u64,
        /// Offset in the file.
        offset: u32,
        /// Length in the file.
        content: u32,
    },
    /// Not exactly one section of a kind of which there must be one.
    #[error("the firmware has {found} sections for {what}, one is needed")]
    Count {
        /// What for.
        what: &'static str,
        /// How many there are.
        found: usize,
    },
}

impl Tdvf {
    /// Reads the tables of `image`, which is the whole firmware: code and variables in one file, as `-bios` takes it.
    ///
    /// # Errors
    /// [`TdvfError`]
    pub fn parse(image: Vec<u8>) -> Result<Self, TdvfError> {
        if image.is_empty() || image.len() > LARGEST || !image.len().is_multiple_of(PAGE_BYTES) {
            return Err(TdvfError::Size { found: image.len() });
        }
        let entry = table_entry(&image, &METADATA)?.ok_or(TdvfError::NoTdx)?;
        let from_end = u32::from_le_bytes(*entry.first_chunk().ok_or(TdvfError::Metadata)?);
        let start = usize::try_from(from_end).ok().and_then(|back| image.len().checked_sub(back));
        let table = start.and_then(|start| image.get(start..)).ok_or(TdvfError::Metadata)?;
        let sections = sections(table, image.len())?;
        for (kind, what) in
            [(TdvfKind::Hob, "the list of memory ranges"), (TdvfKind::Configuration, "variables")]
        {
            let found = sections.iter().filter(|section| section.kind == kind).count();
            if found != 1 {
                return Err(TdvfError::Count { what, found });
            }
        }
        Ok(Self { image, sections })
    }

    /// Pages to add before launch, in order.
    pub fn sections(&self) -> &[TdvfSection] {
        &self.sections
    }

    /// What `section` holds: nothing for memory, which starts as zeros.
    pub fn content(&self, section: &TdvfSection) -> &[u8] {
        self.image.get(section.content.clone()).unwrap_or_default()
    }

    /// Its variables, as they are measured before anything reads them.
    pub fn variables(&self) -> &[u8] {
        let variables = self.sections.iter().find(|section| section.kind == TdvfKind::Configuration);
        variables.map(|section| self.content(section)).unwrap_or_default()
    }
}

fn sections(table: &[u8], file: usize) -> Result<Vec<TdvfSection>, TdvfError> {
    let (head, items) = table.split_at_checked(HEAD).ok_or(TdvfError::Metadata)?;
    let count = match (head.first_chunk::<4>(), word(head, 4), word(head, 8), word(head, 12)) {
        (Some(b"TDVF"), Some(length), Some(1), Some(count)) if SECTIONS.contains(&count) => {
            let count = usize::try_from(count).map_err(|_| TdvfError::Metadata)?;
            if usize::try_from(length) != Ok(HEAD + ITEM * count) {
                return Err(TdvfError::Metadata);
            }
            count
        }
        _ => return Err(TdvfError::Metadata),
    };
    let mut read: Vec<TdvfSection> = Vec::new();
    let mut left = MOST_SECTION_BYTES;
    for item in items.chunks_exact(ITEM).take(count) {
        let section = section(item, file)?;
        let refused = TdvfError::Section { address: section.address, bytes: section.bytes };
        let over = |other: &TdvfSection| {
            section.address < other.address + other.bytes && other.address < section.address + section.bytes
        };
        match left.checked_sub(section.bytes) {
            Some(room) if !read.iter().any(over) => left = room,
            _ => return Err(refused),
        }
        read.push(section);
    }
    if read.len() != count {
        return Err(TdvfError::Metadata);
    }
    Ok(read)
}

fn section(item: &[u8], file: usize) -> Result<TdvfSection, TdvfError> {
    let words = (word(item, 0), word(item, 4), long(item, 8), long(item, 16), word(item, 24), word(item, 28));
    let (Some(offset), Some(content), Some(address), Some(bytes), Some(kind), Some(attributes)) = words
    else {
        return Err(TdvfError::Metadata);
    };
    let end = address.checked_add(bytes).filter(|end| *end <= 1 << 52);
    if bytes == 0 || !address.is_multiple_of(4096) || !bytes.is_multiple_of(4096) || end.is_none() {
        return Err(TdvfError::Section { address, bytes });
    }
    let kind = match kind {
        0 => TdvfKind::Boot,
        1 => TdvfKind::Configuration,
        2 => TdvfKind::Hob,
        3 => TdvfKind::Temporary,
        _ => return Err(TdvfError::Kind { kind, address }),
    };
    // The list of ranges is not in the file: a firmware that has it measured into MRTD is none that was seen.
    if attributes & !EXTEND != 0 || (kind == TdvfKind::Hob && attributes != 0) {
        return Err(TdvfError::Attributes { attributes, address });
    }
    let refused = TdvfError::Content { address, bytes, offset, content };
    let range = match kind {
        TdvfKind::Hob | TdvfKind::Temporary if content == 0 => 0..0,
        TdvfKind::Boot | TdvfKind::Configuration if u64::from(content) == bytes => {
            within(offset, content, file).ok_or(refused)?
        }
        _ => return Err(refused),
    };
    Ok(TdvfSection { content: range, address, bytes, kind, extended: attributes == EXTEND })
}

fn within(offset: u32, bytes: u32, file: usize) -> Option<Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(bytes).ok()?)?;
    (end <= file).then_some(start..end)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|long| u64::from_le_bytes(*long))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::tdx) type Item = (u32, u32, u64, u64, u32, u32);

    /// Sections as in builds of OVMF of 2 MiB, cut down to one page of code and one of variables.
    pub(in crate::tdx) const ITEMS: [Item; 6] = [
        (0x1000, 0x1000, 0xffff_f000, 0x1000, 0, 1),
        (0, 0x1000, 0xffff_e000, 0x1000, 1, 0),
        (0, 0, 0x81_0000, 0x1_0000, 3, 0),
        (0, 0, 0x80_b000, 0x2000, 3, 0),
        (0, 0, 0x80_9000, 0x2000, 2, 0),
        (0, 0, 0x80_0000, 0x6000, 3, 0),
    ];

    /// Firmware of two pages with a table of `items`.
    pub(in crate::tdx) fn image(items: &[Item]) -> Vec<u8> {
        let mut table = b"TDVF".to_vec();
        let count = u32::try_from(items.len()).expect("few");
        table.extend([16 + 32 * count, 1, count].iter().flat_map(|word| word.to_le_bytes()));
        for (offset, content, address, bytes, kind, attributes) in items {
            table.extend([*offset, *content].iter().flat_map(|word| word.to_le_bytes()));
            table.extend([*address, *bytes].iter().flat_map(|long| long.to_le_bytes()));
            table.extend([*kind, *attributes].iter().flat_map(|word| word.to_le_bytes()));
        }
        let mut image: Vec<u8> = (0..0x2000_u32).map(|at| (at >> 4) as u8).collect();
        let footer = guid(0x96b582de, 0x1fb2, 0x45f7, 0xbaea_a366_c55a_082d);
        let mut guids = 0xc00_u32.to_le_bytes().to_vec();
        guids.extend(22_u16.to_le_bytes());
        guids.extend(METADATA);
        guids.extend(40_u16.to_le_bytes());
        guids.extend(footer);
        image[0x1400..0x1400 + table.len()].copy_from_slice(&table);
        image[0x2000 - 32 - guids.len()..0x2000 - 32].copy_from_slice(&guids);
        image
    }

    fn with(change: impl FnOnce(&mut [Item; 6])) -> Result<Tdvf, TdvfError> {
        let mut items = ITEMS;
        change(&mut items);
        Tdvf::parse(image(&items))
    }

    #[test]
    fn sections_are_read_in_their_order() {
        let tdvf = with(|_| ()).expect("firmware");
        let kinds: Vec<TdvfKind> = tdvf.sections().iter().map(|section| section.kind).collect();
        use TdvfKind::{Boot, Configuration, Hob, Temporary};
        assert_eq!(kinds, [Boot, Configuration, Temporary, Temporary, Hob, Temporary]);
        assert_eq!((tdvf.variables().len(), tdvf.content(&tdvf.sections()[2]).len()), (0x1000, 0));
    }

    #[test]
    fn pages_that_two_sections_want_are_refused() {
        let refused = TdvfError::Section { address: 0x80_5000, bytes: 0x6000 };
        assert_eq!(with(|items| items[5].2 = 0x80_5000), Err(refused));
    }

    #[test]
    fn parts_of_pages_and_too_many_are_refused() {
        let section = |bytes| Err(TdvfError::Section { address: 0x81_0000, bytes });
        assert_eq!(with(|items| items[2].3 = 0x800), section(0x800));
        assert_eq!(with(|items| items[2].3 = 1 << 30), section(1 << 30));
        assert_eq!(with(|items| items[2].3 = u64::MAX - 0xfff), section(u64::MAX - 0xfff));
    }

    #[test]
    fn content_outside_the_file_or_other_than_its_memory_is_refused() {
        let content = |change: fn(&mut [Item; 6])| matches!(with(change), Err(TdvfError::Content { .. }));
        assert!(content(|items| items[0].0 = 0x1800));
        assert!(content(|items| items[0].0 = u32::MAX));
        assert!(content(|items| items[1].1 = 0x800));
        assert!(content(|items| items[3].1 = 0x2000));
    }

    #[test]
    fn kinds_and_attributes_that_are_not_understood_are_refused() {
        assert_eq!(with(|items| items[2].4 = 4), Err(TdvfError::Kind { kind: 4, address: 0x81_0000 }));
        let attributes = |attributes| Err(TdvfError::Attributes { attributes, address: 0x80_9000 });
        assert_eq!(with(|items| items[4].5 = 2), attributes(2));
        assert_eq!(with(|items| items[4].5 = 1), attributes(1));
    }

    #[test]
    fn firmware_without_a_place_for_the_list_of_ranges_is_refused() {
        let refused = TdvfError::Count { what: "the list of memory ranges", found: 0 };
        assert_eq!(with(|items| items[4].4 = 3), Err(refused));
    }

    #[test]
    fn a_table_that_leads_out_of_the_file_or_lies_about_its_length_is_refused() {
        let mut far = image(&ITEMS);
        let at = 0x2000 - 32 - 40;
        far[at..at + 4].copy_from_slice(&0x2001_u32.to_le_bytes());
        assert_eq!(Tdvf::parse(far), Err(TdvfError::Metadata));
        let mut long = image(&ITEMS);
        long[0x1404] = 0;
        assert_eq!(Tdvf::parse(long), Err(TdvfError::Metadata));
        let mut near_the_end = image(&ITEMS);
        near_the_end[at..at + 4].copy_from_slice(&20_u32.to_le_bytes());
        assert_eq!(Tdvf::parse(near_the_end), Err(TdvfError::Metadata));
    }

    #[test]
    fn firmware_for_something_else_is_refused() {
        let mut other = image(&ITEMS);
        other[0x2000 - 32 - 34] ^= 1;
        assert_eq!(Tdvf::parse(other), Err(TdvfError::NoTdx));
        assert_eq!(Tdvf::parse(vec![0; 4096]), Err(TdvfError::Table(FirmwareError::NoTable)));
        assert_eq!(Tdvf::parse(vec![0; 4095]), Err(TdvfError::Size { found: 4095 }));
    }
}
