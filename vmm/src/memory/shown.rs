//! Pages that the monitor writes and the guest only reads: what a device's registers say, without leaving the guest.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

/// Bytes of a page.
const PAGE: usize = 4096;

/// Such pages, one after another. Copies are the same ones.
#[derive(Debug, Clone)]
pub struct Shown {
    ours: Arc<MmapRegion>,
    guests: Arc<MmapRegion>,
}

impl Shown {
    /// `count` pages of zeros, at least one.
    pub fn new(count: usize) -> io::Result<Shown> {
        let length = count.checked_mul(PAGE).ok_or_else(|| io::Error::other("more pages than addresses"))?;
        let file = memfd_create("shown-to-guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, u64::try_from(length).map_err(io::Error::other)?)?;
        let file = Arc::new(File::from(file));
        let map = |access| {
            let offset = Some(FileOffset::from_arc(Arc::clone(&file), 0));
            MmapRegion::build(offset, length, access, libc::MAP_SHARED)
                .map(Arc::new)
                .map_err(io::Error::other)
        };
        let ours = map(libc::PROT_READ | libc::PROT_WRITE)?;
        // What KVM is given could not be written by anybody, whatever becomes of the slot's own flag.
        fcntl_add_seals(
            &file,
            SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL,
        )?;
        Ok(Shown { ours, guests: map(libc::PROT_READ)? })
    }

    /// The page with this number, if there are so many.
    pub fn page(&self, number: usize) -> Option<ShownPage> {
        let start = number.checked_mul(PAGE).filter(|start| *start < self.ours.size())?;
        Some(ShownPage { pages: Arc::clone(&self.ours), start })
    }

    /// Where the pages are mapped for the guest, and how many bytes they are.
    pub fn place(&self) -> (u64, u64) {
        (self.guests.as_ptr().expose_provenance() as u64, self.guests.size() as u64)
    }
}

/// One page. Copies are the same one.
#[derive(Debug, Clone)]
pub struct ShownPage {
    pages: Arc<MmapRegion>,
    start: usize,
}

impl ShownPage {
    /// Has the guest read `value` at `offset`, a multiple of four.
    pub fn set(&self, offset: u64, value: u32) {
        self.change(offset, |word| word.store(value.to_le(), Ordering::SeqCst));
    }

    /// Sets bits of the word at `offset`, for the guest to read.
    pub fn add(&self, offset: u64, bits: u32) {
        self.change(offset, |word| {
            word.fetch_or(bits.to_le(), Ordering::SeqCst);
        });
    }

    /// Takes bits of the word at `offset` away.
    pub fn remove(&self, offset: u64, bits: u32) {
        self.change(offset, |word| {
            word.fetch_and(!bits.to_le(), Ordering::SeqCst);
        });
    }

    /// Reads what the guest reads; what is beyond the page's end stays as it is.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(at) = self.at(offset, data.len()) {
            // It lies within the mapping, as just seen.
            let _ = self.pages.as_volatile_slice().read_slice(data, at);
        }
    }

    /// Has the guest read `bytes` from `offset` on; what would lie beyond the page's end is left out.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        if let Some(at) = self.at(offset, bytes.len()) {
            let _ = self.pages.as_volatile_slice().write_slice(bytes, at);
        }
    }

    fn change(&self, offset: u64, change: impl FnOnce(&AtomicU32)) {
        if let Some(word) = self.at(offset, 4).and_then(|at| self.pages.get_atomic_ref(at).ok()) {
            change(word);
        }
    }

    /// Where in the mapping `length` bytes of this page from `offset` on are.
    fn at(&self, offset: u64, length: usize) -> Option<usize> {
        let offset = usize::try_from(offset).ok()?;
        offset.checked_add(length).filter(|end| *end <= PAGE)?;
        self.start.checked_add(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(page: &ShownPage, offset: u64) -> u32 {
        let mut bytes = [0xee; 4];
        page.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn each_page_has_its_own_words() {
        let shown = Shown::new(2).unwrap();
        let (first, second) = (shown.page(0).unwrap(), shown.page(1).unwrap());
        first.set(0xffc, 7);
        second.add(0, 5);
        second.remove(0, 4);
        assert_eq!((word(&first, 0xffc), word(&second, 0), word(&first, 0)), (7, 1, 0));
        assert!(shown.page(2).is_none());
    }

    #[test]
    fn nothing_reaches_over_a_pages_end() {
        let shown = Shown::new(2).unwrap();
        let (first, second) = (shown.page(0).unwrap(), shown.page(1).unwrap());
        first.write(0xffe, &[1; 4]);
        first.set(0x1000, 1);
        assert_eq!((word(&first, 0xffe), word(&second, 0)), (0xeeee_eeee, 0));
    }

    #[test]
    fn a_word_across_two_is_left_alone() {
        let page = Shown::new(1).unwrap().page(0).unwrap();
        page.set(2, u32::MAX);
        assert_eq!((word(&page, 0), word(&page, 4)), (0, 0));
    }

    #[test]
    fn what_kvm_is_given_cannot_be_written() {
        let shown = Shown::new(1).unwrap();
        let (address, length) = shown.place();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let range = format!("{address:x}-{:x} r--s ", address + length);
        assert!(maps.lines().any(|line| line.starts_with(&range)), "{range} in {maps}");
    }
}
