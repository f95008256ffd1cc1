//! A kernel as TDX firmware starts it: an EFI program, measured by its Authenticode digest.
//!
//! ```text
//! SHA-384( headers without checksum and certificate's place | sections by their place in the file | the rest, without
//! certificates )
//! ```
//! As OVMF computes it (PE/COFF specification, "Authenticode PE Image Hash"): without the zeros that signing tools add to a
//! length that is no multiple of eight. A Linux kernel says its version in its setup header (Documentation/arch/x86/boot.rst).

use sha2::{Digest, Sha384};

use crate::measure::DIGEST_BYTES;

/// The largest kernel that is read, in bytes.
const LARGEST: usize = 512 << 20;
const MOST_SECTIONS: u16 = 96;
/// The first version whose EFI stub measures command line and initrd into a trust domain's registers.
const FIRST: (u16, u16) = (6, 9);
const MACHINE: u16 = 0x8664;
const PE32_PLUS: u16 = 0x20b;
/// Offsets from the PE signature on.
const SECTION_COUNT: usize = 6;
const OPTIONAL_BYTES: usize = 20;
const OPTIONAL: usize = 24;
/// Offsets in the optional header.
const HEADERS_BYTES: usize = 60;
const CHECKSUM: usize = 64;
const DIRECTORIES: usize = 108;
const CERTIFICATES: usize = 144;
const SECTION_BYTES: usize = 40;

/// A kernel that firmware can start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EfiKernel {
    digest: [u8; DIGEST_BYTES],
}

/// Why a file is no kernel that TDX firmware starts, or whose start can be foretold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// Larger than any kernel.
    #[error("a kernel has at most {LARGEST} bytes, this one has {found}")]
    Size {
        /// Length found.
        found: usize,
    },
    /// Something that only other monitors start.
    #[error(
        "the kernel is {found}, TDX firmware starts only EFI programs: give a bzImage that was built with CONFIG_EFI_STUB"
    )]
    NotEfi {
        /// What it is instead.
        found: &'static str,
    },
    /// A part that is not there, or of a form that cannot be.
    #[error("the kernel's EFI headers are damaged: {what}")]
    Damaged {
        /// The part.
        what: &'static str,
    },
    /// No kernel of Linux.
    #[error("the kernel does not say which version of Linux it is, so what it measures is not known")]
    NoVersion,
    /// A kernel that leaves command line and initrd unmeasured.
    #[error(
        "the kernel is Linux {major}.{minor}: command line and initrd are measured in a trust domain from {}.{} on", FIRST.0, FIRST.1
    )]
    Old {
        /// First number of its version.
        major: u16,
        /// Second number.
        minor: u16,
    },
}

impl EfiKernel {
    /// Reads the headers of `file` and digests it.
    ///
    /// # Errors
    /// [`KernelError`]
    pub fn parse(file: &[u8]) -> Result<Self, KernelError> {
        if file.len() > LARGEST {
            return Err(KernelError::Size { found: file.len() });
        }
        let digest = authenticode(file)?;
        let (major, minor) = version(file).ok_or(KernelError::NoVersion)?;
        if (major, minor) < FIRST {
            return Err(KernelError::Old { major, minor });
        }
        Ok(Self { digest })
    }

    /// What firmware measures of it.
    pub fn digest(&self) -> [u8; DIGEST_BYTES] {
        self.digest
    }
}

fn authenticode(file: &[u8]) -> Result<[u8; DIGEST_BYTES], KernelError> {
    let pe = headers(file)?;
    let damaged = |what| KernelError::Damaged { what };
    let optional = pe.get(OPTIONAL..).ok_or(damaged("they end early"))?;
    let start = file.len().saturating_sub(optional.len());
    let headers = number(optional, HEADERS_BYTES).ok_or(damaged("they end early"))?;
    let directories = word(optional, DIRECTORIES).ok_or(damaged("they end early"))?;
    let certificates = (directories > 4).then_some(start.saturating_add(CERTIFICATES));
    let mut digest = Sha384::new();
    let mut hash = |from: usize, to: usize, what| {
        digest.update(file.get(from..to).ok_or(damaged(what))?);
        Ok(())
    };
    let checksum = start.saturating_add(CHECKSUM);
    hash(0, checksum, "their checksum")?;
    let after = checksum.saturating_add(4);
    match certificates {
        Some(place) => {
            hash(after, place, "their directories")?;
            hash(place.saturating_add(8), headers, "their length")?;
        }
        None => hash(after, headers, "their length")?,
    }
    let mut hashed = headers;
    for (place, bytes) in sections(pe)? {
        hash(place, place.saturating_add(bytes), "a section leads out of the file")?;
        hashed = hashed.saturating_add(bytes);
    }
    let signed = certificates.and_then(|place| number(file, place.saturating_add(4))).unwrap_or(0);
    let rest = file.len().checked_sub(signed).filter(|end| *end >= hashed || file.len() <= hashed);
    let end = rest.ok_or(damaged("their certificates are longer than the rest of the file"))?;
    if end > hashed {
        hash(hashed, end, "the rest of the file")?;
    }
    Ok(digest.finalize().into())
}

