//! The layer cache on this machine: real `mkfs.erofs`, real mounts. Runs as root.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier};
use std::time::{Duration, UNIX_EPOCH};

use coffer_node::layers::{Digest, Layer, LayerError, LayerProgress, LayerStore, RootfsMount};
use coffer_node::record::{NewPod, PodKey, PodRecord, Record};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lgetxattr, lsetxattr, makedev, mknodat};
use tempfile::TempDir;

/// A cache, a pod's record, and a place for layers.
struct Node {
    root: TempDir,
    store: LayerStore,
    record: PodRecord,
}

impl Node {
    fn new() -> Self {
        Self::in_dir(tempfile::tempdir().expect("a directory"))
    }

    fn in_dir(root: TempDir) -> Self {
        let store = LayerStore::open(&root.path().join("cache")).expect("opened");
        Self { record: pod_record(root.path()), store, root }
    }

    fn with_mkfs(script: &str) -> Self {
        let mut node = Self::new();
        let path = node.root.path().join("mkfs");
        fs::write(&path, script).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("made executable");
        node.store = LayerStore::open_with(&node.cache(), path).expect("opened");
        node
    }

    fn cache(&self) -> PathBuf {
        self.root.path().join("cache")
    }

    fn layer_dir(&self, name: &str) -> PathBuf {
        let dir = self.root.path().join(name);
        fs::create_dir(&dir).expect("made");
        fs::write(dir.join("file"), name).expect("written");
        dir
    }

    fn layers(&self, mount: RootfsMount) -> Result<Vec<Layer>, LayerError> {
        self.store.layers(&[mount], &self.record, &mut |_| ())
    }

    fn steps(&self, mount: RootfsMount) -> Vec<LayerProgress> {
        let mut steps = Vec::new();
        self.store.layers(&[mount], &self.record, &mut |step| steps.push(step)).expect("layers");
        steps
    }

    fn names_in(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.cache().join(directory)).expect("listed");
        entries.map(|entry| entry.expect("listed").file_name().into_string().expect("a name")).collect()
    }

    fn blob(&self) -> PathBuf {
        let names = self.names_in("blobs");
        assert_eq!(names.len(), 1, "{names:?}");
        self.cache().join("blobs").join(&names[0])
    }
}

fn pod_record(run_root: &Path) -> PodRecord {
    let pod = NewPod {
        key: PodKey::new("test", "p1").expect("a valid key"),
        bundle: "/bundle".into(),
        shim_address: None,
        trace_id: String::new(),
    };
    PodRecord::create(&run_root.join("run"), pod).expect("created")
}

fn overlay(lower: &[&Path]) -> RootfsMount {
    let lower: Vec<String> = lower.iter().map(|dir| dir.display().to_string()).collect();
    let options = vec!["index=off".to_owned(), format!("lowerdir={}", lower.join(":"))];
    RootfsMount { fs_type: "overlay".to_owned(), source: "overlay".to_owned(), options }
}

/// A layer mounted through a loop device, until dropped.
struct Mounted(TempDir);

