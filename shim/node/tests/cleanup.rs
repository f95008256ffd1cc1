//! Cleaning up on this machine: real processes, mounts and leases. Runs as root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use coffer_node::cleanup::{Standing, clean, clean_unrecorded, scan};
use coffer_node::config::UserRange;
use coffer_node::process::ProcessId;
use coffer_node::record::{NewPod, PodKey, PodRecord, RECORD_FILE, Record, Resource};
use coffer_node::uid;
use tempfile::TempDir;

struct Node {
    root: TempDir,
}

impl Node {
    fn new() -> Self {
        Node { root: tempfile::tempdir().expect("a directory") }
    }

    fn run_root(&self) -> PathBuf {
        self.root.path().join("run")
    }

    fn bundle(&self, pod: &str) -> PathBuf {
        self.root.path().join("bundles").join(pod)
    }

    fn pod(&self, pod: &str) -> PodRecord {
        let new =
            NewPod { key: key(pod), bundle: self.bundle(pod), shim_address: None, trace_id: String::new() };
        PodRecord::create(&self.run_root(), new).expect("created")
    }

    /// As a `delete` after a crash would find the pod: its shim is another process, which is dead.
    fn crashed(&self, record: &PodRecord) -> Record {
        let dead = ProcessId { pid: 1, start_ticks: u64::MAX };
        record.update(|record| record.shim = dead).expect("updated");
        Record::load(record.run_dir()).expect("loads")
    }
}

