//! Packs a kernel's ELF file anew: only what is loaded, and no zeros between its parts.
//!
//! The linker aligns segments to 2 MiB in the file too, stores 8 MiB of zeros for what must be zero in memory, and makes one
//! segment of the code and of the constants 2 MiB behind it. A hypervisor fills a segment up with zeros by itself, so half
//! of the file can go; and constants in a segment that is neither written nor run need not be copied for each guest.

/// Entry point for a hypervisor (`XEN_ELFNOTE_PHYS32_ENTRY`).
const PVH_NOTE: u32 = 18;
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PAGE: usize = 4096;
const LOAD: u32 = 1;
const NOTE: u32 = 4;
/// `PF_X` of a segment, `SHF_EXECINSTR` of a section.
const RUNS: u32 = 1;
const SECTION_RUNS: u64 = 4;
const SECTION_HEADER: usize = 64;

/// Pages of the same byte that part a segment. Each part costs a loader a mapping of its own.
const GAP: usize = 64;

/// Why a file is not the ELF of a kernel.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// It is not an ELF file for this processor.
    #[error("the kernel is no 64-bit little-endian x86 ELF file")]
    NotElf,
    /// Something in it points outside of it.
    #[error("the kernel's ELF file ends at {size} bytes, but {what} lies outside of it")]
    Outside {
        /// What lies outside.
        what: &'static str,
        /// The length of the file.
        size: usize,
    },
    /// No hypervisor could enter it.
    #[error("the kernel has no PVH note; CONFIG_PVH is missing")]
    NoPvh,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: usize,
    virtual_address: u64,
    physical_address: u64,
    file_size: usize,
    memory_size: u64,
    alignment: u64,
}

/// The same kernel in as few bytes as it can be loaded from.
pub(super) fn repack(elf: &[u8]) -> Result<Vec<u8>, ElfError> {
    let segments = segments(elf)?;
    let notes = segments.iter().filter(|segment| segment.kind == NOTE);
    let notes = notes.map(|segment| content(elf, segment)).collect::<Result<Vec<_>, _>>()?;
    if !notes.iter().any(|notes| has_pvh(notes)) {
        return Err(ElfError::NoPvh);
    }
    let kept: Vec<Segment> = segments.into_iter().filter(|s| matches!(s.kind, LOAD | NOTE)).collect();
    let code = code(elf)?;
    let mut pieces = Vec::new();
    for segment in kept {
        let bytes = content(elf, &segment)?;
        match segment.kind {
            LOAD => pieces.extend(parts(segment, bytes, code.as_deref())),
            _ => pieces.push((segment, bytes)),
        }
    }
    let mut packed = elf.get(..HEADER).ok_or(ElfError::NotElf)?.to_vec();
    packed.resize(HEADER + pieces.len() * PROGRAM_HEADER, 0);
    let mut headers = Vec::new();
    for (segment, bytes) in pieces {
        // A loader may map the file: offset and address must agree within a page.
        let in_page = usize::try_from(segment.virtual_address % PAGE as u64).unwrap_or(0);
        packed.resize(packed.len().next_multiple_of(PAGE) + in_page, 0);
        // Of notes it is the alignment of each note, by which a hypervisor finds the next one.
        let alignment = if segment.kind == LOAD { PAGE as u64 } else { segment.alignment };
        let moved = Segment { offset: packed.len(), file_size: bytes.len(), alignment, ..segment };
        packed.extend_from_slice(bytes);
        headers.extend(program_header(&moved));
    }
    let count = u16::try_from(headers.len() / PROGRAM_HEADER).unwrap_or(u16::MAX);
    put(&mut packed, HEADER, &headers);
    put(&mut packed, 32, &(HEADER as u64).to_le_bytes()); // e_phoff
    put(&mut packed, 40, &0u64.to_le_bytes()); // e_shoff
    put(&mut packed, 56, &count.to_le_bytes()); // e_phnum
    put(&mut packed, 58, &[0; 6]); // e_shentsize, e_shnum, e_shstrndx
    Ok(packed)
}