/// The file from its PE signature on.
fn headers(file: &[u8]) -> Result<&[u8], KernelError> {
    match file.first_chunk::<4>() {
        Some(b"\x7fELF") => return Err(KernelError::NotEfi { found: "an ELF file (vmlinux)" }),
        Some([b'M', b'Z', ..]) => {}
        _ if file.get(0x202..0x206) == Some(b"HdrS") => {
            return Err(KernelError::NotEfi { found: "a bzImage without an EFI stub" });
        }
        _ => return Err(KernelError::NotEfi { found: "no EFI program" }),
    }
    let place = number(file, 0x3c);
    let pe = place.and_then(|place| file.get(place..)).filter(|pe| pe.starts_with(b"PE\0\0"));
    let pe = pe.ok_or(KernelError::Damaged { what: "there is no PE signature" })?;
    match (half(pe, 4), half(pe, OPTIONAL)) {
        (Some(MACHINE), Some(PE32_PLUS)) => Ok(pe),
        _ => Err(KernelError::NotEfi { found: "an EFI program for another processor" }),
    }
}

/// Place in the file and length of each section, by place.
fn sections(pe: &[u8]) -> Result<Vec<(usize, usize)>, KernelError> {
    let damaged = KernelError::Damaged { what: "the table of sections" };
    let count = half(pe, SECTION_COUNT).filter(|count| *count <= MOST_SECTIONS).ok_or(damaged.clone())?;
    let before = half(pe, OPTIONAL_BYTES).map(|bytes| OPTIONAL.saturating_add(bytes.into()));
    let table = before.and_then(|before| pe.get(before..)).ok_or(damaged.clone())?;
    let entry = |entry: &[u8]| Some((number(entry, 20)?, number(entry, 16)?));
    let mut sections: Vec<(usize, usize)> =
        table.chunks_exact(SECTION_BYTES).take(count.into()).filter_map(entry).collect();
    if sections.len() != usize::from(count) {
        return Err(damaged);
    }
    sections.sort_by_key(|(place, _)| *place);
    sections.retain(|(_, bytes)| *bytes > 0);
    Ok(sections)
}

