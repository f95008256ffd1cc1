//! `coffer image seal` on a directory with one image: needs root and `mkfs.erofs`, else skipped by name.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};

use coffer_layer::sealed::{ANNOTATION, Sealed, file_name};
use coffer_layer::unpack::{Content, Expected, Limits, unpack};
use coffer_layer::verity::{BLOCK, Tree};
use coffer_protocol::Digest;
use directory::{blob, index, read, read_json};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

#[path = "layout/directory.rs"]
mod directory;

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

fn skipped() -> bool {
    let root = fs::metadata("/proc/self").expect("this process").uid() == 0;
    let mkfs = Command::new("mkfs.erofs").arg("-V").output().is_ok();
    if !root || !mkfs {
        eprintln!("skipped: needs root and mkfs.erofs");
    }
    !root || !mkfs
}

fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_mtime(1_000_000);
    header
}

/// Two layers: the upper one replaces a file of the lower one and takes another away.
fn archives() -> [Vec<u8>; 2] {
    let mut lower = Builder::new(Vec::new());
    lower.append_data(&mut header(EntryType::Directory, 0o755, 0), "d", &b""[..]).expect("a directory");
    for name in ["d/b", "d/a", "gone"] {
        let mut header = header(EntryType::Regular, 0o644, name.len());
        header.set_uid(1000);
        lower.append_data(&mut header, name, name.as_bytes()).expect("a file");
    }
    lower.append_link(&mut header(EntryType::Link, 0o644, 0), "d/c", "d/a").expect("a link");
    let mut upper = Builder::new(Vec::new());
    upper.append_data(&mut header(EntryType::Regular, 0o600, 0), ".wh.gone", &b""[..]).expect("a whiteout");
    let large = vec![7; 700_000];
    upper
        .append_data(&mut header(EntryType::Regular, 0o4755, large.len()), "d/a", &large[..])
        .expect("a file");
    [lower, upper].map(|archive| archive.into_inner().expect("an archive"))
}

/// An image in `place` whose layers have this media type.
fn image(place: &Path, media_type: &str) {
    let archives = archives();
    let layers: Vec<Value> = archives.iter().map(|archive| blob(place, media_type, archive)).collect();
    directory::image(place, &layers, &archives);
}

fn seal(directory: &Path, to: &str, scratch: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
    command.args(["image", "seal", "plain", "--reference", "v1", "--to", to]);
    command.current_dir(directory).env("TMPDIR", scratch).output().expect("a run of coffer")
}

#[test]
fn a_sealed_image_holds_what_its_annotation_says_as_root() {
    if skipped() {
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    image(&place.path().join("plain"), TAR);
    let output = seal(place.path(), "sealed", place.path());
    assert!(output.status.success(), "{output:?}");
    let directory = place.path().join("sealed");
    let entry = &index(&directory)["manifests"][0];
    assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "v1");
    let manifest = read_json(&directory, entry);
    assert_eq!(
        (&manifest["annotations"]["kept"], manifest["layers"].as_array().map(Vec::len)),
        (&json!("yes"), Some(1))
    );
    let config = read_json(&directory, &manifest["config"]);
    assert_eq!((&config["config"]["Cmd"][0], config.get("history")), (&json!("/d/a"), None));
    assert_eq!(config["rootfs"]["diff_ids"], json!([manifest["layers"][0]["digest"]]));

    let layer = read(&directory, &manifest["layers"][0]);
    let files = place.path().join("files");
    fs::create_dir(&files).expect("a directory");
    let digest = Digest::of(&layer);
    let content = Content::Both { digest, diff_id: digest };
    let said = Expected { content, size: layer.len() as u64, media_type: TAR.to_owned() };
    unpack(layer.as_slice(), &said, File::open(&files).expect("it").as_fd(), &Limits::default())
        .expect("a layer");
    let sealed =
        Sealed::parse(manifest["annotations"][ANNOTATION].as_str().expect("text")).expect("an annotation");
    assert_eq!((sealed.layers().len(), fs::read_dir(files.join(".coffer")).expect("it").count()), (2, 2));
    let checked = [0, 1].map(|number| {
        let layer = sealed.layers()[number];
        let bytes = fs::read(files.join(file_name(number))).expect("a file");
        let (data, tree) = bytes.split_at(layer.data_bytes as usize);
        let made = Tree::of(data, &layer.salt).expect("a tree");
        (
            made.root == layer.root,
            made.bytes == tree,
            bytes.len() as u64 == layer.file_bytes(),
            data[1024..1028].to_vec(),
        )
    });
    // EROFS begins its superblock so, at byte 1024.
    assert_eq!(checked, [(); 2].map(|()| (true, true, true, vec![0xe2, 0xe1, 0xf5, 0xe0])));
    assert_eq!(sealed.layers()[1].data_bytes % BLOCK, 0);
    assert!(sealed.layers()[0].salt != sealed.layers()[1].salt);
}