/// The segment in parts, each with its bytes: what the linker filled up with zeros is left out, and what it filled up with
/// another byte, or what lies in no section of code, is a part that is not to be run. `code` says where those sections are:
/// the first address, and the one behind the last.
fn parts<'a>(segment: Segment, bytes: &'a [u8], code: Option<&[(u64, u64)]>) -> Vec<(Segment, &'a [u8])> {
    let fillers: Vec<Option<u8>> = bytes.chunks(PAGE).map(filler).collect();
    let (mut starts, mut page): (Vec<(usize, Option<u8>)>, _) = (Vec::new(), 0);
    for run in fillers.chunk_by(|left, right| left.is_some() && left == right) {
        let kind = run.first().copied().flatten().filter(|_| run.len() >= GAP);
        if kind.is_some() || starts.last().is_none_or(|(_, last)| last.is_some()) {
            starts.push((page * PAGE, kind));
        }
        page += run.len();
    }
    // A loader makes zeros by itself of what belongs to a part and is not in the file.
    starts.retain(|(start, kind)| *start == 0 || *kind != Some(0));
    let ends = starts.iter().skip(1).map(|(start, _)| Some(*start)).chain([None]);
    let part = |(&(start, kind), end): (&(usize, Option<u8>), Option<usize>)| {
        let memory_size = end.map_or(segment.memory_size, |end| end as u64) - start as u64;
        let virtual_address = segment.virtual_address + start as u64;
        let physical_address = segment.physical_address + start as u64;
        let last = virtual_address + memory_size;
        let runs = |code: &[(u64, u64)]| code.iter().any(|(from, to)| *from < last && virtual_address < *to);
        let flags =
            if kind.is_none() && code.is_none_or(runs) { segment.flags } else { segment.flags & !RUNS };
        let content = bytes.get(start..end.unwrap_or(bytes.len())).unwrap_or_default();
        let part = Segment { flags, virtual_address, physical_address, memory_size, ..segment };
        (part, without_trailing_zeros(content))
    };
    starts.iter().zip(ends).map(part).collect()
}

/// The byte that a page has nothing but.
fn filler(page: &[u8]) -> Option<u8> {
    let first = page.first()?;
    page.iter().all(|byte| byte == first).then_some(*first)
}

/// Where the sections are that hold code; `None` if the file has no sections.
fn code(elf: &[u8]) -> Result<Option<Vec<(u64, u64)>>, ElfError> {
    let (start, size, count) = (usize_at(elf, 40)?, usize::from(u16_at(elf, 58)?), u16_at(elf, 60)?);
    if start == 0 || size != SECTION_HEADER {
        return Ok(None);
    }
    let mut code = Vec::new();
    for index in 0..usize::from(count) {
        let at = start.saturating_add(index * SECTION_HEADER);
        let (flags, address, size) = (u64_at(elf, at + 8)?, u64_at(elf, at + 16)?, u64_at(elf, at + 32)?);
        if flags & SECTION_RUNS != 0 {
            code.push((address, address.saturating_add(size)));
        }
    }
    Ok(Some(code))
}

fn segments(elf: &[u8]) -> Result<Vec<Segment>, ElfError> {
    let is_x86 = elf.get(18..20) == Some(&62u16.to_le_bytes());
    if elf.get(..6) != Some(b"\x7fELF\x02\x01") || !is_x86 || u16_at(elf, 54)? as usize != PROGRAM_HEADER {
        return Err(ElfError::NotElf);
    }
    let start = usize_at(elf, 32)?;
    let count = usize::from(u16_at(elf, 56)?);
    (0..count).map(|index| segment(elf, start.saturating_add(index * PROGRAM_HEADER))).collect()
}

fn segment(elf: &[u8], at: usize) -> Result<Segment, ElfError> {
    let outside = ElfError::Outside { what: "a program header", size: elf.len() };
    let header = at.checked_add(PROGRAM_HEADER).and_then(|end| elf.get(at..end)).ok_or(outside)?;
    Ok(Segment {
        kind: u32_at(header, 0)?,
        flags: u32_at(header, 4)?,
        offset: usize_at(header, 8)?,
        virtual_address: u64_at(header, 16)?,
        physical_address: u64_at(header, 24)?,
        file_size: usize_at(header, 32)?,
        memory_size: u64_at(header, 40)?,
        alignment: u64_at(header, 48)?,
    })
}