/// The first two numbers of Linux' version, from the text that the setup header names.
fn version(file: &[u8]) -> Option<(u16, u16)> {
    if file.get(0x202..0x206) != Some(b"HdrS") {
        return None;
    }
    let place = usize::from(half(file, 0x20e).filter(|place| *place > 0)?).checked_add(0x200)?;
    let text = file.get(place..)?.split(|byte| !byte.is_ascii_digit() && *byte != b'.').next()?;
    let mut numbers = std::str::from_utf8(text).ok()?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|half| u16::from_le_bytes(*half))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(word(bytes, at)?).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// A kernel of 0x1000 bytes of headers, two sections in the wrong order, and eight bytes behind them.
    pub(in crate::tdx) fn kernel() -> Vec<u8> {
        let mut file: Vec<u8> = (0..0x3008_u32).map(|at| (at >> 5) as u8).collect();
        file[..0x1000].fill(0);
        put(&mut file, 0, b"MZ");
        put(&mut file, 0x3c, &0x40_u32.to_le_bytes());
        put(&mut file, 0x40, b"PE\0\0\x64\x86\x02\0");
        put(&mut file, 0x40 + OPTIONAL_BYTES, &160_u16.to_le_bytes());
        put(&mut file, 0x58, &PE32_PLUS.to_le_bytes());
        put(&mut file, 0x58 + HEADERS_BYTES, &0x1000_u32.to_le_bytes());
        put(&mut file, 0x58 + DIRECTORIES, &6_u32.to_le_bytes());
        for (index, place) in [(0, 0x2000_u32), (1, 0x1000)] {
            put(&mut file, 0xf8 + index * 40 + 16, &0x1000_u32.to_le_bytes());
            put(&mut file, 0xf8 + index * 40 + 20, &place.to_le_bytes());
        }
        put(&mut file, 0x202, b"HdrS");
        put(&mut file, 0x20e, &0x100_u16.to_le_bytes());
        put(&mut file, 0x300, b"6.12.3-coffer (x@y)");
        file
    }

    fn with(change: impl FnOnce(&mut Vec<u8>)) -> Result<EfiKernel, KernelError> {
        let mut file = kernel();
        change(&mut file);
        EfiKernel::parse(&file)
    }

    #[test]
    fn all_but_checksum_and_certificates_counts() {
        let whole = with(|_| ()).expect("a kernel");
        assert_eq!(with(|file| file[0x58 + CHECKSUM] ^= 1), Ok(whole));
        assert_eq!(with(|file| file[0x58 + CERTIFICATES] ^= 1), Ok(whole));
        let signed = with(|file| {
            file.extend([7; 64]);
            put(file, 0x58 + CERTIFICATES + 4, &64_u32.to_le_bytes());
        });
        assert_eq!(signed, Ok(whole));
        let changed = [0x10, 0x1234, 0x2345, 0x3004];
        assert!(changed.iter().all(|at| with(|file| file[*at] ^= 1) != Ok(whole)));
    }

    #[test]
    fn sections_are_digested_by_their_place_in_the_file() {
        let file = kernel();
        let mut digest = Sha384::new();
        digest.update(&file[..0x58 + CHECKSUM]);
        digest.update(&file[0x58 + CHECKSUM + 4..0x58 + CERTIFICATES]);
        digest.update(&file[0x58 + CERTIFICATES + 8..]);
        let expected: [u8; DIGEST_BYTES] = digest.finalize().into();
        assert_eq!(EfiKernel::parse(&file).map(|kernel| kernel.digest()), Ok(expected));
    }

    #[test]
    fn a_kernel_that_firmware_cannot_start_is_refused_by_what_it_is() {
        let not = |found| Err(KernelError::NotEfi { found });
        assert_eq!(EfiKernel::parse(b"\x7fELF\x02"), not("an ELF file (vmlinux)"));
        assert_eq!(with(|file| file[0] = 0), not("a bzImage without an EFI stub"));
        assert_eq!(with(|file| file[0x44] = 0x4c), not("an EFI program for another processor"));
        assert_eq!(EfiKernel::parse(b""), not("no EFI program"));
    }

    #[test]
    fn a_kernel_that_leaves_its_command_line_unmeasured_is_refused() {
        let old = |text: &'static [u8; 4]| with(|file| put(file, 0x300, text));
        assert_eq!(old(b"6.8."), Err(KernelError::Old { major: 6, minor: 8 }));
        assert_eq!(old(b"5.20"), Err(KernelError::Old { major: 5, minor: 20 }));
        assert_eq!(old(b"rc1 "), Err(KernelError::NoVersion));
        assert_eq!(with(|file| file[0x20f] = 0xff), Err(KernelError::NoVersion));
    }

    #[test]
    fn headers_that_lead_out_of_the_file_are_refused() {
        let damaged = |change: fn(&mut Vec<u8>)| matches!(with(change), Err(KernelError::Damaged { .. }));
        assert!(damaged(|file| put(file, 0x3c, &[0xff; 4])));
        assert!(damaged(|file| put(file, 0x58 + HEADERS_BYTES, &[0xff; 4])));
        assert!(damaged(|file| put(file, 0x58 + HEADERS_BYTES, &[0; 4])));
        assert!(damaged(|file| put(file, 0xf8 + 16, &[0xff; 4])));
        assert!(damaged(|file| put(file, 0x46, &[0xff; 2])));
        assert!(damaged(|file| put(file, 0x58 + CERTIFICATES + 4, &[0xff; 4])));
        assert!(damaged(|file| file.truncate(0x60)));
    }
}