#[test]
fn the_kernel_mounts_the_files_of_a_sealed_image_as_root() {
    if skipped() {
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    image(&place.path().join("plain"), TAR);
    assert!(seal(place.path(), "sealed", place.path()).status.success());
    let directory = place.path().join("sealed");
    let manifest = read_json(&directory, &index(&directory)["manifests"][0]);
    fs::write(place.path().join("layer.tar"), read(&directory, &manifest["layers"][0])).expect("a layer");
    // The kernel mounts each although its hash tree follows; in a mount namespace that ends with the shell.
    let script = "set -e; tar -xf layer.tar; for n in 0 1; do mkdir m$n; mount -t erofs -o ro,loop .coffer/$n.erofs m$n; done; \
        stat -c '%n %a %u %s %Y %F %t:%T' m0/d/a m0/d/b m1/d/a m1/gone; cat m0/d/c; dd if=/dev/zero of=m0/x 2>/dev/null || echo read-only";
    let shown = Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .current_dir(place.path())
        .output()
        .expect("a shell");
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    let expected = "m0/d/a 644 1000 3 1000000 regular file 0:0\nm0/d/b 644 1000 3 1000000 regular file 0:0\n\
        m1/d/a 4755 0 700000 1000000 regular file 0:0\nm1/gone 0 0 0 0 character special file 0:0\nd/aread-only\n";
    assert_eq!(text, expected, "{}", String::from_utf8_lossy(&shown.stderr));
}

#[test]
fn sealing_twice_gives_the_same_bytes_as_root() {
    if skipped() {
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    image(&place.path().join("plain"), TAR);
    assert!(seal(place.path(), "first", place.path()).status.success());
    // A file system that lists its files in another order.
    let elsewhere = tempfile::tempdir_in("/dev/shm").expect("a directory");
    assert!(seal(place.path(), "second", elsewhere.path()).status.success());
    assert_eq!(index(&place.path().join("first")), index(&place.path().join("second")));
    assert_eq!(fs::read_dir(elsewhere.path()).expect("it").count(), 0, "something was left");
}

#[test]
fn an_image_is_sealed_beside_itself_and_not_twice_as_root() {
    if skipped() {
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    image(&place.path().join("plain"), TAR);
    let seal = |reference: &str, tag: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
        command.args(["image", "seal", "plain", "--to", "plain", "--reference", reference, "--tag", tag]);
        command.current_dir(place.path()).output().expect("a run of coffer")
    };
    assert!(seal("v1", "v1-sealed").status.success());
    let names = index(&place.path().join("plain"))["manifests"].clone();
    let names: Vec<&Value> =
        names.as_array().expect("entries").iter().map(|entry| &entry["annotations"]).collect();
    let name = |name: &str| json!({"org.opencontainers.image.ref.name": name});
    assert_eq!(names, [&name("v1"), &name("v1-sealed")]);
    let refused = seal("v1-sealed", "again");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is sealed already"), "{refused:?}");
}

#[test]
fn an_encrypted_image_is_refused_as_such() {
    let place = tempfile::tempdir().expect("a directory");
    image(&place.path().join("plain"), &format!("{TAR}+encrypted"));
    let refused = seal(place.path(), "sealed", place.path());
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is encrypted"), "{refused:?}");
    assert!(!place.path().join("sealed").exists());
}

#[test]
fn a_damaged_layer_is_refused_and_nothing_is_published_as_root() {
    if skipped() {
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    image(&place.path().join("plain"), TAR);
    let mut bytes = archives()[1].clone();
    let path = place.path().join("plain/blobs/sha256").join(Digest::of(&bytes).hex());
    bytes[600] ^= 1;
    fs::write(path, bytes).expect("a blob");
    let refused = seal(place.path(), "sealed", place.path());
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("the manifest says"), "{refused:?}");
    assert!(!place.path().join("sealed").exists());
}

#[test]
fn an_unknown_compression_is_refused_by_name() {
    let place = tempfile::tempdir().expect("a directory");
    image(&place.path().join("plain"), "application/vnd.oci.image.layer.v1.tar+xz");
    let refused = seal(place.path(), "sealed", place.path());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("are not supported"), "{refused:?}");
}