fn key(pod: &str) -> PodKey {
    PodKey::new("test", pod).expect("a valid key")
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

fn sleeper() -> Child {
    Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat starts")
}

fn id_of(child: &Child) -> ProcessId {
    ProcessId::of(i32::try_from(child.id()).expect("fits")).expect("it runs")
}

fn process(child: &Child) -> Resource {
    Resource::Process { process: id_of(child), role: "test".to_owned() }
}

#[test]
fn only_the_recorded_process_is_killed() {
    let node = Node::new();
    let (mut ours, mut other) = (sleeper(), sleeper());
    let record = node.pod("p1");
    record.add(process(&ours)).expect("added");
    let report = clean(&node.run_root(), &node.crashed(&record), soon());
    assert!(report.is_complete(), "{report}");
    assert!(!ours.wait().expect("it ended").success());
    assert!(id_of(&other).is_alive());
    other.kill().expect("the test ends its child");
    other.wait().expect("it ended");
}

#[test]
fn a_recycled_pid_is_spared() {
    let node = Node::new();
    let mut stranger = sleeper();
    let mut recycled = id_of(&stranger);
    recycled.start_ticks -= 1;
    let record = node.pod("p1");
    record.add(Resource::Process { process: recycled, role: "qemu".to_owned() }).expect("added");
    let report = clean(&node.run_root(), &node.crashed(&record), soon());
    assert!(report.is_complete(), "{report}");
    assert!(id_of(&stranger).is_alive());
    stranger.kill().expect("the test ends its child");
    stranger.wait().expect("it ended");
}

#[test]
fn mounts_below_the_bundle_are_detached_even_when_busy() {
    let node = Node::new();
    let rootfs = node.bundle("p1").join("rootfs");
    fs::create_dir_all(&rootfs).expect("made");
    mount_tmpfs(&rootfs);
    fs::create_dir(rootfs.join("inner dir")).expect("made");
    mount_tmpfs(&rootfs.join("inner dir"));
    let busy = fs::File::create(rootfs.join("inner dir/file")).expect("held open");
    let record = node.pod("p1");
    let report = clean(&node.run_root(), &node.crashed(&record), soon());
    assert!(report.is_complete(), "{report}");
    assert!(
        !fs::read_to_string("/proc/self/mountinfo").expect("read").contains(&rootfs.display().to_string())
    );
    drop(busy);
}

fn mount_tmpfs(path: &Path) {
    let status = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(path).status().expect("it starts");
    assert!(status.success());
}

#[test]
fn cleaning_twice_finds_nothing_the_second_time() {
    let node = Node::new();
    let record = node.pod("p1");
    record.add(Resource::File { path: node.root.path().join("socket") }).expect("added");
    fs::write(node.root.path().join("socket"), "").expect("made");
    let crashed = node.crashed(&record);
    let first = clean(&node.run_root(), &crashed, soon());
    let second = clean(&node.run_root(), &crashed, soon());
    assert!(first.is_complete() && second.is_complete(), "{first}{second}");
    assert!(!record.run_dir().exists() && !node.root.path().join("socket").exists());
}

#[test]
fn a_lease_is_given_back_with_the_record() {
    let node = Node::new();
    let record = node.pod("p1");
    let range = UserRange { first: 1_900_000_000, count: 1 };
    let uid = uid::lease(&node.run_root(), range, &record).expect("leased");
    assert_eq!(uid, 1_900_000_000);
    let other = node.pod("p2");
    assert!(matches!(uid::lease(&node.run_root(), range, &other), Err(uid::UidError::Exhausted { .. })));
    let report = clean(&node.run_root(), &node.crashed(&record), soon());
    assert!(report.is_complete(), "{report}");
    assert_eq!(uid::lease(&node.run_root(), range, &other).expect("leased"), uid);
}

#[test]
fn a_lease_whose_pod_has_no_directory_any_more_is_taken_over() {
    let node = Node::new();
    let range = UserRange { first: 1_900_000_000, count: 1 };
    let lost = node.pod("lost");
    uid::lease(&node.run_root(), range, &lost).expect("leased");
    fs::remove_dir_all(lost.run_dir()).expect("removed");
    assert!(uid::lease(&node.run_root(), range, &node.pod("p2")).is_ok());
}

#[test]
fn two_pods_at_once_get_two_users() {
    let node = Node::new();
    let range = UserRange { first: 1_900_000_000, count: 8 };
    let mut uids: Vec<u32> = std::thread::scope(|scope| {
        let lease = |number: usize| {
            let (record, run_root) = (node.pod(&format!("p{number}")), node.run_root());
            scope.spawn(move || uid::lease(&run_root, range, &record).expect("leased"))
        };
        let threads: Vec<_> = (0..8).map(lease).collect();
        threads.into_iter().map(|thread| thread.join().expect("it ends")).collect()
    });
    uids.sort_unstable();
    uids.dedup();
    assert_eq!(uids.len(), 8);
}

#[test]
fn without_a_record_the_pods_user_bundle_and_directory_are_found() {
    let node = Node::new();
    let record = node.pod("p1");
    let uid =
        uid::lease(&node.run_root(), UserRange { first: 1_900_000_100, count: 1 }, &record).expect("leased");
    let mut ours = as_user(uid);
    let rootfs = node.bundle("p1").join("rootfs");
    fs::create_dir_all(&rootfs).expect("made");
    mount_tmpfs(&rootfs);
    fs::write(record.run_dir().join(RECORD_FILE), "{ cut").expect("corrupted");
    assert!(matches!(scan(&node.run_root()).expect("scanned")[0].standing, Standing::Unreadable(_)));

    let report = clean_unrecorded(&node.run_root(), &key("p1"), Some(&node.bundle("p1")), soon());

    assert!(report.is_complete(), "{report}");
    assert!(!ours.wait().expect("it ended").success());
    assert!(!record.run_dir().exists());
    assert!(scan(&node.run_root()).expect("scanned").is_empty());
    assert!(
        !fs::read_to_string("/proc/self/mountinfo").expect("read").contains(&rootfs.display().to_string())
    );
}

fn as_user(uid: u32) -> Child {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new("cat");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).uid(uid).gid(uid).spawn().expect("cat starts")
}

#[test]
fn a_directory_with_a_mount_in_it_is_not_emptied() {
    let node = Node::new();
    let record = node.pod("p1");
    let dir = node.root.path().join("dir");
    fs::create_dir(&dir).expect("made");
    mount_tmpfs(&dir);
    fs::write(dir.join("precious"), "").expect("written");
    record.add(Resource::Directory { path: dir.clone() }).expect("added");
    // The record is of an earlier boot, so nothing in it is a reason to unmount.
    record.update(|record| record.boot_id = "earlier".to_owned()).expect("updated");
    let report = clean(&node.run_root(), &Record::load(record.run_dir()).expect("loads"), soon());
    assert!(!report.is_complete());
    assert!(dir.join("precious").exists());
    assert!(Command::new("umount").arg(&dir).status().expect("it starts").success());
}

