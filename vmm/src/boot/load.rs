//! Kernel, initrd and command line into the guest's memory.

use std::fs::File;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion};

use super::image::{Image, KernelError};
use super::{linux, mptable, pvh};
use crate::kvm::Start;
use crate::memory::{COMMAND_LINE, HIGH_START, Memory, MemoryError, copy_now, map_file};

/// The longest command line that x86 kernels take, its closing zero included.
const MAX_COMMAND_LINE: u64 = 2048;

/// The last address that every boot protocol can name.
const PAGE: u64 = 4096;

/// What is started.
#[derive(Debug, Clone, Copy)]
pub struct Boot<'a> {
    /// The kernel: an ELF file with a PVH note, or a bzImage.
    pub kernel: &'a File,
    /// Its first file system.
    pub initrd: Option<&'a File>,
    /// Its command line.
    pub command_line: &'a str,
    /// Number of processors.
    pub cpus: u8,
    /// The IOAPIC's lines that something is at.
    pub lines: &'a [u8],
}

/// Why a machine cannot be started with this kernel.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The kernel's file.
    #[error("the kernel cannot be started")]
    Kernel(#[from] KernelError),
    /// A part of the kernel or the initrd.
    #[error("{what} does not get into the guest's memory")]
    Load {
        /// Which.
        what: &'static str,
        /// Why.
        source: MemoryError,
    },
    /// There is too little memory.
    #[error(
        "{what} needs the guest's memory from {start:#x} to {end:#x}, and {limit:#x} is where it ends: give it more memory"
    )]
    TooLarge {
        /// What does not fit.
        what: &'static str,
        /// Where it would begin.
        start: u64,
        /// Where it would end.
        end: u64,
        /// The end of what is free.
        limit: u64,
    },
    /// The command line is too long.
    #[error("the kernel's command line has {length} bytes, and at most {limit} are taken")]
    CommandLine {
        /// Its bytes.
        length: u64,
        /// The most.
        limit: u64,
    },
    /// What the kernel is told does not get into memory.
    #[error("what the kernel is told does not get into the guest's memory")]
    Tell(#[source] GuestMemoryError),
}

/// Where the parts lie that the kernel must be told of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    /// Address and length of the initrd.
    pub(super) initrd: Option<(u64, u64)>,
}

/// Loads everything, and says how the first CPU starts.
pub fn load(memory: &Memory, boot: Boot<'_>) -> Result<Start, BootError> {
    let image = Image::read(boot.kernel)?;
    let end = load_kernel(memory, boot.kernel, &image)?;
    let initrd = boot.initrd.map(|initrd| load_initrd(memory, initrd, end)).transpose()?;
    let limit = match &image {
        Image::Elf(_) => MAX_COMMAND_LINE - 1,
        Image::BzImage(image) => image.command_line.min(MAX_COMMAND_LINE - 1),
    };
    let length = boot.command_line.len() as u64;
    if length > limit {
        return Err(BootError::CommandLine { length, limit });
    }
    let line = [boot.command_line.as_bytes(), &[0]].concat();
    memory.write_slice(&line, GuestAddress(COMMAND_LINE)).map_err(BootError::Tell)?;
    if !mptable::write(memory, boot.cpus, boot.lines) {
        let limit = memory_end(memory);
        return Err(BootError::TooLarge {
            what: "the table of processors",
            start: 0,
            end: HIGH_START,
            limit,
        });
    }
    let placed = Placed { initrd };
    match image {
        Image::Elf(elf) => pvh::write(memory, elf.entry, placed),
        Image::BzImage(image) => linux::write(memory, &image, placed),
    }
    .map_err(BootError::Tell)
}

/// Where the memory below 4 GiB ends.
fn memory_end(memory: &Memory) -> u64 {
    memory.find_region(GuestAddress(0)).map_or(0, GuestMemoryRegion::len)
}

/// Puts the kernel where it belongs; gives its end.
fn load_kernel(memory: &Memory, file: &File, image: &Image) -> Result<u64, BootError> {
    let mut end = HIGH_START;
    let segments = match image {
        Image::Elf(elf) => elf.segments.clone(),
        Image::BzImage(image) => vec![super::elf::Segment {
            offset: image.offset,
            address: image.address,
            file_size: image.file_size,
            memory_size: image.memory_size,
            changes: true,
        }],
    };
    for segment in segments {
        let limit = memory_end(memory);
        let segment_end = segment.address.saturating_add(segment.memory_size);
        if segment.address < HIGH_START || segment_end > limit {
            let start = segment.address;
            return Err(BootError::TooLarge { what: "the kernel", start, end: segment_end, limit });
        }
        map_file(memory, segment.address, file, segment.offset, segment.file_size)
            .map_err(|source| BootError::Load { what: "the kernel", source })?;
        if segment.changes {
            copy_now(memory, segment.address, segment.file_size);
        }
        end = end.max(segment_end);
    }
    Ok(end)
}

