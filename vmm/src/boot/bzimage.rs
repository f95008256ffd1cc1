//! A kernel that unpacks itself: what its setup header says (the kernel's `Documentation/arch/x86/boot.rst`).

use std::fs::File;

use super::image::{KernelError, bytes_at, number};

/// Where the setup header begins, and bytes of it that are read.
pub(super) const SETUP_HEADER: u64 = 0x1f1;
const HEADER: usize = 0x7b;

/// Bytes of the setup header that are handed to the kernel: up to its last field of boot protocol 2.15.
pub(super) type SetupHeader = [u8; HEADER];

/// The lowest boot protocol that can tell of a 64-bit entry.
const VERSION: u16 = 0x20c;

const XLF_KERNEL_64: u64 = 1;
const SECTOR: u64 = 512;

/// Where the 64-bit entry is in the kernel that follows the setup code.
const ENTRY_64: u64 = 0x200;

/// The most memory that a kernel may want to unpack itself in.
const MAX_UNPACKED: u64 = 1 << 30;

/// A bzImage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BzImage {
    /// The setup header as the file has it.
    pub(super) header: SetupHeader,
    /// Where the kernel begins in the file.
    pub(super) offset: u64,
    /// Its bytes in the file.
    pub(super) file_size: u64,
    /// Where it wants to be in the guest's memory.
    pub(super) address: u64,
    /// Bytes that it needs there.
    pub(super) memory_size: u64,
    /// The longest command line that it takes, in bytes.
    pub(super) command_line: u64,
}

impl BzImage {
    /// Reads the headers of `file`.
    pub(super) fn read(file: &File) -> Result<BzImage, KernelError> {
        let header: SetupHeader = bytes_at(file, SETUP_HEADER)?;
        if number::<2>(&header, 0xd) != 0xaa55 || header.get(0x11..0x15) != Some(b"HdrS") {
            return Err(KernelError::Unknown);
        }
        let version = u16::try_from(number::<2>(&header, 0x15)).unwrap_or(0);
        if version < VERSION || number::<2>(&header, 0x236 - 0x1f1) & XLF_KERNEL_64 == 0 {
            return Err(KernelError::Old { version });
        }
        // A kernel of the old days says 0 and means 4.
        let sectors = match number::<1>(&header, 0) {
            0 => 4,
            sectors => sectors,
        };
        let offset = (sectors + 1) * SECTOR;
        let length = file.metadata().map_err(KernelError::Read)?.len();
        let file_size = length.checked_sub(offset).filter(|size| *size > ENTRY_64);
        let file_size =
            file_size.ok_or(KernelError::Damaged { what: "the setup's length", found: offset })?;
        let unpacked = number::<4>(&header, 0x260 - 0x1f1);
        if unpacked > MAX_UNPACKED {
            return Err(KernelError::Damaged { what: "the memory wanted", found: unpacked });
        }
        Ok(BzImage {
            header,
            offset,
            file_size,
            address: number::<8>(&header, 0x258 - 0x1f1),
            memory_size: unpacked.max(file_size),
            command_line: number::<4>(&header, 0x238 - 0x1f1),
        })
    }

    /// Where a CPU in 64-bit mode enters it.
    pub(super) fn entry(&self) -> u64 {
        self.address.saturating_add(ENTRY_64)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::boot::elf::tests::file_of;
    use crate::boot::image::Image;
    use proptest::prelude::*;

    /// A bzImage with one sector of setup code and 4 KiB of kernel.
    pub(in crate::boot) fn kernel() -> Vec<u8> {
        let mut file = vec![0; 1024 + 4096];
        file[0x1f1] = 1;
        file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x206..0x208].copy_from_slice(&[0x0f, 0x02]);
        file[0x236] = 1;
        file[0x238..0x23c].copy_from_slice(&2047_u32.to_le_bytes());
        file[0x258..0x260].copy_from_slice(&0x100_0000_u64.to_le_bytes());
        file[0x260..0x264].copy_from_slice(&0x20_0000_u32.to_le_bytes());
        file[1024..].fill(0x90);
        file
    }

    #[test]
    fn the_kernel_behind_the_setup_code_is_found() {
        let Image::BzImage(image) = Image::read(&file_of(&kernel())).unwrap() else { panic!("no bzImage") };
        assert_eq!((image.offset, image.file_size), (1024, 4096));
        assert_eq!((image.entry(), image.memory_size), (0x100_0200, 0x20_0000));
        assert_eq!(image.command_line, 2047);
    }

    #[test]
    fn a_kernel_without_a_64_bit_entry_is_refused() {
        let mut bytes = kernel();
        bytes[0x236] = 0;
        assert!(matches!(Image::read(&file_of(&bytes)), Err(KernelError::Old { version: 0x20f })));
    }

    #[test]
    fn a_file_shorter_than_its_setup_code_is_refused() {
        let mut bytes = kernel();
        bytes[0x1f1] = 0xff;
        let outcome = Image::read(&file_of(&bytes));
        assert!(matches!(outcome, Err(KernelError::Damaged { .. })), "{outcome:?}");
    }

    #[test]
    fn a_kernel_that_wants_all_memory_is_refused() {
        let mut bytes = kernel();
        bytes[0x263] = 0xff;
        let outcome = Image::read(&file_of(&bytes));
        assert!(
            matches!(outcome, Err(KernelError::Damaged { what: "the memory wanted", .. })),
            "{outcome:?}"
        );
    }

    #[test]
    fn an_empty_file_is_no_kernel() {
        assert!(matches!(Image::read(&file_of(b"")), Err(KernelError::Unknown)));
    }

    proptest! {
        #[test]
        fn no_damage_of_the_header_is_harmful(at in 0x1f1_usize..0x26c, value: u8) {
            let mut bytes = kernel();
            bytes[at] = value;
            let _ = Image::read(&file_of(&bytes));
        }
    }
}
