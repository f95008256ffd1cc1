//! What images hold comes out as containerd would make it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::process::Command;

use crate::archives::{GZIP, Head, Place, Tar, ZSTD, expected, good, gzip, is_root, listing, zstd};

fn tar() -> Tar {
    Tar::default()
}

#[test]
fn owners_modes_and_times_are_kept_as_root() {
    if !is_root() {
        return;
    }
    let file = Head::new(b'0', "bin/su").mode(0o4755).owner(7, 8);
    let directory = Head::new(b'5', "bin").mode(0o2711).owner(5, 6);
    let place = good(tar().add(directory, b"").add(file, b"su").file("bin/plain", b""));
    let (su, bin, plain) = (place.stat("bin/su"), place.stat("bin"), place.stat("bin/plain"));
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid(), su.mtime()), (0o4755, 7, 8, 1000));
    assert_eq!((bin.mode() & 0o7777, bin.uid(), bin.gid(), bin.mtime()), (0o2711, 5, 6, 1000));
    assert_eq!((plain.uid(), plain.gid()), (0, 0), "a group that its directory gave");
}

#[test]
fn a_directory_that_is_visited_again_keeps_its_time() {
    let archive = tar().directory("a").file("a/1", b"").directory("b").file("b/1", b"").file("a/2", b"");
    let place = good(archive.hard_link("a/3", "b/1"));
    assert_eq!((place.stat("a").mtime(), place.stat("b").mtime()), (1000, 1000));
}

#[test]
fn directories_that_are_missing_belong_to_root() {
    let place = good(tar().file("a/b/c", b"1"));
    let found = place.stat("a/b");
    assert_eq!((found.mode() & 0o7777, found.uid(), found.gid(), found.mtime()), (0o755, 0, 0, 0));
    assert_eq!(place.stat("").mtime(), 0);
}

#[test]
fn times_have_nanoseconds_and_begin_with_the_epoch() {
    let place = good(
        tar().pax(&[("mtime", b"12.000000034")]).file("a", b"").pax(&[("mtime", b"-12")]).symlink("b", "c"),
    );
    assert_eq!((place.stat("a").mtime(), place.stat("a").mtime_nsec()), (12, 34));
    assert_eq!(place.stat("b").mtime(), 0);
}

#[test]
fn names_need_not_be_text() {
    let place = good(tar().add(Head::new(b'0', b"caf\xe9\xff\n"), b"1"));
    let name = OsStr::from_bytes(b"caf\xe9\xff\n");
    assert_eq!(fs::read(place.path("").join(name)).unwrap(), b"1");
}

#[test]
fn long_names_come_from_prefix_gnu_and_pax() {
    let (a, b) = ("a".repeat(200), "b".repeat(200));
    let prefixed = Head::new(b'0', "file").put(345, "p".repeat(100).as_bytes());
    let long = [a.as_bytes(), b"\0"].concat();
    let archive = tar().add(prefixed, b"1").add(Head::new(b'L', "././@LongLink"), &long).file("cut", b"2");
    let place = good(archive.pax(&[("path", b.as_bytes())]).file("cut", b"3"));
    let found = [format!("{}/file", "p".repeat(100)), a, b].map(|name| place.read(&name));
    assert_eq!(found, ["1", "2", "3"]);
}

#[test]
fn long_links_come_from_gnu_and_pax() {
    let (a, b) = ("a".repeat(200), "b".repeat(200));
    let archive = tar().add(Head::new(b'K', "././@LongLink"), a.as_bytes()).symlink("1", "cut");
    let place = good(archive.pax(&[("linkpath", b.as_bytes())]).symlink("2", "cut"));
    let found =
        ["1", "2"].map(|name| fs::read_link(place.path(name)).unwrap().to_string_lossy().into_owned());
    assert_eq!(found, [a, b]);
}