/// Puts the initrd at the end of the memory below 4 GiB, behind the kernel.
fn load_initrd(memory: &Memory, file: &File, kernel_end: u64) -> Result<(u64, u64), BootError> {
    let what = "the initrd";
    let fail = |source| BootError::Load { what, source };
    let length = file.metadata().map_err(|error| fail(MemoryError::File(error)))?.len();
    let limit = memory_end(memory);
    let start = limit.checked_sub(length).map(|start| start - start % PAGE);
    let Some(start) = start.filter(|start| *start >= kernel_end) else {
        let end = kernel_end.saturating_add(length);
        return Err(BootError::TooLarge { what, start: kernel_end, end, limit });
    };
    map_file(memory, start, file, 0, length).map_err(fail)?;
    Ok((start, length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    use crate::boot::{bzimage, elf};
    use crate::memory::{Backing, create};

    fn boot<'a>(kernel: &'a File, initrd: Option<&'a File>) -> Boot<'a> {
        Boot { kernel, initrd, command_line: "console=ttyS0", cpus: 2, lines: &[4] }
    }

    fn read<const N: usize>(memory: &Memory, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    #[test]
    fn a_vmlinux_is_entered_at_its_note_and_finds_its_initrd() {
        let memory = create(32, Backing::default()).unwrap();
        let (kernel, initrd) =
            (elf::tests::file_of(&elf::tests::kernel(b"code")), elf::tests::file_of(&[9; 5000]));
        let start = load(&memory, boot(&kernel, Some(&initrd))).unwrap();
        assert_eq!(start, Start::Protected { instruction: 0x100_0000, info: 0x6000 });
        assert_eq!(&read::<4>(&memory, 0x100_0000), b"code");
        assert_eq!(u32::from_le_bytes(read(&memory, 0x6000)), 0x336e_c578);
        let module = u64::from_le_bytes(read(&memory, u64::from_le_bytes(read(&memory, 0x6010))));
        assert_eq!((module, read::<1>(&memory, module)), ((32 << 20) - 8192, [9]));
        assert_eq!(&read::<14>(&memory, u64::from_le_bytes(read(&memory, 0x6018))), b"console=ttyS0\0");
    }

    /// How many of the first 16 pages at 16 MiB are this guest's own, and not their file's: `Documentation/admin-guide/mm/pagemap.rst`.
    fn own_pages(memory: &Memory) -> usize {
        let first = memory.get_host_address(GuestAddress(0x100_0000)).unwrap() as u64 / PAGE;
        let mut entries = [0; 16 * 8];
        File::open("/proc/self/pagemap").unwrap().read_exact_at(&mut entries, first * 8).unwrap();
        let (entries, _) = entries.as_chunks();
        entries.iter().filter(|entry| u64::from_le_bytes(**entry) >> 61 & 0b101 == 0b100).count()
    }

    #[test]
    fn what_a_kernel_does_not_change_is_not_copied() {
        for (flags, own) in [(4, 0), (5, 10), (6, 10)] {
            let memory = create(32, Backing::default()).unwrap();
            let mut kernel = elf::tests::kernel(&[0xf4; 10 * PAGE as usize]);
            kernel[64 + 4] = flags;
            load(&memory, boot(&elf::tests::file_of(&kernel), None)).unwrap();
            assert_eq!(own_pages(&memory), own, "flags {flags}");
            assert_eq!(read::<1>(&memory, 0x100_0000), [0xf4]);
        }
    }

    #[test]
    fn a_bzimage_is_entered_in_64_bit_mode() {
        let memory = create(32, Backing::default()).unwrap();
        let kernel = elf::tests::file_of(&bzimage::tests::kernel());
        let start = load(&memory, boot(&kernel, None)).unwrap();
        let expected =
            Start::Long { instruction: 0x100_0200, info: 0x7000, page_tables: 0x9000, descriptors: 0x6000 };
        assert_eq!(start, expected);
        assert_eq!(&read::<4>(&memory, 0x7202), b"HdrS");
        assert_eq!(read::<1>(&memory, 0x7000 + 0x1e8), [3]);
    }

    #[test]
    fn a_kernel_that_does_not_fit_is_refused() {
        let memory = create(16, Backing::default()).unwrap();
        let kernel = elf::tests::file_of(&elf::tests::kernel(b"code"));
        let outcome = load(&memory, boot(&kernel, None));
        assert!(matches!(outcome, Err(BootError::TooLarge { what: "the kernel", .. })), "{outcome:?}");
    }

    #[test]
    fn an_initrd_that_would_lie_on_the_kernel_is_refused() {
        let memory = create(18, Backing::default()).unwrap();
        let kernel = elf::tests::file_of(&elf::tests::kernel(b"code"));
        let initrd = elf::tests::file_of(&vec![0; 2 << 20]);
        let outcome = load(&memory, boot(&kernel, Some(&initrd)));
        assert!(matches!(outcome, Err(BootError::TooLarge { what: "the initrd", .. })), "{outcome:?}");
    }

    #[test]
    fn a_kernel_over_what_it_is_told_is_refused() {
        let memory = create(32, Backing::default()).unwrap();
        let mut bytes = bzimage::tests::kernel();
        bytes[0x258..0x260].copy_from_slice(&0x6000_u64.to_le_bytes());
        let kernel = elf::tests::file_of(&bytes);
        let outcome = load(&memory, boot(&kernel, None));
        assert!(matches!(outcome, Err(BootError::TooLarge { .. })), "{outcome:?}");
    }

    #[test]
    fn a_command_line_that_is_too_long_is_refused() {
        let memory = create(32, Backing::default()).unwrap();
        let kernel = elf::tests::file_of(&elf::tests::kernel(b"code"));
        let long = "x".repeat(2048);
        let outcome = load(&memory, Boot { command_line: &long, ..boot(&kernel, None) });
        assert!(matches!(outcome, Err(BootError::CommandLine { length: 2048, limit: 2047 })), "{outcome:?}");
    }
}