fn program_header(segment: &Segment) -> Vec<u8> {
    let mut header = Vec::with_capacity(PROGRAM_HEADER);
    header.extend(segment.kind.to_le_bytes());
    header.extend(segment.flags.to_le_bytes());
    header.extend((segment.offset as u64).to_le_bytes());
    header.extend(segment.virtual_address.to_le_bytes());
    header.extend(segment.physical_address.to_le_bytes());
    header.extend((segment.file_size as u64).to_le_bytes());
    header.extend(segment.memory_size.to_le_bytes());
    header.extend(segment.alignment.to_le_bytes());
    header
}

fn content<'a>(elf: &'a [u8], segment: &Segment) -> Result<&'a [u8], ElfError> {
    let outside = ElfError::Outside { what: "a segment", size: elf.len() };
    let end = segment.offset.checked_add(segment.file_size);
    end.and_then(|end| elf.get(segment.offset..end)).ok_or(outside)
}

fn without_trailing_zeros(bytes: &[u8]) -> &[u8] {
    let length = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.get(..length).unwrap_or_default()
}

fn has_pvh(mut notes: &[u8]) -> bool {
    let padded = |size: u32| usize::try_from(size).unwrap_or(usize::MAX).saturating_add(3) & !3;
    while let (Ok(name), Ok(descriptor), Ok(kind)) = (u32_at(notes, 0), u32_at(notes, 4), u32_at(notes, 8)) {
        if kind == PVH_NOTE && notes.get(12..16) == Some(b"Xen\0") {
            return true;
        }
        let next = padded(name).saturating_add(padded(descriptor)).saturating_add(12);
        notes = notes.get(next..).unwrap_or_default();
    }
    false
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], ElfError> {
    let value = bytes.get(at..).and_then(|rest| rest.first_chunk());
    value.copied().ok_or(ElfError::Outside { what: "a field", size: bytes.len() })
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, ElfError> {
    array_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, ElfError> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, ElfError> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

fn usize_at(bytes: &[u8], at: usize) -> Result<usize, ElfError> {
    let size = bytes.len();
    usize::try_from(u64_at(bytes, at)?).map_err(|_| ElfError::Outside { what: "an offset", size })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTES: &[u8] = b"\x04\0\0\0\x08\0\0\0\x12\0\0\0Xen\0\x10\x20\x30\x40\0\0\0\0";

    fn elf(notes: &[u8]) -> Vec<u8> {
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(HEADER, 0);
        put(&mut elf, 16, &[2, 0, 62, 0]);
        put(&mut elf, 32, &64u64.to_le_bytes());
        put(&mut elf, 52, &[64, 0, 56, 0, 2, 0]);
        let load = Segment {
            kind: LOAD,
            flags: 5,
            offset: 0x20_0000,
            virtual_address: 0xffff_ffff_8100_0000,
            physical_address: 0x100_0000,
            file_size: 0x1000,
            memory_size: 0x2000,
            alignment: 0x20_0000,
        };
        let note = Segment {
            kind: NOTE,
            offset: 0x20_0010,
            file_size: notes.len(),
            memory_size: 0,
            alignment: 4,
            ..load
        };
        elf.extend(program_header(&load));
        elf.extend(program_header(&note));
        elf.resize(0x20_1000, 0);
        put(&mut elf, 0x20_0000, b"kernel text");
        put(&mut elf, 0x20_0010, notes);
        elf
    }

    #[test]
    fn a_repacked_kernel_has_the_same_content_at_the_same_addresses() {
        let elf = elf(NOTES);
        let packed = repack(&elf).unwrap();
        let (old, new) = (segments(&elf).unwrap()[0], segments(&packed).unwrap()[0]);
        assert_eq!((old.physical_address, old.memory_size), (new.physical_address, new.memory_size));
        let (old, new) = (content(&elf, &old).unwrap(), content(&packed, &new).unwrap());
        assert!(old.starts_with(new));
        assert!(old[new.len()..].iter().all(|byte| *byte == 0));
    }

    /// The same with 1 MiB of zeros in its only segment and constants behind them; a section says where its code is.
    fn elf_with_constants() -> Vec<u8> {
        const CONSTANTS: usize = 0x10_2000;
        let mut elf = elf(NOTES);
        elf.resize(0x20_0000 + CONSTANTS, 0);
        elf.extend(b"constants");
        put(&mut elf, 64 + 32, &(CONSTANTS as u64 + 9).to_le_bytes());
        put(&mut elf, 64 + 40, &0x20_0000u64.to_le_bytes());
        let sections = elf.len() as u64;
        let section = [1 << 32, SECTION_RUNS, 0xffff_ffff_8100_0000, 0, 0x400, 0, 0, 0_u64];
        elf.extend(section.iter().flat_map(|field| field.to_le_bytes()));
        put(&mut elf, 40, &sections.to_le_bytes());
        put(&mut elf, 58, &[64, 0, 1, 0]);
        elf
    }

    #[test]
    fn constants_behind_a_gap_are_a_segment_that_is_not_run() {
        let packed = repack(&elf_with_constants()).unwrap();
        let [code, constants, note] = segments(&packed).unwrap()[..] else { panic!("not three segments") };
        assert_eq!((code.flags, code.physical_address, code.memory_size), (5, 0x100_0000, 0x10_2000));
        let place = (constants.physical_address, constants.virtual_address, constants.memory_size);
        assert_eq!(place, (0x110_2000, 0xffff_ffff_8110_2000, 0x20_0000 - 0x10_2000));
        assert_eq!((constants.flags, content(&packed, &constants).unwrap()), (4, b"constants".as_slice()));
        assert_eq!(note.kind, NOTE);
        assert!(packed.len() < 5 * PAGE);
    }

    #[test]
    fn what_fills_a_gap_in_code_is_a_segment_that_is_not_run() {
        let mut elf = elf_with_constants();
        elf[0x20_1000..0x30_1000].fill(0xcc);
        // The section of code reaches to the constants.
        let size = u64_at(&elf, 40).unwrap() as usize + 32;
        put(&mut elf, size, &0x10_2000u64.to_le_bytes());
        let packed = repack(&elf).unwrap();
        let parts = segments(&packed).unwrap();
        let seen: Vec<_> =
            parts.iter().map(|part| (part.flags, part.physical_address, part.memory_size)).collect();
        let rest = 0x20_0000 - 0x10_2000;
        let expected = [
            (5, 0x100_0000, 0x1000),
            (4, 0x100_1000, 0x10_0000),
            (5, 0x110_1000, 0x1000 + rest),
            (5, 0x100_0000, 0),
        ];
        assert_eq!(seen, expected);
        assert!(content(&packed, &parts[1]).unwrap().iter().all(|byte| *byte == 0xcc));
    }

    #[test]
    fn without_sections_every_part_keeps_its_rights() {
        let mut elf = elf_with_constants();
        put(&mut elf, 40, &[0; 8]);
        let flags: Vec<u32> =
            segments(&repack(&elf).unwrap()).unwrap().iter().map(|part| part.flags).collect();
        assert_eq!(flags, [5, 5, 5]);
    }

    #[test]
    fn notes_stay_aligned_as_they_were() {
        let packed = repack(&elf(NOTES)).unwrap();
        let alignments: Vec<_> = segments(&packed).unwrap().iter().map(|segment| segment.alignment).collect();
        assert_eq!(alignments, [4096, 4]);
    }

    #[test]
    fn a_repacked_kernel_holds_no_padding() {
        assert!(repack(&elf(NOTES)).unwrap().len() < 3 * PAGE);
    }

    #[test]
    fn a_repacked_kernel_keeps_its_pvh_note() {
        assert!(repack(&repack(&elf(NOTES)).unwrap()).is_ok());
    }

    #[test]
    fn a_kernel_without_pvh_note_is_refused() {
        assert!(matches!(repack(&elf(b"")), Err(ElfError::NoPvh)));
    }

    #[test]
    fn a_truncated_kernel_is_refused() {
        assert!(matches!(repack(&elf(NOTES)[..0x20_0800]), Err(ElfError::Outside { .. })));
    }

    #[test]
    fn a_file_that_is_no_elf_is_refused() {
        assert!(matches!(repack(b"#!/bin/sh"), Err(ElfError::NotElf)));
    }
}