impl Mounted {
    fn new(layer: &Layer) -> Self {
        let point = tempfile::tempdir().expect("a directory");
        let file = format!("/proc/{}/fd/{}", std::process::id(), layer.file.as_raw_fd());
        run("mount", &["-t", "erofs", "-o", "loop,ro", &file, &point.path().display().to_string()]);
        Mounted(point)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &[&self.0.path().display().to_string()]);
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().expect("it starts");
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

#[test]
fn whiteouts_opaque_marks_times_owners_and_devices_survive() {
    let node = Node::new();
    let dir = node.layer_dir("lower");
    mknodat(CWD, dir.join("gone"), FileType::CharacterDevice, Mode::empty(), makedev(0, 0))
        .expect("a whiteout");
    mknodat(CWD, dir.join("pipe"), FileType::Fifo, Mode::from(0o600), 0).expect("a fifo");
    fs::create_dir(dir.join("opaque")).expect("made");
    lsetxattr(dir.join("opaque"), "trusted.overlay.opaque", b"y", XattrFlags::empty()).expect("marked");
    lsetxattr(dir.join("file"), "user.note", b"kept", XattrFlags::empty()).expect("marked");
    std::os::unix::fs::chown(dir.join("file"), Some(70_000), Some(70_001)).expect("owned");
    fs::set_permissions(dir.join("file"), fs::Permissions::from_mode(0o4755)).expect("set");
    let time = UNIX_EPOCH + Duration::new(981_158_400, 123_456_789);
    File::open(dir.join("file")).and_then(|file| file.set_modified(time)).expect("dated");
    fs::hard_link(dir.join("file"), dir.join("link")).expect("linked");
    std::os::unix::fs::symlink("file", dir.join("symlink")).expect("linked");

    let layers = node.layers(overlay(&[&dir])).expect("layers");
    let mounted = Mounted::new(&layers[0]);

    let gone = fs::symlink_metadata(mounted.path("gone")).expect("there");
    assert!(gone.file_type().is_char_device());
    assert_eq!(gone.rdev(), 0);
    assert!(fs::symlink_metadata(mounted.path("pipe")).expect("there").file_type().is_fifo());
    assert_eq!(xattr(&mounted.path("opaque"), "trusted.overlay.opaque"), b"y");
    assert_eq!(xattr(&mounted.path("file"), "user.note"), b"kept");
    let file = fs::metadata(mounted.path("file")).expect("there");
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777, file.nlink()), (70_000, 70_001, 0o4755, 2));
    assert_eq!(file.modified().expect("dated"), time);
    assert_eq!(fs::read_link(mounted.path("symlink")).expect("there"), Path::new("file"));
    assert_eq!(fs::read(mounted.path("link")).expect("there"), b"lower");
}

fn xattr(path: &Path, name: &str) -> Vec<u8> {
    let mut value = [0; 64];
    let length = lgetxattr(path, name, &mut value).expect("there");
    value[..length].to_vec()
}

#[test]
fn layers_come_lowest_first_and_are_described_for_the_guest() {
    let node = Node::new();
    let (low, high) = (node.layer_dir("low"), node.layer_dir("high"));
    let layers = node.layers(overlay(&[&high, &low])).expect("layers");
    let contents: Vec<Vec<u8>> =
        layers.iter().map(|layer| fs::read(Mounted::new(layer).path("file")).expect("there")).collect();
    assert_eq!(contents, [b"low".to_vec(), b"high".to_vec()]);
    assert!(layers.iter().all(|layer| layer.fs_type == "erofs" && layer.serial.len() == 18));
    assert_ne!(layers[0].serial, layers[1].serial);
}

#[test]
fn the_second_pod_converts_nothing() {
    let node = Node::new();
    let dir = node.layer_dir("lower");
    node.layers(overlay(&[&dir])).expect("layers");
    let steps = node.steps(overlay(&[&dir]));
    assert!(matches!(steps.as_slice(), [LayerProgress::Cached(_)]), "{steps:?}");
}

#[test]
fn the_same_directory_gives_the_same_bytes_on_another_node() {
    let (one, other) = (Node::new(), Node::new());
    let dir = one.layer_dir("lower");
    let first = one.layers(overlay(&[&dir])).expect("layers");
    let second = other.layers(overlay(&[&dir])).expect("layers");
    assert_eq!(first[0].digest, second[0].digest);
}

#[test]
fn two_pods_at_once_convert_a_layer_once() {
    // The converter tells that it began, and goes on when it is told to; so the second pod must wait for the first.
    let node = Node::with_mkfs(
        "#!/bin/sh\ncd ${0%/*}\necho began >> log\nread go < gate\nPATH=/usr/bin:/usr/sbin:/bin exec mkfs.erofs \"$@\"\n",
    );
    let gate = node.root.path().join("gate");
    mknodat(CWD, &gate, FileType::Fifo, Mode::from(0o600), 0).expect("a fifo");
    let dir = node.layer_dir("lower");
    let (waiting, is_waiting) = std::sync::mpsc::channel();
    let both = Arc::new(Barrier::new(2));

    let digests: Vec<Option<Digest>> = std::thread::scope(|scope| {
        let pods: Vec<_> = (0..2)
            .map(|_| {
                let (waiting, both, node, dir) = (waiting.clone(), both.clone(), &node, &dir);
                scope.spawn(move || {
                    both.wait();
                    let mut tell = |step| {
                        if matches!(step, LayerProgress::WaitingForOther(_)) {
                            waiting.send(()).expect("heard");
                        }
                    };
                    let layers = node.store.layers(&[overlay(&[dir])], &node.record, &mut tell);
                    layers.expect("layers")[0].digest
                })
            })
            .collect();
        is_waiting.recv_timeout(Duration::from_secs(30)).expect("one pod waits for the other");
        // Opening blocks until the converter reads.
        File::options().write(true).open(&gate).and_then(|mut gate| gate.write_all(b"go\n")).expect("let go");
        pods.into_iter().map(|pod| pod.join().expect("it ends")).collect()
    });

    assert_eq!(digests[0], digests[1]);
    assert_eq!(fs::read_to_string(node.root.path().join("log")).expect("read"), "began\n");
}

