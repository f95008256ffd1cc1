#![allow(unsafe_code)] // Mapping a file over a part of the guest's memory replaces pages that Rust does not own.
//! Makes the guest's memory, maps files into it, and gives it back.
//!
//! What is only read (most of a kernel, an initrd that is unpacked once) is mapped from its file instead of being
//! copied: private pages, which all machines share until a guest writes one. So a file that is mapped must never be written
//! in place, which would change it below the machines that run: a new kernel replaces the old one by a rename.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{Advice, madvise};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap, MmapRegion,
};

use super::Memory;
use super::layout::{GAP_END, GAP_START};

/// Bytes of a page.
const PAGE: u64 = 4096;

/// Bytes copied at once of what cannot be mapped.
const CHUNK: usize = 64 * 1024;

/// What the memory is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backing {
    /// Pages of 2 MiB from the node's reserved ones; without it, ordinary private pages, which are never joined: a guest takes
    /// what it touches and no more.
    pub huge_pages: bool,
    /// Whether all pages are made at once: the guest then never waits for one.
    pub prefault: bool,
}

/// Why memory could not be made or filled.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The size is none that a machine can have.
    #[error(
        "a machine with {mib} MiB of memory is not possible: 2 to 4194304 are, with huge pages even numbers"
    )]
    Size {
        /// What was asked for.
        mib: u32,
    },
    /// The kernel does not give the memory.
    #[error("cannot make {mib} MiB of memory for the guest")]
    Make {
        /// What was asked for.
        mib: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The guest has no memory there.
    #[error("the guest has no memory from {address:#x} for {length} bytes")]
    Outside {
        /// The first address.
        address: u64,
        /// How many bytes were to be there.
        length: u64,
    },
    /// The file has fewer bytes.
    #[error("the file ends at {end}, not after {length} bytes from {offset}")]
    Short {
        /// Where it ends.
        end: u64,
        /// Where the bytes were to begin.
        offset: u64,
        /// How many there were to be.
        length: u64,
    },
    /// The file cannot be read or mapped.
    #[error("cannot bring the file into the guest's memory")]
    File(#[source] io::Error),
}

/// Makes `mib` MiB of memory: up to 3 GiB from 0, the rest from 4 GiB.
pub fn create(mib: u32, backing: Backing) -> Result<Memory, MemoryError> {
    let aligned = !backing.huge_pages || mib.is_multiple_of(2);
    if !(2..=4 * 1024 * 1024).contains(&mib) || !aligned {
        return Err(MemoryError::Size { mib });
    }
    let fail = |source: io::Error| MemoryError::Make { mib, source };
    let size = u64::from(mib) << 20;
    let file = backing.huge_pages.then(|| reserved_pages(size)).transpose().map_err(fail)?;
    let low = size.min(GAP_START);
    let mut regions = vec![region(file.as_ref(), 0, (0, low)).map_err(fail)?];
    if size > low {
        regions.push(region(file.as_ref(), low, (GAP_END, size - low)).map_err(fail)?);
    }
    if backing.prefault {
        for region in &regions {
            populate(region).map_err(fail)?;
        }
    }
    Memory::from_regions(regions).map_err(|error| fail(io::Error::other(error)))
}

fn reserved_pages(size: u64) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let file = memfd_create("guest-memory", flags)?;
    ftruncate(&file, size)?;
    // Nobody who gets the descriptor can take pages away below a machine that runs.
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(File::from(file))
}

/// Maps the file from `offset`, or private pages, to a place: its first address and its length.
fn region(file: Option<&File>, offset: u64, (start, length): (u64, u64)) -> io::Result<GuestRegionMmap<()>> {
    let size = usize::try_from(length).map_err(io::Error::other)?;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let mapping = match file {
        // Huge pages are reserved now: a guest that touched one which the node does not have would be killed.
        Some(file) => {
            let place = FileOffset::new(file.try_clone()?, offset);
            MmapRegion::build(Some(place), size, access, libc::MAP_SHARED)
        }
        None => {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            MmapRegion::build(None, size, access, flags)
        }
    };
    let mapping = mapping.map_err(io::Error::other)?;
    if file.is_none() {
        // SAFETY: the range is this mapping; no byte of it changes. A kernel that joins no pages refuses, and need not be told.
        let _ = unsafe { madvise(mapping.as_ptr().cast(), size, Advice::LinuxNoHugepage) };
    }
    GuestRegionMmap::new(mapping, GuestAddress(start))
        .ok_or_else(|| io::Error::other("the region wraps around"))
}

fn populate(region: &GuestRegionMmap<()>) -> io::Result<()> {
    let length = usize::try_from(region.len()).map_err(io::Error::other)?;
    // SAFETY: the range is the region's own mapping; populating changes no byte.
    unsafe { madvise(region.as_ptr().cast(), length, Advice::LinuxPopulateWrite) }.map_err(Into::into)
}

