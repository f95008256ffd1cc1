//! Archives that want out, or to be something else than they say.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use coffer_layer::unpack::{ArchiveFault, EntryFault};

use crate::archives::{Head, Tar, archive_fault, entry_fault, good, is_root, unpacked};

fn tar() -> Tar {
    Tar::default()
}

#[test]
fn a_name_that_climbs_is_refused() {
    assert_eq!(entry_fault(tar().file("../outside", b"evil")), EntryFault::Climbs);
    assert_eq!(entry_fault(tar().directory("a").file("a/../../outside", b"evil")), EntryFault::Climbs);
}

#[test]
fn a_name_that_climbs_in_an_extended_header_is_refused() {
    assert_eq!(entry_fault(tar().pax(&[("path", b"../outside")]).file("a", b"evil")), EntryFault::Climbs);
    let long = tar().add(Head::new(b'L', "././@LongLink"), b"../outside\0").file("a", b"evil");
    assert_eq!(entry_fault(long), EntryFault::Climbs);
}

#[test]
fn an_absolute_name_stays_in_the_root() {
    let place = good(tar().file("/etc/passwd", b"ours"));
    assert_eq!(place.read("etc/passwd"), "ours");
}

#[test]
fn absolute_links_and_links_that_climb_are_made_and_never_followed() {
    let place = good(tar().symlink("etc", "/etc").symlink("up", "../outside"));
    assert_eq!(fs::read_link(place.path("etc")).unwrap().to_str(), Some("/etc"));
    assert_eq!(fs::read_link(place.path("up")).unwrap().to_str(), Some("../outside"));
}

#[test]
fn a_file_below_a_link_is_refused() {
    let fault = |parent: &str| EntryFault::Parent { parent: parent.to_owned() };
    assert_eq!(entry_fault(tar().symlink("up", "..").file("up/outside", b"evil")), fault("up"));
    assert_eq!(entry_fault(tar().directory("d").symlink("d/in", ".").file("d/in/a", b"")), fault("d/in"));
    assert_eq!(entry_fault(tar().symlink("up", "..").directory("up/made")), fault("up"));
    assert_eq!(entry_fault(tar().symlink("up", "..").file("up/.wh.outside", b"")), fault("up"));
    assert_eq!(entry_fault(tar().symlink("up", "..").file("up/.wh..wh..opq", b"")), fault("up"));
}

#[test]
fn a_file_below_a_file_is_refused() {
    assert_eq!(
        entry_fault(tar().file("a", b"").file("a/b", b"")),
        EntryFault::Parent { parent: "a".to_owned() }
    );
}

#[test]
fn a_file_that_replaces_a_link_is_not_written_through_it() {
    let place = good(tar().symlink("up", "../outside").file("up", b"ours"));
    assert_eq!(place.read("up"), "ours");
}

#[test]
fn a_directory_that_replaces_a_link_is_one() {
    let place = good(tar().symlink("up", "..").directory("up").file("up/outside", b"ours"));
    assert_eq!(place.read("up/outside"), "ours");
}

#[test]
fn a_file_that_replaces_a_hard_link_leaves_the_other_name() {
    let place = good(tar().file("a", b"first").hard_link("b", "a").file("b", b"second"));
    assert_eq!((place.read("a"), place.read("b")), ("first".to_owned(), "second".to_owned()));
}

#[test]
fn a_hard_link_out_of_the_root_is_refused() {
    let target = |target: &str| EntryFault::Target { target: target.to_owned() };
    assert_eq!(entry_fault(tar().hard_link("a", "../outside")), EntryFault::Climbs);
    assert_eq!(entry_fault(tar().hard_link("a", "/etc/passwd")), target("etc/passwd"));
    assert_eq!(entry_fault(tar().symlink("up", "..").hard_link("a", "up/outside")), target("up/outside"));
    assert_eq!(entry_fault(tar().hard_link("a", "/")), target("/"));
}

#[test]
fn a_hard_link_to_what_is_no_file_of_the_layer_is_refused() {
    let target = |target: &str| EntryFault::Target { target: target.to_owned() };
    assert_eq!(entry_fault(tar().hard_link("a", "b")), target("b"));
    assert_eq!(entry_fault(tar().directory("d").hard_link("a", "d")), target("d"));
    assert_eq!(entry_fault(tar().file(".wh.b", b"").hard_link("a", "b")), target("b"));
    assert_eq!(entry_fault(tar().file("a", b"").hard_link("a", "a")), target("a"));
}

#[test]
fn a_hard_link_to_a_symbolic_link_is_another_name_of_the_link() {
    let place = good(tar().symlink("up", "../outside").hard_link("b", "up"));
    assert!(place.stat("b").is_symlink());
    assert_eq!(place.stat("b").ino(), place.stat("up").ino());
}

#[test]
fn devices_of_images_are_made_and_never_opened_as_root() {
    if !is_root() {
        return;
    }
    let console = Head::new(b'3', "dev/console").device(5, 1).mode(0o600);
    let place = good(tar().add(console, b"").add(Head::new(b'4', "dev/sda").device(8, 0), b""));
    let found = place.stat("dev/console");
    assert!(found.file_type().is_char_device());
    assert_eq!((found.rdev(), found.mode() & 0o7777), (5 << 8 | 1, 0o600));
    assert!(place.stat("dev/sda").file_type().is_block_device());
}

#[test]
fn a_device_that_would_be_a_whiteout_is_refused() {
    assert_eq!(entry_fault(tar().add(Head::new(b'3', "a").device(0, 0), b"")), EntryFault::WhiteoutDevice);
    assert_eq!(entry_fault(tar().add(Head::new(b'3', "a"), b"")), EntryFault::WhiteoutDevice);
}