#[test]
fn a_failed_step_keeps_the_record_for_another_try() {
    let node = Node::new();
    let record = node.pod("p1");
    // A file cannot be removed through a path that runs through a file.
    fs::write(node.root.path().join("file"), "").expect("made");
    record.add(Resource::File { path: node.root.path().join("file/below") }).expect("added");
    let report = clean(&node.run_root(), &node.crashed(&record), soon());
    assert!(!report.is_complete());
    assert!(record.run_dir().join(RECORD_FILE).exists());
}

#[test]
fn pods_are_listed_with_how_they_stand() {
    let node = Node::new();
    node.pod("alive");
    node.crashed(&node.pod("dead"));
    fs::create_dir_all(node.run_root().join(".uids/not-a-pod")).expect("made");
    let pods = scan(&node.run_root()).expect("scanned");
    let names: Vec<&str> = pods.iter().map(|pod| pod.key.pod()).collect();
    assert_eq!(names, ["alive", "dead"]);
    assert!(matches!(pods[0].standing, Standing::Alive(_)));
    assert!(matches!(pods[1].standing, Standing::Dead(_)));
}

#[test]
fn a_directory_whose_record_is_about_to_be_written_is_no_leftover() {
    let node = Node::new();
    let (new, old) = (node.run_root().join("test/new"), node.run_root().join("test/old"));
    fs::create_dir_all(&new).expect("made");
    fs::create_dir_all(&old).expect("made");
    fs::File::open(&old).and_then(|dir| dir.set_modified(std::time::UNIX_EPOCH)).expect("set back");
    let pods = scan(&node.run_root()).expect("scanned");
    let names: Vec<&str> = pods.iter().map(|pod| pod.key.pod()).collect();
    assert_eq!(names, ["old"]);
}

#[test]
fn a_node_without_pods_has_an_empty_list() {
    assert!(scan(Path::new("/nonexistent/run")).expect("scanned").is_empty());
}

#[test]
fn two_cleanups_of_a_pod_take_turns() {
    let node = Node::new();
    let record = node.pod("p1");
    let crashed = node.crashed(&record);
    let first = fs::File::open(record.run_dir()).expect("opened");
    rustix::fs::flock(&first, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    let early = clean(&node.run_root(), &crashed, Instant::now());
    assert!(!early.is_complete() && early.to_string().contains("another process cleans this pod"), "{early}");
    assert!(record.run_dir().exists());
    let second = std::thread::spawn({
        let (run_root, crashed) = (node.run_root(), crashed.clone());
        move || clean(&run_root, &crashed, soon())
    });
    // What the first does while the second waits.
    fs::remove_dir_all(record.run_dir()).expect("removed");
    drop(first);
    let second = second.join().expect("no panic");
    assert!(second.is_complete(), "{second}");
}

#[test]
fn many_cleanups_at_once_all_end_well() {
    let node = Node::new();
    for round in 0..20 {
        let record = node.pod("p1");
        let range = UserRange { first: 1_900_000_200, count: 1 };
        uid::lease(&node.run_root(), range, &record).expect("leased");
        let crashed = node.crashed(&record);
        let reports: Vec<_> = std::thread::scope(|scope| {
            let all: Vec<_> =
                (0..4).map(|_| scope.spawn(|| clean(&node.run_root(), &crashed, soon()))).collect();
            all.into_iter().map(|one| one.join().expect("no panic")).collect()
        });
        assert!(reports.iter().all(|report| report.is_complete()), "round {round}: {reports:?}");
        assert!(!record.run_dir().exists());
    }
}

#[test]
fn a_later_pod_of_the_same_name_is_not_cleaned_by_the_earlier_ones_record() {
    let node = Node::new();
    let earlier = node.crashed(&node.pod("p1"));
    assert!(clean(&node.run_root(), &earlier, soon()).is_complete());
    let later = node.pod("p1");
    let mut process_of_later = sleeper();
    later.add(process(&process_of_later)).expect("added");
    let report = clean(&node.run_root(), &earlier, soon());
    assert!(report.is_complete(), "{report}");
    assert!(later.run_dir().join(RECORD_FILE).exists() && id_of(&process_of_later).is_alive());
    process_of_later.kill().expect("the test ends its child");
    process_of_later.wait().expect("it ended");
}