/// Brings `length` bytes of `file` from `offset` to the guest's `address`: whole pages by mapping them where offset and
/// address allow it, the rest by copying. The guest's writes never reach the file.
pub fn map_file(
    memory: &Memory,
    address: u64,
    file: &File,
    offset: u64,
    length: u64,
) -> Result<(), MemoryError> {
    let end = file.metadata().map_err(MemoryError::File)?.len();
    if offset.checked_add(length).is_none_or(|wanted| wanted > end) {
        return Err(MemoryError::Short { end, offset, length });
    }
    let outside = || MemoryError::Outside { address, length };
    let size = usize::try_from(length).map_err(|_| outside())?;
    if !memory.check_range(GuestAddress(address), size) {
        return Err(outside());
    }
    let mut mapped = 0;
    if address.is_multiple_of(PAGE) && offset.is_multiple_of(PAGE) && !is_huge(memory) {
        let pages = length - length % PAGE;
        if pages > 0 && overlay(memory, address, file, offset, pages)? {
            mapped = pages;
        }
    }
    copy(memory, address + mapped, file, offset + mapped, length - mapped)
}

/// Whether it is made of the node's reserved pages. A part of a huge page cannot be replaced.
fn is_huge(memory: &Memory) -> bool {
    memory.iter().any(|region| region.file_offset().is_some())
}

/// Maps whole pages; says whether the file can be mapped at all.
fn overlay(
    memory: &Memory,
    address: u64,
    file: &File,
    offset: u64,
    length: u64,
) -> Result<bool, MemoryError> {
    let outside = || MemoryError::Outside { address, length };
    let size = usize::try_from(length).map_err(|_| outside())?;
    // Fails where the range is not within one region, that is within one mapping.
    let slice = GuestMemoryBackend::get_slice(memory, GuestAddress(address), size).map_err(|_| outside())?;
    let offset = libc::off_t::try_from(offset).map_err(|_| outside())?;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE;
    let guard = slice.ptr_guard_mut();
    // SAFETY: the range lies within one mapping of the guest's memory, page by page, as just seen. Everybody uses that
    // memory through volatile accesses that may find anything, so pages may be replaced below them; the new ones stay
    // until the whole region is unmapped.
    let at = unsafe { libc::mmap(guard.as_ptr().cast(), size, access, flags, file.as_raw_fd(), offset) };
    if at != libc::MAP_FAILED {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        error => Err(MemoryError::File(error)),
    }
}

fn copy(memory: &Memory, address: u64, file: &File, offset: u64, length: u64) -> Result<(), MemoryError> {
    let mut done = 0;
    let mut buffer = vec![0; CHUNK.min(usize::try_from(length).unwrap_or(CHUNK))];
    while done < length {
        let now = usize::try_from(length - done).unwrap_or(CHUNK).min(CHUNK);
        let bytes = &mut buffer[..now];
        file.read_exact_at(bytes, offset + done).map_err(MemoryError::File)?;
        memory
            .write_slice(bytes, GuestAddress(address + done))
            .map_err(|_| MemoryError::Outside { address, length })?;
        done += bytes.len() as u64;
    }
    Ok(())
}

/// Makes the guest's own copy of every page of a range now. What is written anyway, page by page, costs two exits and a copy
/// each later; here it is the copy alone. A kernel that cannot do it does it later.
pub fn copy_now(memory: &Memory, address: u64, length: u64) {
    let whole = |address: u64| address / PAGE * PAGE;
    let (start, end) = (whole(address), whole(address.saturating_add(length)));
    let Ok(size) = usize::try_from(end.saturating_sub(start)) else { return };
    let Ok(slice) = GuestMemoryBackend::get_slice(memory, GuestAddress(start), size) else { return };
    let guard = slice.ptr_guard_mut();
    // SAFETY: the range is the guest's memory, whole pages of it; populating changes no byte.
    let _ = unsafe { madvise(guard.as_ptr().cast(), size, Advice::LinuxPopulateWrite) };
}

