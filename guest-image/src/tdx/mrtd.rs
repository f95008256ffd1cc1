//! MRTD: the digest of all pages that are added before launch (TDX module specification, "Measurement Initialization").
//!
//! ```text
//! SHA-384( for each page   "MEM.PAGE.ADD" zeros to 16 | guest address u64 | zeros to 128
//!          if it counts    16 × ( "MR.EXTEND" zeros to 16 | guest address u64 | zeros to 128 | 256 bytes of content ) )
//! ```
//! KVM extends each page right after it added it (Linux 6.16 and later). Patched kernels of before that add a whole section
//! first and lead to another digest.

use sha2::{Digest, Sha384};

use super::tdvf::{Tdvf, TdvfSection};
use crate::measure::{DIGEST_BYTES, PAGE_BYTES};

/// Bytes of content that one TDH.MR.EXTEND takes.
const PIECE: usize = 256;

/// What MRTD will be.
pub fn mrtd(firmware: &Tdvf) -> [u8; DIGEST_BYTES] {
    let mut digest = Sha384::new();
    for section in firmware.sections() {
        add(&mut digest, section, firmware.content(section));
    }
    digest.finalize().into()
}

fn add(digest: &mut Sha384, section: &TdvfSection, content: &[u8]) {
    let zeros = [0; PAGE_BYTES];
    let mut pages = content.chunks_exact(PAGE_BYTES);
    let end = section.address.saturating_add(section.bytes);
    for address in (section.address..end).step_by(PAGE_BYTES) {
        digest.update(operation(b"MEM.PAGE.ADD\0\0\0\0", address));
        let page = pages.next().unwrap_or(&zeros);
        if section.extended {
            for (at, piece) in (address..).step_by(PIECE).zip(page.chunks_exact(PIECE)) {
                digest.update(operation(b"MR.EXTEND\0\0\0\0\0\0\0", at));
                digest.update(piece);
            }
        }
    }
}

fn operation(name: &[u8; 16], address: u64) -> [u8; 128] {
    let mut operation = [0; 128];
    let fields = name.iter().copied().chain(address.to_le_bytes());
    operation.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
    operation
}

#[cfg(test)]
mod tests {
    use super::super::tdvf::tests::{ITEMS, image};
    use super::*;

    fn of(image: Vec<u8>) -> [u8; DIGEST_BYTES] {
        mrtd(&Tdvf::parse(image).expect("firmware"))
    }

    #[test]
    fn code_counts_and_variables_do_not() {
        let (mut code, mut variables) = (image(&ITEMS), image(&ITEMS));
        code[0x1000] ^= 1;
        variables[0x10] ^= 1;
        assert!(of(code) != of(image(&ITEMS)) && of(variables) == of(image(&ITEMS)));
    }

    #[test]
    fn the_place_of_memory_counts() {
        let mut items = ITEMS;
        items[2].2 = 0x82_0000;
        assert_ne!(of(image(&items)), of(image(&ITEMS)));
    }

    #[test]
    fn memory_that_is_measured_is_zeros() {
        let mut digest = Sha384::new();
        let section = TdvfSection {
            content: 0..0,
            address: 0x1000,
            bytes: 0x1000,
            kind: super::super::tdvf::TdvfKind::Temporary,
            extended: true,
        };
        add(&mut digest, &section, &[]);
        let mut expected = Sha384::new();
        expected.update(operation(b"MEM.PAGE.ADD\0\0\0\0", 0x1000));
        for piece in 0..16 {
            expected.update(operation(b"MR.EXTEND\0\0\0\0\0\0\0", 0x1000 + piece * 256));
            expected.update([0; 256]);
        }
        assert_eq!(digest.finalize(), expected.finalize());
    }
}
