//! Which kind of kernel a file is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::bzimage::BzImage;
use super::elf::Elf;

/// Why a file cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// It cannot be read.
    #[error("cannot read the kernel")]
    Read(#[source] io::Error),
    /// It is neither of the two kinds.
    #[error("the kernel is neither an ELF file for x86-64 nor a bzImage")]
    Unknown,
    /// Its headers contradict themselves or the file.
    #[error("the kernel is damaged: {what} is {found:#x}")]
    Damaged {
        /// Which value.
        what: &'static str,
        /// What it is.
        found: u64,
    },
    /// It is an ELF file without an entry for virtual machines.
    #[error("the kernel has no PVH note: build it with CONFIG_PVH, or give its bzImage")]
    NoEntry,
    /// It is a bzImage that cannot be entered in 64-bit mode.
    #[error("the kernel has no 64-bit entry (boot protocol {version:#x}); 2.12 with XLF_KERNEL_64 is needed")]
    Old {
        /// Its boot protocol: major and minor number.
        version: u16,
    },
}

/// A kernel whose headers were understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Image {
    /// An uncompressed one.
    Elf(Elf),
    /// One that unpacks itself.
    BzImage(BzImage),
}

impl Image {
    /// Reads the headers of `file`.
    pub(super) fn read(file: &File) -> Result<Image, KernelError> {
        let magic: [u8; 4] = bytes_at(file, 0)?;
        if &magic == b"\x7fELF" {
            Elf::read(file).map(Image::Elf)
        } else {
            BzImage::read(file).map(Image::BzImage)
        }
    }
}

/// `N` bytes of the file; a file that ends before them is no kernel.
pub(super) fn bytes_at<const N: usize>(file: &File, offset: u64) -> Result<[u8; N], KernelError> {
    let mut bytes = [0; N];
    match file.read_exact_at(&mut bytes, offset) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(KernelError::Unknown),
        Err(error) => Err(KernelError::Read(error)),
    }
}

/// A number of `N` bytes in little-endian order within `bytes`; beyond their end it is 0.
pub(super) fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let field = at.checked_add(N).and_then(|end| bytes.get(at..end)).unwrap_or(&[]);
    field.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte))
}
