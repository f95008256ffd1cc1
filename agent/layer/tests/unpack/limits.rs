//! More than a layer may ask for.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use coffer_layer::unpack::{Bound, Limits, unpack};

use crate::archives::{
    GZIP, Head, PLAIN, Place, Tar, ZSTD, expected, good, gzip, too_much, unpacked, within, zstd,
};

fn tar() -> Tar {
    Tar::default()
}

#[test]
fn more_bytes_than_allowed_are_refused() {
    let archive = tar().file("a", &[1; 4096]).end();
    let limits = Limits { bytes: archive.len() as u64, ..Limits::default() };
    assert!(within(&archive, &limits).1.is_ok());
    let less = Limits { bytes: limits.bytes - 1, ..Limits::default() };
    assert_eq!(too_much(within(&archive, &less).1), (Bound::Bytes, less.bytes, limits.bytes));
}

#[test]
fn holes_count_as_bytes() {
    let map: [(&str, &[u8]); 2] = [("GNU.sparse.map", b"0,1"), ("GNU.sparse.size", b"1099511627776")];
    let archive = tar().pax(&map).file("a", b"1").end();
    assert_eq!(too_much(unpacked(&archive).1), (Bound::Bytes, 64 << 30, 1 << 40));
}

#[test]
fn more_entries_than_allowed_are_refused() {
    let archive = tar().file("a", b"").file("b", b"").file("c", b"").end();
    let two = Limits { entries: 2, ..Limits::default() };
    assert_eq!(too_much(within(&archive, &two).1), (Bound::Entries, 2, 3));
    assert!(within(&archive, &Limits { entries: 3, ..two }).1.is_ok());
}

#[test]
fn headers_that_only_extend_others_count_as_entries() {
    let archive = tar().pax(&[("comment", b"a")]).file("a", b"").end();
    let one = Limits { entries: 1, ..Limits::default() };
    assert_eq!(too_much(within(&archive, &one).1), (Bound::Entries, 1, 2));
}

/// The same bytes again and again.
struct Again {
    block: [u8; 512],
    at: usize,
    left: u64,
}

impl Read for Again {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() && self.left > 0 {
            let count = (into.len() - done).min(512 - self.at);
            into[done..done + count].copy_from_slice(&self.block[self.at..self.at + count]);
            self.at = (self.at + count) % 512;
            self.left -= u64::from(self.at == 0);
            done += count;
        }
        Ok(done)
    }
}

#[test]
fn ten_million_entries_are_refused_after_the_first_million() {
    let block = tar().add(Head::new(b'5', "./"), b"").0.try_into().unwrap();
    let entries = Again { block, at: 0, left: 10_000_000 };
    let place = Place::new();
    let target = File::open(place.path("")).unwrap();
    let mut expected = expected(b"", b"", PLAIN);
    expected.size = 10_000_000 * 512;
    let result = unpack(entries, &expected, target.as_fd(), &Limits::default());
    assert_eq!(too_much(result), (Bound::Entries, 1_000_000, 1_000_001));
}

#[test]
fn an_extended_header_without_end_is_refused_before_it_is_read() {
    let mut head = Head::new(b'x', "pax");
    head.octal(124, 12, (1 << 20) + 1);
    assert_eq!(too_much(unpacked(&tar().header(head).0).1), (Bound::ExtensionBytes, 1 << 20, (1 << 20) + 1));
    let mut head = Head::new(b'L', "././@LongLink");
    head.octal(124, 12, 1 << 32);
    assert_eq!(too_much(unpacked(&tar().header(head).0).1), (Bound::ExtensionBytes, 1 << 20, 1 << 32));
}

#[test]
fn huge_attributes_are_refused() {
    let value = vec![b'x'; 1 << 16];
    let archive = tar().pax(&[("SCHILY.xattr.user.a", &value)]).file("a", b"").end();
    assert_eq!(too_much(unpacked(&archive).1), (Bound::XattrBytes, 1 << 16, (1 << 16) + 6));
}

#[test]
fn many_attributes_together_are_refused() {
    let one = |tar: Tar, name: &str| tar.pax(&[("SCHILY.xattr.user.a", b"1234")]).file(name, b"");
    let archive = one(one(one(tar(), "a"), "b"), "c").end();
    let limits = Limits { all_xattr_bytes: 29, ..Limits::default() };
    assert_eq!(too_much(within(&archive, &limits).1), (Bound::AllXattrBytes, 29, 30));
}

#[test]
fn long_and_deep_names_are_refused() {
    let long = tar().pax(&[("path", &[b'a'; 4096])]).file("a", b"").end();
    assert_eq!(too_much(unpacked(&long).1), (Bound::PathBytes, 4095, 4096));
    let deep = tar().pax(&[("path", "a/".repeat(129).as_bytes())]).directory("a").end();
    assert_eq!(too_much(unpacked(&deep).1), (Bound::Depth, 128, 129));
    let link = tar().pax(&[("linkpath", &[b'a'; 4096])]).symlink("a", "b").end();
    assert_eq!(too_much(unpacked(&link).1), (Bound::PathBytes, 4095, 4096));
}

#[test]
fn the_deepest_name_is_made_and_replaced() {
    let path = "a/".repeat(128);
    let place = good(tar().pax(&[("path", path.as_bytes())]).directory("a").file("a", b"flat"));
    assert_eq!(place.read("a"), "flat");
}

#[test]
fn more_pieces_of_a_sparse_file_than_allowed_are_refused() {
    let places: Vec<String> = (0..10).map(|at| format!("{},1", at * 2)).collect();
    let places = places.join(",");
    let map: [(&str, &[u8]); 2] = [("GNU.sparse.map", places.as_bytes()), ("GNU.sparse.size", b"20")];
    let archive = tar().pax(&map).file("a", b"0123456789").end();
    let limits = Limits { pieces: 9, ..Limits::default() };
    assert_eq!(too_much(within(&archive, &limits).1), (Bound::Pieces, 9, 10));
    assert!(within(&archive, &Limits::default()).1.is_ok());
}

#[test]
fn a_layer_of_zeroes_in_gzip_may_be_as_large_as_any() {
    let archive = tar().file("a", &vec![0; 100 << 20]).end();
    let blob = gzip(&archive);
    assert!(archive.len() / blob.len() > 900);
    let weighed = Limits { ratio_from: 0, ..Limits::default() };
    Place::new().unpack(&blob, &expected(&blob, &archive, GZIP), &weighed).unwrap();
}

#[test]
fn a_bomb_of_zstd_is_refused_beyond_what_is_not_weighed() {
    let archive = tar().file("a", &vec![0; 100 << 20]).end();
    let blob = zstd(&archive);
    let said = expected(&blob, &archive, ZSTD);
    let (bound, most, found) = too_much(Place::new().unpack(&blob, &said, &Limits::default()));
    assert_eq!((bound, most), (Bound::Ratio, 1100));
    assert!(found > 1100);
    let light = Limits { ratio_from: 100 << 20, ..Limits::default() };
    assert!(Place::new().unpack(&blob, &said, &light).is_ok());
}

#[test]
fn a_window_that_needs_too_much_memory_is_refused() {
    // Magic number, a descriptor without sizes, and a window of 2^41 bytes; then an empty last block.
    let blob = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0x01, 0x00, 0x00];
    let result = Place::new().unpack(&blob, &expected(&blob, b"", ZSTD), &Limits::default());
    assert_eq!(too_much(result), (Bound::WindowBytes, 32 << 20, 1 << 41));
}