/// Gives whole pages back to the node: the guest finds zeros in them, or what a file has that was mapped there. `false` if the
/// guest has no memory there.
pub fn give_back(memory: &Memory, address: u64, length: u64) -> bool {
    if !address.is_multiple_of(PAGE) || !length.is_multiple_of(PAGE) || length == 0 {
        return false;
    }
    let Ok(size) = usize::try_from(length) else { return false };
    let Ok(slice) = GuestMemoryBackend::get_slice(memory, GuestAddress(address), size) else { return false };
    // Shared pages are their file's, and stay in it unless it is told.
    let advice = if is_huge(memory) { Advice::LinuxRemove } else { Advice::LinuxDontNeed };
    let guard = slice.ptr_guard_mut();
    // SAFETY: the range is the guest's memory, which everybody uses through volatile accesses that may find anything.
    unsafe { madvise(guard.as_ptr().cast(), size, advice) }.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn read(memory: &Memory, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// Pages of a range that are there.
    fn resident(memory: &Memory, address: u64, length: usize) -> usize {
        let slice = GuestMemoryBackend::get_slice(memory, GuestAddress(address), length).unwrap();
        let mut pages = vec![0; length / 4096];
        // SAFETY: a byte for each page of a range that is mapped.
        let done =
            unsafe { libc::mincore(slice.ptr_guard_mut().as_ptr().cast(), length, pages.as_mut_ptr()) };
        assert_eq!(done, 0);
        pages.iter().filter(|page| **page & 1 != 0).count()
    }

    #[test]
    fn memory_beyond_three_gib_continues_at_four() {
        let memory = create(3 * 1024 + 16, Backing::default()).unwrap();
        let ends: Vec<(u64, u64)> =
            memory.iter().map(|region| (region.start_addr().0, region.len())).collect();
        assert_eq!(ends, [(0, GAP_START), (GAP_END, 16 << 20)]);
    }

    #[test]
    fn a_machine_without_memory_is_refused() {
        assert!(matches!(create(0, Backing::default()), Err(MemoryError::Size { mib: 0 })));
    }

    #[test]
    fn huge_pages_that_the_node_lacks_are_refused_at_the_start() {
        // 1 TiB of them.
        let outcome = create(1 << 20, Backing { huge_pages: true, prefault: false });
        assert!(matches!(outcome, Err(MemoryError::Make { mib: 0x10_0000, .. })), "{outcome:?}");
    }

    #[test]
    fn all_pages_are_there_when_asked_for() {
        let memory = create(4, Backing { prefault: true, huge_pages: false }).unwrap();
        assert_eq!(resident(&memory, 0, 4 << 20), 1024);
        assert_eq!(resident(&create(4, Backing::default()).unwrap(), 0, 4 << 20), 0);
    }

    #[test]
    fn a_mapped_file_is_read_by_the_guest_and_not_written() {
        let memory = create(4, Backing::default()).unwrap();
        let content: Vec<u8> = (0..10_000_u32).map(|number| number as u8).collect();
        let file = file_of(&content);
        map_file(&memory, 0x10_0000, &file, 0, 10_000).unwrap();
        assert_eq!(read(&memory, 0x10_0000, 10_001), [content.as_slice(), &[0]].concat());
        memory.write_slice(&[0xff; 16], GuestAddress(0x10_0000)).unwrap();
        let mut first = [0; 16];
        file.read_exact_at(&mut first, 0).unwrap();
        assert_eq!(first, content[..16]);
    }

    #[test]
    fn what_is_not_aligned_is_copied() {
        let memory = create(4, Backing::default()).unwrap();
        let file = file_of(&[7; 9000]);
        map_file(&memory, 0x10_0010, &file, 3, 8997).unwrap();
        assert_eq!(read(&memory, 0x10_000f, 3), [0, 7, 7]);
        assert_eq!(read(&memory, 0x10_0010 + 8996, 2), [7, 0]);
    }

    #[test]
    fn a_file_that_is_too_short_is_refused() {
        let memory = create(4, Backing::default()).unwrap();
        let outcome = map_file(&memory, 0x10_0000, &file_of(&[0; 100]), 0, 101);
        assert!(matches!(outcome, Err(MemoryError::Short { end: 100, .. })), "{outcome:?}");
    }

    #[test]
    fn an_offset_that_wraps_around_is_refused() {
        let memory = create(4, Backing::default()).unwrap();
        let outcome = map_file(&memory, 0x10_0000, &file_of(&[0; 100]), u64::MAX, 2);
        assert!(matches!(outcome, Err(MemoryError::Short { .. })), "{outcome:?}");
    }

    #[test]
    fn a_place_outside_the_memory_is_refused() {
        let memory = create(4, Backing::default()).unwrap();
        let outcome = map_file(&memory, (4 << 20) - 4096, &file_of(&[0; 8192]), 0, 8192);
        assert!(matches!(outcome, Err(MemoryError::Outside { .. })), "{outcome:?}");
    }

    #[test]
    fn pages_given_back_are_zero_and_gone() {
        let memory = create(4, Backing::default()).unwrap();
        memory.write_slice(&[1; 8192], GuestAddress(0x10_0000)).unwrap();
        assert_eq!(resident(&memory, 0x10_0000, 16384), 2);
        assert!(give_back(&memory, 0x10_0000, 8192));
        assert_eq!(resident(&memory, 0x10_0000, 8192), 0);
        assert_eq!(read(&memory, 0x10_0000, 1), [0]);
    }

    #[test]
    fn half_a_page_is_not_given_back() {
        assert!(!give_back(&create(4, Backing::default()).unwrap(), 0x10_0000, 2048));
    }
}
