//! An uncompressed kernel: where its segments belong, and the entry that its PVH note names.
//!
//! The note is Xen's `XEN_ELFNOTE_PHYS32_ENTRY` (18), described in Xen's `public/elfnote.h`: owner "Xen", and the
//! guest-physical address of code for 32-bit protected mode without paging.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::image::{KernelError, bytes_at, number};

const SEGMENT_LOAD: u64 = 1;
const SEGMENT_NOTE: u64 = 4;
/// `PF_X` and `PF_W`.
const RUN_OR_WRITTEN: u64 = 1 | 2;
const MACHINE_X86_64: u64 = 62;
const PHYS32_ENTRY: u64 = 18;

/// Bytes of the file's header, and of one of its program headers.
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;

/// Program headers and bytes of notes that are looked at: a kernel has five, and a few hundred bytes.
const MAX_HEADERS: u64 = 32;
const MAX_NOTES: u64 = 64 * 1024;

/// A part of the file that belongs into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// Where it is in the file.
    pub(super) offset: u64,
    /// Where it belongs in the guest's memory.
    pub(super) address: u64,
    /// Its bytes in the file.
    pub(super) file_size: u64,
    /// Its bytes in memory; those that are not in the file are zero.
    pub(super) memory_size: u64,
    /// Whether the kernel writes it while it starts: its data, and its code, which it patches for the processor that it finds.
    pub(super) changes: bool,
}

/// An uncompressed kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Elf {
    /// Its parts.
    pub(super) segments: Vec<Segment>,
    /// Where a virtual machine enters it.
    pub(super) entry: u32,
}

impl Elf {
    /// Reads the headers of `file`, which begins with the ELF magic number.
    pub(super) fn read(file: &File) -> Result<Elf, KernelError> {
        let header: [u8; HEADER] = bytes_at(file, 0)?;
        // 64 bits, little-endian, for x86-64.
        if header.get(4..6) != Some(&[2, 1]) || number::<2>(&header, 18) != MACHINE_X86_64 {
            return Err(KernelError::Unknown);
        }
        let (table, size, count) =
            (number::<8>(&header, 32), number::<2>(&header, 54), number::<2>(&header, 56));
        check("the size of a program header", size, size == PROGRAM_HEADER as u64)?;
        check("the number of program headers", count, (1..=MAX_HEADERS).contains(&count))?;
        let (mut segments, mut entry) = (Vec::new(), None);
        for index in 0..count {
            let place = table.checked_add(index * size).ok_or(KernelError::Unknown)?;
            let header: [u8; PROGRAM_HEADER] = bytes_at(file, place)?;
            let segment = Segment {
                offset: number::<8>(&header, 8),
                address: number::<8>(&header, 24),
                file_size: number::<8>(&header, 32),
                memory_size: number::<8>(&header, 40),
                changes: number::<4>(&header, 4) & RUN_OR_WRITTEN != 0,
            };
            match number::<4>(&header, 0) {
                SEGMENT_LOAD if segment.memory_size > 0 => {
                    let fits = segment.file_size <= segment.memory_size;
                    check("the size of a segment in the file", segment.file_size, fits)?;
                    segments.push(segment);
                }
                SEGMENT_NOTE => entry = entry.or(entry_in_notes(file, segment)?),
                _ => {}
            }
        }
        let entry = entry.ok_or(KernelError::NoEntry)?;
        let inside = |segment: &Segment| u64::from(entry).wrapping_sub(segment.address) < segment.file_size;
        check("the entry", u64::from(entry), segments.iter().any(inside))?;
        Ok(Elf { segments, entry })
    }
}

fn check(what: &'static str, found: u64, right: bool) -> Result<(), KernelError> {
    if right { Ok(()) } else { Err(KernelError::Damaged { what, found }) }
}

fn entry_in_notes(file: &File, segment: Segment) -> Result<Option<u32>, KernelError> {
    check("the size of the notes", segment.file_size, segment.file_size <= MAX_NOTES)?;
    let mut notes = vec![0; usize::try_from(segment.file_size).unwrap_or(0)];
    file.read_exact_at(&mut notes, segment.offset).map_err(KernelError::Read)?;
    Ok(find_entry(&notes))
}

