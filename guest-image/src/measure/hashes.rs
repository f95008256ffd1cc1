//! Kernel, initrd and command line as QEMU hands their hashes to OVMF, in a page that is measured.
//!
//! ```text
//! GUID | length u16 = 168 | three of: GUID | length u16 = 50 | SHA-256   in this order: command line, initrd, kernel
//! ```

use std::io::{self, Read};

use sha2::{Digest, Sha256};

use super::firmware::guid;
use super::launch::PAGE_BYTES;

const TABLE: [u8; 16] = guid(0x9438d606, 0x4f22, 0x4cc9, 0xb479_a793_d411_fd21);
const CMDLINE: [u8; 16] = guid(0x97d02dd8, 0xbd20, 0x4c94, 0xaa78_e771_4d36_ab2a);
const INITRD: [u8; 16] = guid(0x44baf731, 0x3a2f, 0x4bd7, 0x9af1_41e2_9169_781d);
const KERNEL: [u8; 16] = guid(0x4de79437, 0xabd2, 0x427f, 0xb835_d5b1_72d2_045b);
const TABLE_BYTES: u16 = 168;
const ENTRY_BYTES: u16 = 50;
/// The table with what QEMU fills up to a multiple of 16.
const PADDED_BYTES: usize = 176;

/// What is booted without a boot loader, by its hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectBoot {
    kernel: [u8; 32],
    initrd: [u8; 32],
    cmdline: [u8; 32],
}

impl DirectBoot {
    /// Hashes kernel and initrd to their ends; no initrd is an empty one. The command line is hashed with the zero byte
    /// that ends it.
    pub fn read(mut kernel: impl Read, initrd: Option<&mut dyn Read>, cmdline: &str) -> io::Result<Self> {
        let initrd = match initrd {
            Some(initrd) => hash(initrd)?,
            None => Sha256::digest([]).into(),
        };
        let mut line = Sha256::new();
        line.update(cmdline);
        line.update([0]);
        Ok(Self { kernel: hash(&mut kernel)?, initrd, cmdline: line.finalize().into() })
    }

    /// The page with the table at `offset`; `None` if it does not fit behind it.
    pub(super) fn page(&self, offset: usize) -> Option<[u8; PAGE_BYTES]> {
        let mut table = Vec::with_capacity(PADDED_BYTES);
        table.extend(TABLE);
        table.extend(TABLE_BYTES.to_le_bytes());
        for (guid, hash) in [(CMDLINE, self.cmdline), (INITRD, self.initrd), (KERNEL, self.kernel)] {
            table.extend(guid);
            table.extend(ENTRY_BYTES.to_le_bytes());
            table.extend(hash);
        }
        table.resize(PADDED_BYTES, 0);
        let mut page = [0; PAGE_BYTES];
        page.get_mut(offset..offset.checked_add(PADDED_BYTES)?)?.copy_from_slice(&table);
        Some(page)
    }
}

fn hash(from: &mut dyn Read) -> io::Result<[u8; 32]> {
    let mut digest = Sha256::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        let length = from.read(&mut piece)?;
        match piece.get(..length) {
            Some([]) | None => return Ok(digest.finalize().into()),
            Some(read) => digest.update(read),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot() -> DirectBoot {
        DirectBoot::read(&b"kernel"[..], Some(&mut &b"initrd"[..]), "quiet").expect("memory is read")
    }

    #[test]
    fn the_command_lines_ending_zero_is_hashed() {
        let expected: [u8; 32] = Sha256::digest(b"quiet\0").into();
        assert_eq!(boot().cmdline, expected);
    }

    #[test]
    fn no_initrd_is_an_empty_one() {
        let none = DirectBoot::read(&b"kernel"[..], None, "").expect("memory is read");
        let empty = DirectBoot::read(&b"kernel"[..], Some(&mut io::empty()), "").expect("memory is read");
        assert_eq!(none, empty);
    }

    #[test]
    fn a_table_that_leaves_the_page_does_not_fit() {
        assert_eq!((boot().page(PAGE_BYTES - 176).is_some(), boot().page(PAGE_BYTES - 175)), (true, None));
    }
}