#[test]
fn a_device_that_linux_does_not_have_is_refused() {
    let fault = entry_fault(tar().add(Head::new(b'4', "a").device(4096, 1), b""));
    assert_eq!(fault, EntryFault::Device { major: 4096, minor: 1 });
}

#[test]
fn attributes_that_overlayfs_obeys_are_refused() {
    let keys = ["trusted.overlay.opaque", "trusted.overlay.redirect", "trusted.any", "user.overlay.opaque"];
    let faults = keys.map(|key| {
        let full = format!("SCHILY.xattr.{key}");
        entry_fault(tar().pax(&[(&full, b"y")]).directory("a"))
    });
    assert_eq!(faults, keys.map(|key| EntryFault::Xattr { name: key.to_owned() }));
}

#[test]
fn whiteouts_of_no_name_are_refused() {
    let odd = [".wh.", ".wh..", ".wh...", "a/.wh...", ".wh..wh.plnk", ".wh..wh.plnk/1.2", ".wh.a/b"];
    assert_eq!(odd.map(|name| entry_fault(tar().file(name, b""))), [const { EntryFault::Reserved }; 7]);
}

#[test]
fn names_with_zero_bytes_are_refused() {
    let pax = tar().pax(&[("path", b"a\0b")]).file("a", b"");
    assert_eq!(archive_fault(&pax.end()), ArchiveFault::Extension);
    let link = tar().pax(&[("linkpath", b"a\0b")]).symlink("a", "b");
    assert_eq!(archive_fault(&link.end()), ArchiveFault::Extension);
}

#[test]
fn an_entry_without_a_name_is_refused() {
    assert_eq!(entry_fault(tar().file("", b"")), EntryFault::Nameless);
}

#[test]
fn an_entry_of_the_root_changes_nothing() {
    let place = good(tar().add(Head::new(b'5', "./").mode(0o700).owner(1, 1), b"").file("./", b"evil"));
    assert_eq!(place.stat("").mode() & 0o7777, 0o755);
}

#[test]
fn what_is_extended_twice_is_refused() {
    let twice = tar().pax(&[("path", b"a")]).pax(&[("path", b"b")]).file("c", b"");
    assert_eq!(archive_fault(&twice.end()), ArchiveFault::Repeated { what: "an extended header" });
    let long = || Head::new(b'L', "././@LongLink");
    let twice = tar().add(long(), b"a\0").add(long(), b"b\0").file("c", b"");
    assert_eq!(archive_fault(&twice.end()), ArchiveFault::Repeated { what: "a long name" });
}

#[test]
fn an_extension_of_nothing_is_refused() {
    assert_eq!(archive_fault(&tar().pax(&[("path", b"a")]).end()), ArchiveFault::Dangling);
}

#[test]
fn types_that_images_do_not_have_are_refused() {
    let kinds =
        [b'D', b'M', b'V', b'9'].map(|flag| archive_fault(&tar().add(Head::new(flag, "a"), b"").end()));
    assert_eq!(kinds, ['D', 'M', 'V', '9'].map(|flag| ArchiveFault::Kind { flag }));
}

#[test]
fn a_wrong_checksum_is_refused() {
    let mut archive = tar().file("a", b"").end();
    archive[0] = b'b';
    assert_eq!(archive_fault(&archive), ArchiveFault::Checksum);
}

#[test]
fn bytes_behind_the_end_are_refused() {
    let mut archive = tar().file("a", b"").end();
    archive.extend_from_slice(&tar().file("b", b"").end());
    assert_eq!(archive_fault(&archive), ArchiveFault::Trailing);
}

#[test]
fn zeroes_behind_the_end_are_padding() {
    let mut archive = tar().file("a", b"").end();
    archive.resize(10240 * 40, 0);
    assert!(unpacked(&archive).1.is_ok());
}

#[test]
fn an_owner_that_means_no_change_is_refused() {
    let nobody = tar().pax(&[("uid", b"4294967295")]).file("a", b"");
    assert_eq!(archive_fault(&nobody.end()), ArchiveFault::Number { field: "an owner" });
}

#[test]
fn a_size_beyond_the_archive_is_refused() {
    let mut head = Head::new(b'0', "a");
    head.octal(124, 12, 1 << 30);
    assert_eq!(archive_fault(&tar().header(head).data(b"short").0), ArchiveFault::Truncated);
    let huge = tar().pax(&[("size", b"18446744073709551615")]).file("a", b"short");
    assert_eq!(archive_fault(&huge.end()), ArchiveFault::Truncated);
}

#[test]
fn pieces_of_a_sparse_file_that_do_not_fit_are_refused() {
    let maps: [(&[u8], &[u8]); 6] = [
        (b"0,4,2,4", b"100"),
        (b"4,4,0,4", b"100"),
        (b"0,4,99,4", b"100"),
        (b"0,4", b"100"),
        (b"0,8,9", b"100"),
        (b"18446744073709551615,4,8,4", b"18446744073709551615"),
    ];
    let faults = maps.map(|(map, size)| {
        let pax = tar().pax(&[("GNU.sparse.map", map), ("GNU.sparse.size", size)]);
        archive_fault(&pax.file("a", b"12345678").end())
    });
    assert_eq!(faults, [const { ArchiveFault::Sparse }; 6]);
}

#[test]
fn a_map_in_data_that_does_not_end_is_refused() {
    let head: [(&str, &[u8]); 3] =
        [("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"100")];
    let data = [b"3\n0\n1\n".as_slice(), &[b'1'; 506]].concat();
    assert_eq!(archive_fault(&tar().pax(&head).file("a", &data).end()), ArchiveFault::Sparse);
}
