//! The chain of page infos that a launch digest is (publication 56860, "PAGE_INFO").
//!
//! ```text
//! digest = SHA-384( digest so far[48] | SHA-384 of the page or zeros[48] | length u16 = 0x70 | kind u8 | imi u8 = 0
//!                   | permissions of VMPL 3, 2, 1 u8 = 0 | 0 u8 | guest address u64 )     little endian
//! ```

use sha2::{Digest, Sha384};

/// Length of a launch digest in bytes.
pub const DIGEST_BYTES: usize = 48;
/// Length of a page in bytes.
pub const PAGE_BYTES: usize = 4096;

const PAGE_INFO_BYTES: u16 = 0x70;
/// Where the firmware places VMSA pages: all ones, cut to a page and to 52 bits of address.
const VMSA_ADDRESS: u64 = 0xffff_ffff_f000;

#[derive(Clone, Copy)]
enum PageKind {
    Normal = 1,
    Vmsa = 2,
    Zero = 3,
    Secrets = 5,
    Cpuid = 6,
}

/// A launch digest while pages are added to it, in the order in which the monitor adds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchDigest([u8; DIGEST_BYTES]);

impl LaunchDigest {
    /// That of a guest without a page.
    pub fn new() -> Self {
        Self([0; DIGEST_BYTES])
    }

    /// Adds pages with content from `address` on. A last page that is not whole is filled with zeros.
    pub fn add_normal(&mut self, address: u64, content: &[u8]) {
        for (address, page) in pages(address).zip(content.chunks(PAGE_BYTES)) {
            let mut whole = [0; PAGE_BYTES];
            whole.iter_mut().zip(page).for_each(|(to, from)| *to = *from);
            self.add(PageKind::Normal, address, &digest(&whole));
        }
    }

    /// Adds `count` pages of zeros from `address` on.
    pub fn add_zero(&mut self, address: u64, count: usize) {
        for address in pages(address).take(count) {
            self.add(PageKind::Zero, address, &[0; DIGEST_BYTES]);
        }
    }

    /// Adds the page that the firmware writes secrets to.
    pub fn add_secrets(&mut self, address: u64) {
        self.add(PageKind::Secrets, address, &[0; DIGEST_BYTES]);
    }

    /// Adds the page that the firmware checks CPUID values in.
    pub fn add_cpuid(&mut self, address: u64) {
        self.add(PageKind::Cpuid, address, &[0; DIGEST_BYTES]);
    }

    /// Adds the state in which a vCPU starts.
    pub fn add_vmsa(&mut self, page: &[u8; PAGE_BYTES]) {
        self.add(PageKind::Vmsa, VMSA_ADDRESS, &digest(page));
    }

    /// The digest of all that was added.
    pub fn bytes(&self) -> [u8; DIGEST_BYTES] {
        self.0
    }

    fn add(&mut self, kind: PageKind, address: u64, content: &[u8; DIGEST_BYTES]) {
        let mut info = Sha384::new();
        info.update(self.0);
        info.update(content);
        info.update(PAGE_INFO_BYTES.to_le_bytes());
        info.update([kind as u8, 0, 0, 0, 0, 0]);
        info.update(address.to_le_bytes());
        self.0 = info.finalize().into();
    }
}

impl Default for LaunchDigest {
    fn default() -> Self {
        Self::new()
    }
}

fn digest(page: &[u8; PAGE_BYTES]) -> [u8; DIGEST_BYTES] {
    Sha384::digest(page).into()
}

fn pages(from: u64) -> impl Iterator<Item = u64> {
    (0_u64..).map(move |page| from.wrapping_add(page * 4096))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_pages_counts() {
        let (mut one, mut other) = (LaunchDigest::new(), LaunchDigest::new());
        one.add_secrets(0x1000);
        one.add_cpuid(0x2000);
        other.add_cpuid(0x2000);
        other.add_secrets(0x1000);
        assert_ne!(one, other);
    }

    #[test]
    fn two_pages_at_once_are_two_pages_one_by_one() {
        let (mut one, mut other) = (LaunchDigest::new(), LaunchDigest::new());
        one.add_zero(0x1000, 2);
        other.add_zero(0x1000, 1);
        other.add_zero(0x2000, 1);
        assert_eq!(one, other);
    }

    #[test]
    fn a_page_of_zeros_with_content_is_another_than_a_zero_page() {
        let (mut one, mut other) = (LaunchDigest::new(), LaunchDigest::new());
        one.add_normal(0, &[0; PAGE_BYTES]);
        other.add_zero(0, 1);
        assert_ne!(one, other);
    }
}