/// The entry in the notes: each is three numbers (length of the owner's name, length of the content, type), then name
/// and content, each filled up to four bytes.
fn find_entry(mut notes: &[u8]) -> Option<u32> {
    while notes.len() >= 12 {
        let size = |at| usize::try_from(number::<4>(notes, at)).ok();
        let (name_size, content_size) = (size(0)?, size(4)?);
        let content_at = 12_usize.checked_add(name_size)?.checked_next_multiple_of(4)?;
        let end = content_at.checked_add(content_size)?;
        let (name, content) = (notes.get(12..12 + name_size)?, notes.get(content_at..end)?);
        if name == b"Xen\0" && number::<4>(notes, 8) == PHYS32_ENTRY && content.len() >= 4 {
            return u32::try_from(number::<4>(content, 0)).ok();
        }
        notes = notes.get(end.checked_next_multiple_of(4)?..)?;
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::boot::image::Image;
    use proptest::prelude::*;
    use std::io::Write;

    fn note(owner: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        note.extend(u32::try_from(owner.len()).unwrap().to_le_bytes());
        note.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
        note.extend(kind.to_le_bytes());
        note.extend(owner);
        note.resize(note.len().next_multiple_of(4), 0);
        note.extend(content);
        note.resize(note.len().next_multiple_of(4), 0);
        note
    }

    fn program_header(kind: u32, segment: Segment) -> Vec<u8> {
        let fields = [segment.offset, 0, segment.address, segment.file_size, segment.memory_size, 0x1000];
        let flags = if segment.changes { 5_u32 } else { 4 };
        let head = [kind.to_le_bytes(), flags.to_le_bytes()].concat();
        fields.into_iter().fold(head, |header, field| [header, field.to_le_bytes().to_vec()].concat())
    }

    /// A kernel of `code` at 16 MiB, with some zeros behind it, entered at its beginning.
    pub(in crate::boot) fn kernel(code: &[u8]) -> Vec<u8> {
        let notes = note(b"Xen\0", 18, &0x100_0000_u32.to_le_bytes());
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
        file.extend([0; 8]);
        file.extend(64_u64.to_le_bytes());
        file.extend([0; 14]);
        file.extend([56, 0, 2, 0, 0, 0, 0, 0]);
        file.resize(64, 0);
        let size = u64::try_from(code.len()).unwrap();
        let load = Segment {
            offset: 0x1000,
            address: 0x100_0000,
            file_size: size,
            memory_size: size + 100,
            changes: true,
        };
        let at = u64::try_from(notes.len()).unwrap();
        let noted = Segment { offset: 0x200, address: 0, file_size: at, memory_size: at, changes: false };
        file.extend(program_header(1, load));
        file.extend(program_header(4, noted));
        file.resize(0x200, 0);
        file.extend(notes);
        file.resize(0x1000, 0);
        file.extend(code);
        file
    }

    pub(in crate::boot) fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn segments_and_entry_are_found() {
        let Image::Elf(elf) = Image::read(&file_of(&kernel(&[0xf4; 5000]))).unwrap() else {
            panic!("not an ELF file")
        };
        let segment = Segment {
            offset: 0x1000,
            address: 0x100_0000,
            file_size: 5000,
            memory_size: 5100,
            changes: true,
        };
        assert_eq!(elf, Elf { segments: vec![segment], entry: 0x100_0000 });
    }

    #[test]
    fn other_notes_before_the_entry_are_passed_over() {
        let notes =
            [note(b"GNU\0", 18, &[1; 20]), note(b"Xen\0", 19, &[0; 12]), note(b"Xen\0", 18, &[1, 2, 3, 0])];
        assert_eq!(find_entry(&notes.concat()), Some(0x0003_0201));
    }

    #[test]
    fn a_note_longer_than_the_notes_ends_the_search() {
        let mut notes = note(b"GNU\0", 1, &[0; 4]);
        notes[4] = 0xff;
        assert_eq!(find_entry(&[notes, note(b"Xen\0", 18, &[0; 4])].concat()), None);
    }

    #[test]
    fn a_kernel_without_the_note_is_refused() {
        let mut bytes = kernel(&[0xf4]);
        bytes[0x200 + 8] = 17;
        assert!(matches!(Image::read(&file_of(&bytes)), Err(KernelError::NoEntry)));
    }

    #[test]
    fn an_entry_outside_the_kernel_is_refused() {
        let mut bytes = kernel(&[0xf4]);
        bytes[0x200 + 16] = 9;
        let outcome = Image::read(&file_of(&bytes));
        assert!(matches!(outcome, Err(KernelError::Damaged { what: "the entry", .. })), "{outcome:?}");
    }

    #[test]
    fn a_segment_longer_in_the_file_than_in_memory_is_refused() {
        let mut bytes = kernel(&[0xf4]);
        bytes[64 + 32 + 4] = 1;
        let outcome = Image::read(&file_of(&bytes));
        assert!(matches!(outcome, Err(KernelError::Damaged { .. })), "{outcome:?}");
    }

    #[test]
    fn a_kernel_for_another_processor_is_refused() {
        let mut bytes = kernel(&[0xf4]);
        bytes[18] = 0xb7;
        assert!(matches!(Image::read(&file_of(&bytes)), Err(KernelError::Unknown)));
    }

    proptest! {
        #[test]
        fn no_damage_of_the_headers_is_harmful(at in 0_usize..0x240, value: u8, more in 0_usize..0x240, with: u8) {
            let mut bytes = kernel(&[0xf4; 100]);
            bytes[at] = value;
            bytes[more] = with;
            if let Ok(Image::Elf(elf)) = Image::read(&file_of(&bytes)) {
                prop_assert!(elf.segments.len() <= 32);
                prop_assert!(elf.segments.iter().all(|segment| segment.file_size <= segment.memory_size));
            }
        }

        #[test]
        fn no_notes_are_harmful(notes in proptest::collection::vec(any::<u8>(), 0..200)) {
            find_entry(&notes);
        }
    }
}
