//! Packs a kernel's ELF file anew: only what is loaded, and no zeros at the end of a segment.
//!
//! The linker aligns segments to 2 MiB in the file too, and stores 8 MiB of zeros for what must be zero in memory. A
//! hypervisor fills a segment up with zeros by itself, so half of the file can go.

/// Entry point for a hypervisor (`XEN_ELFNOTE_PHYS32_ENTRY`).
const PVH_NOTE: u32 = 18;
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PAGE: usize = 4096;
const LOAD: u32 = 1;
const NOTE: u32 = 4;

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
    let mut packed = elf.get(..HEADER).ok_or(ElfError::NotElf)?.to_vec();
    packed.resize(HEADER + kept.len() * PROGRAM_HEADER, 0);
    let mut headers = Vec::new();
    for segment in kept {
        let bytes = content(elf, &segment)?;
        let bytes = if segment.kind == LOAD { without_trailing_zeros(bytes) } else { bytes };
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