#[test]
fn a_conversion_killed_half_way_leaves_nothing_and_can_be_repeated() {
    let node = Node::with_mkfs("#!/bin/sh\nfor last; do :; done\necho half > \"$5\"\nkill -9 $$\n");
    let dir = node.layer_dir("lower");
    let error = node.layers(overlay(&[&dir])).expect_err("it was killed");
    assert!(matches!(&error, LayerError::Mkfs { reason, .. } if reason.contains("signal: 9")), "{error}");
    assert_eq!(node.names_in("tmp"), Vec::<String>::new());
    assert_eq!(node.names_in("blobs"), Vec::<String>::new());

    let again = LayerStore::open(&node.cache()).expect("opened");
    again.layers(&[overlay(&[&dir])], &node.record, &mut |_| ()).expect("converts");
}

#[test]
fn a_draft_whose_holder_is_gone_is_removed_by_the_next_conversion() {
    let node = Node::new();
    fs::write(node.cache().join("tmp/1234-0"), "half").expect("left behind");
    let dir = node.layer_dir("lower");
    node.layers(overlay(&[&dir])).expect("layers");
    assert_eq!(node.names_in("tmp"), Vec::<String>::new());
}

#[test]
fn a_draft_that_is_being_written_is_left_alone() {
    let node = Node::new();
    let path = node.cache().join("tmp/1234-0");
    let held = File::create(&path).expect("made");
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).expect("held");
    let dir = node.layer_dir("lower");
    node.layers(overlay(&[&dir])).expect("layers");
    assert!(path.exists());
}

#[test]
fn a_converter_does_not_outlive_a_shim_that_is_killed() {
    let node =
        Node::with_mkfs("#!/bin/sh\ncd ${0%/*}\necho $$ > pid.new\nmv pid.new pid\nread forever < gate\n");
    mknodat(CWD, node.root.path().join("gate"), FileType::Fifo, Mode::from(0o600), 0).expect("a fifo");
    mknodat(CWD, node.root.path().join("pid"), FileType::Fifo, Mode::from(0o600), 0).expect("a fifo");
    node.layer_dir("lower");
    fs::write(node.root.path().join("mkfs"), "#!/bin/sh\ncd ${0%/*}\necho $$ > pid\nread forever < gate\n")
        .expect("written");
    let mut shim = Command::new(std::env::current_exe().expect("known"))
        .args(["--exact", "the_shim_of_another_test", "--nocapture"])
        .env("COFFER_TEST_NODE", node.root.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    // Reading blocks until the converter runs and has written its pid.
    let mut text = String::new();
    File::open(node.root.path().join("pid")).and_then(|mut pid| pid.read_to_string(&mut text)).expect("read");
    let converter =
        coffer_node::process::ProcessId::of(text.trim().parse().expect("a pid")).expect("it runs");
    let handle = converter.open().expect("opened").expect("it runs");

    shim.kill().expect("killed");
    shim.wait().expect("it ended");

    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    assert!(handle.wait_until(deadline).expect("polled"), "the converter still runs");
    let next = LayerStore::open(&node.cache()).expect("opened");
    next.layers(&[overlay(&[&node.root.path().join("lower")])], &node.record, &mut |_| ()).expect("converts");
    assert_eq!(node.names_in("tmp"), Vec::<String>::new());
}

/// Run by the test above as a process of its own; does nothing otherwise.
#[test]
fn the_shim_of_another_test() {
    let Some(root) = std::env::var_os("COFFER_TEST_NODE").map(PathBuf::from) else { return };
    let store = LayerStore::open_with(&root.join("cache"), root.join("mkfs")).expect("opened");
    let record = pod_record(&root.join("other"));
    drop(store.layers(&[overlay(&[&root.join("lower")])], &record, &mut |_| ()));
}

#[test]
fn no_space_is_told_with_numbers_and_leaves_nothing() {
    let root = tempfile::tempdir().expect("a directory");
    let small = root.path().join("cache");
    fs::create_dir(&small).expect("made");
    run("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs", &small.display().to_string()]);
    let _unmount = Unmount(small.clone());
    let node = Node::in_dir(root);
    let dir = node.layer_dir("lower");
    fs::write(dir.join("large"), vec![7; 3 << 20]).expect("written");

    let error = node.layers(overlay(&[&dir])).expect_err("no space");

    let LayerError::NoSpace { needed, available, .. } = &error else { panic!("{error}") };
    assert!(*needed >= 3 << 20 && *available <= 1 << 20, "{error}");
    assert_eq!(node.names_in("tmp"), Vec::<String>::new());
    assert_eq!(node.names_in("blobs"), Vec::<String>::new());
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        run("umount", &[&self.0.display().to_string()]);
    }
}