#[test]
fn extended_attributes_are_kept_with_any_bytes_as_root() {
    if !is_root() {
        return;
    }
    let capability = [1, 0, 0, 2, 0x0a, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let archive = tar().pax(&[("SCHILY.xattr.security.capability", &capability)]);
    let place = good(archive.add(Head::new(b'0', "ping").owner(1, 1), b"ping"));
    assert_eq!(place.xattr("ping", "security.capability"), Some(capability.to_vec()));
}

#[test]
fn the_last_of_two_entries_counts() {
    let archive = tar().file("a", b"longer").file("a", b"1").directory("b").file("b/c", b"").file("b", b"2");
    let place =
        good(archive.file("c", b"").directory("c").file("c/d", b"3").symlink("e", "x").symlink("e", "y"));
    assert_eq!(["a", "b", "c/d"].map(|name| place.read(name)), ["1", "2", "3"]);
    assert_eq!(fs::read_link(place.path("e")).unwrap().to_str(), Some("y"));
}

#[test]
fn a_directory_that_comes_twice_keeps_its_files() {
    let place = good(tar().directory("a").file("a/b", b"1").add(Head::new(b'5', "a").mode(0o700), b""));
    assert_eq!((place.read("a/b").as_str(), place.stat("a").mode() & 0o7777), ("1", 0o700));
}

#[test]
fn hard_links_share_a_file() {
    let place = good(tar().file("d/a", b"1").hard_link("e/b", "./d/a").hard_link("c", "/d/a"));
    assert_eq!((place.stat("d/a").ino(), place.stat("d/a").nlink()), (place.stat("c").ino(), 3));
}

#[test]
fn a_link_with_a_size_has_no_data() {
    let mut link = Head::new(b'1', "b").link("a");
    link.octal(124, 12, 5000);
    let place = good(tar().file("a", b"1").header(link).file("c", b"2"));
    assert_eq!((place.read("b"), place.read("c")), ("1".to_owned(), "2".to_owned()));
}

#[test]
fn fifos_are_made() {
    let place = good(tar().add(Head::new(b'6', "f").mode(0o620), b""));
    assert!(place.stat("f").file_type().is_fifo());
    assert_eq!(place.stat("f").mode() & 0o7777, 0o620);
}

#[test]
fn whiteouts_become_overlayfs_own_as_root() {
    if !is_root() {
        return;
    }
    let place = good(tar().file("d/.wh.gone", b"").file("o/.wh..wh..opq", b"").file("o/kept", b"1"));
    let found = place.stat("d/gone");
    assert!(found.file_type().is_char_device());
    assert_eq!((found.rdev(), found.mtime()), (0, 0));
    assert_eq!(place.xattr("o", "trusted.overlay.opaque"), Some(b"y".to_vec()));
    assert_eq!(place.read("o/kept"), "1");
}

#[test]
fn a_whiteout_leaves_what_the_layer_itself_has_as_root() {
    if !is_root() {
        return;
    }
    let archive = tar().file("a", b"1").file(".wh.a", b"").file(".wh.b", b"").file("b", b"2");
    let archive = archive.directory("c").file(".wh.c", b"").file(".wh.d", b"").directory("d");
    let place = good(archive.file(".wh.e", b"").file("e/f", b"3"));
    assert_eq!(["a", "b", "e/f"].map(|name| place.read(name)), ["1", "2", "3"]);
    let opaque = ["c", "d", "e"].map(|name| place.xattr(name, "trusted.overlay.opaque"));
    assert_eq!(opaque, [const { Some(()) }; 3].map(|it| it.map(|()| b"y".to_vec())));
}

#[test]
fn records_for_all_entries_are_passed_over_as_containerd_does() {
    let place = good(tar().add(Head::new(b'g', "global"), b"12 path=evil\n").file("a", b"1"));
    assert_eq!(listing(&place.path("")).len(), 1);
}

#[test]
fn gzip_in_many_members_and_zstd_in_many_frames_are_one_archive() {
    let archive = tar().file("a", &[7; 3000]).file("b", b"2").end();
    let (first, second) = archive.split_at(1500);
    let blob = [gzip(first), gzip(second)].concat();
    Place::new().unpack(&blob, &expected(&blob, &archive, GZIP), &Default::default()).unwrap();
    let skipped = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    let blob = [&zstd(first), skipped.as_slice(), &zstd(second)].concat();
    let place = Place::new();
    place.unpack(&blob, &expected(&blob, &archive, ZSTD), &Default::default()).unwrap();
    assert_eq!((place.read("b"), place.read("a").len()), ("2".to_owned(), 3000));
}

/// What GNU tar makes of a sparse file, by these options.
fn sparse(options: &[&str]) {
    let source = tempfile::tempdir().unwrap();
    let file = fs::File::create(source.path().join("sparse")).unwrap();
    let written =
        (0u64..60).map(|at| std::os::unix::fs::FileExt::write_at(&file, b"data", at * 65_536 + 3).unwrap());
    assert_eq!(written.sum::<usize>(), 240);
    file.set_len(8 << 20).unwrap();
    let directory = source.path().to_str().unwrap();
    let made = Command::new("tar")
        .args(["-C", directory, "-cSf", "-"])
        .args(options)
        .arg("sparse")
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    assert!(made.stdout.len() < 1 << 20);
    let place = Place::new();
    let said = expected(&made.stdout, &made.stdout, crate::archives::PLAIN);
    place.unpack(&made.stdout, &said, &Default::default()).unwrap();
    assert!(fs::read(place.path("sparse")).unwrap() == fs::read(source.path().join("sparse")).unwrap());
    assert!(place.stat("sparse").blocks() < 4096, "holes were filled");
}

#[test]
fn sparse_files_in_gnus_form_are_read() {
    sparse(&["--format=gnu"]);
}

#[test]
fn sparse_files_in_the_three_forms_of_pax_are_read() {
    sparse(&["--format=pax", "--sparse-version=0.0"]);
    sparse(&["--format=pax", "--sparse-version=0.1"]);
    sparse(&["--format=pax", "--sparse-version=1.0"]);
}

#[test]
fn what_gnu_tar_packs_comes_out_alike_as_root() {
    if !is_root() {
        return;
    }
    let source = Place::new();
    let script = "mkdir -p d/e; echo 1 >d/a; ln d/a d/b; ln -s a d/c; mkfifo d/f; mknod d/n c 1 3; chmod 6755 d/a; \
        chown 100000:3000000 d/e; touch -d @77.5 d/e; chmod 1777 d";
    let made = Command::new("sh").args(["-ec", script]).current_dir(source.path("")).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let formats = ["gnu", "pax", "ustar", "oldgnu", "v7"].map(|format| {
        let mut command = Command::new("tar");
        // The oldest has no devices.
        if format == "v7" {
            command.arg("--exclude=d/n");
        }
        let format = format!("--format={format}");
        let packed = command.args([&format, "-c", "."]).current_dir(source.path("")).output().unwrap();
        let place = Place::new();
        let said = expected(&packed.stdout, &packed.stdout, crate::archives::PLAIN);
        place.unpack(&packed.stdout, &said, &Default::default()).unwrap();
        listing(&place.path(""))
    });
    assert_eq!(formats[1], listing(&source.path("")));
    let seconds = |listing: &[String]| {
        let seconds = |line: &String| line.split('.').next().map(str::to_owned);
        listing.iter().map(seconds).collect::<Vec<_>>()
    };
    assert_eq!(seconds(&formats[0]), seconds(&formats[1]));
    assert_eq!(seconds(&formats[0]), seconds(&formats[3]));
    // POSIX's first form cannot say so large a group, and before it there were neither devices nor fifos.
    assert_eq!([formats[2].len(), formats[4].len()], [6, 4]);
}