#[test]
fn a_layer_with_one_flipped_bit_is_refused_and_then_converted_again() {
    let node = Node::new();
    let dir = node.layer_dir("lower");
    let sound = node.layers(overlay(&[&dir])).expect("layers").remove(0).digest.expect("cached");
    let blob = node.blob();
    let file = File::options().read(true).write(true).open(&blob).expect("opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 2000).expect("read");
    file.write_all_at(&[byte[0] ^ 0x10], 2000).expect("flipped");

    let error = node.layers(overlay(&[&dir])).expect_err("refused");

    let LayerError::Altered { path, expected, found, quarantine } = &error else { panic!("{error}") };
    assert_eq!((path, *expected), (&blob, sound));
    assert_ne!(*found, sound);
    assert!(quarantine.exists() && !blob.exists());
    assert_eq!(node.layers(overlay(&[&dir])).expect("layers")[0].digest, Some(sound));
}

#[test]
fn a_blob_of_another_boot_is_hashed_before_use() {
    let node = Node::new();
    let dir = node.layer_dir("lower");
    node.layers(overlay(&[&dir])).expect("layers");
    let stamp = node.cache().join("stamps").join(&node.names_in("stamps")[0]);
    let boot = coffer_node::process::boot_id().expect("read");
    let text = fs::read_to_string(&stamp).expect("read");
    fs::write(&stamp, text.replace(&boot, "an earlier boot")).expect("written");
    let steps = node.steps(overlay(&[&dir]));
    assert!(matches!(steps.as_slice(), [LayerProgress::Verifying(_), LayerProgress::Cached(_)]), "{steps:?}");
}

#[test]
fn a_broken_index_entry_costs_a_conversion_and_no_more() {
    let node = Node::new();
    let dir = node.layer_dir("lower");
    node.layers(overlay(&[&dir])).expect("layers");
    let entry = node.cache().join("index").join(&node.names_in("index")[0]);
    fs::write(entry, "{").expect("written");
    let steps = node.steps(overlay(&[&dir]));
    assert!(steps.iter().any(|step| matches!(step, LayerProgress::Converting(_))), "{steps:?}");
}

#[test]
fn what_was_written_for_one_container_is_its_topmost_layer_and_is_not_kept() {
    let node = Node::new();
    let (lower, upper) = (node.layer_dir("lower"), node.layer_dir("upper"));
    let mut mount = overlay(&[&lower]);
    mount.options.push(format!("upperdir={}", upper.display()));
    let layers = node.layers(mount).expect("layers");
    assert_eq!(layers.len(), 2);
    assert_eq!(layers[1].digest, None);
    assert_eq!(fs::read(Mounted::new(&layers[1]).path("file")).expect("there"), b"upper");
    assert_eq!(node.names_in("blobs").len(), 1);
    assert_eq!(node.names_in("tmp"), Vec::<String>::new());
}

#[test]
fn a_bound_directory_that_changed_is_converted_again() {
    let node = Node::new();
    let dir = node.layer_dir("rootfs");
    let mount = || RootfsMount {
        fs_type: "bind".to_owned(),
        source: dir.display().to_string(),
        options: vec!["rbind".to_owned(), "rw".to_owned()],
    };
    let before = node.layers(mount()).expect("layers")[0].digest;
    fs::create_dir(dir.join("sub")).expect("made");
    let after = node.layers(mount()).expect("layers")[0].digest;
    assert_ne!(before, after);
    assert!(matches!(node.steps(mount()).as_slice(), [LayerProgress::Cached(_)]));
}

#[test]
fn an_erofs_snapshot_is_handed_over_as_it_is() {
    let node = Node::new();
    let dir = node.layer_dir("lower");
    node.layers(overlay(&[&dir])).expect("layers");
    let snapshot = node.root.path().join("7");
    fs::create_dir_all(snapshot.join("fs")).expect("made");
    fs::copy(node.blob(), snapshot.join("layer.erofs")).expect("copied");
    let layers = node.layers(overlay(&[&snapshot.join("fs")])).expect("layers");
    assert_eq!(fs::read(Mounted::new(&layers[0]).path("file")).expect("there"), b"lower");
    assert_eq!(node.names_in("blobs").len(), 1);
}

#[test]
fn a_missing_layer_is_reported_by_its_path() {
    let node = Node::new();
    let error = node.layers(overlay(&[Path::new("/nonexistent/fs")])).expect_err("missing");
    assert!(
        matches!(&error, LayerError::Source { path, .. } if path == Path::new("/nonexistent/fs")),
        "{error}"
    );
}

#[test]
fn a_missing_converter_says_what_to_install() {
    let mut node = Node::new();
    node.store = LayerStore::open_with(&node.cache(), "/nonexistent/mkfs.erofs".into()).expect("opened");
    let dir = node.layer_dir("lower");
    let error = node.layers(overlay(&[&dir])).expect_err("missing").to_string();
    assert!(error.contains("/nonexistent/mkfs.erofs") && error.contains("erofs-utils"), "{error}");
    assert_eq!(node.names_in("tmp"), Vec::<String>::new());
}

#[test]
fn a_pods_record_names_its_layers_before_they_are_used() {
    let node = Node::new();
    let dir = node.layer_dir("lower");
    let digest = node.layers(overlay(&[&dir])).expect("layers")[0].digest.expect("cached");
    let record = Record::load(node.record.run_dir()).expect("loads");
    let expected = coffer_node::record::Resource::Layer { digest: digest.to_string() };
    assert!(record.resources.contains(&expected));
}

#[test]
fn the_cache_is_listed_with_sizes_and_sources() {
    let node = Node::new();
    let dir = node.layer_dir("lower");
    node.layers(overlay(&[&dir])).expect("layers");
    let listed = node.store.list().expect("listed");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].sources, vec![dir]);
    assert_eq!(listed[0].bytes, fs::metadata(node.blob()).expect("there").len());
    assert!(listed[0].last_used_unix > 0);
}

#[test]
fn verifying_finds_an_altered_blob_among_sound_ones() {
    let node = Node::new();
    let dirs = [node.layer_dir("one"), node.layer_dir("two")];
    let layers = node.layers(overlay(&[&dirs[0], &dirs[1]])).expect("layers");
    let bad = layers[0].digest.expect("cached");
    let path = node.cache().join("blobs").join(format!("sha256-{}.erofs", bad.hex()));
    File::options().write(true).open(path).and_then(|file| file.write_all_at(b"x", 1500)).expect("altered");
    let verdicts = node.store.verify(&mut |_| ()).expect("verified");
    let altered: Vec<Digest> = verdicts
        .iter()
        .filter(|verdict| verdict.found != verdict.expected)
        .map(|verdict| verdict.expected)
        .collect();
    assert_eq!((verdicts.len(), altered), (2, vec![bad]));
}

#[test]
fn pruning_keeps_what_a_pod_uses_and_what_was_used_lately() {
    let node = Node::new();
    let dirs = [node.layer_dir("one"), node.layer_dir("two")];
    let layers = node.layers(overlay(&[&dirs[0], &dirs[1]])).expect("layers");
    let used = layers[0].digest.expect("cached");

    let kept = node.store.prune(&[used], Duration::from_secs(3600)).expect("pruned");
    assert_eq!((kept.in_use, kept.recent, kept.layers.len()), (1, 1, 0));

    let pruned = node.store.prune(&[used], Duration::ZERO).expect("pruned");
    assert_eq!((pruned.in_use, pruned.layers.len(), node.names_in("index").len()), (1, 1, 1));
    assert!(pruned.bytes > 0);
}
