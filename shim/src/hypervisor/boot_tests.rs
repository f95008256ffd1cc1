//! A real machine: QEMU boots the guest's kernel with a small PID 1 that the tests compile, and everything that the
//! shim does with a machine is done with this one. Needs root, QEMU, and a kernel named by `COFFER_GUEST_KERNEL`.

use std::fs::{self, File};
use std::io::Write as _;
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use coffer_node::config::HypervisorChoice;
use coffer_vmm::spec::{Disk, Limit, Limits, Rate, VmSpec};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::dial::SocketDir;
use super::{BootError, Machine, Ready, VmEnd, choose, connect, ready_listener};

/// The user that test machines run as.
const UID: u32 = 64_999;

/// Long enough for software emulation on a loaded host; nothing depends on it but how a hang is reported.
const PATIENCE: Duration = Duration::from_secs(120);

/// The guest's port.
const PORT: u32 = 1024;

const MIB: usize = 1024 * 1024;

/// What every test needs, made once.
struct Ground {
    kernel: PathBuf,
    initrd: PathBuf,
    vmm: PathBuf,
}

/// A machine whose agent has reported.
struct Guest {
    machine: Arc<dyn Machine>,
    ready: Ready,
    run_dir: tempfile::TempDir,
}

/// What the test needs; on a machine that lacks it, says by name that the test is skipped, past the test runner.
fn ground() -> Option<&'static Ground> {
    static GROUND: OnceLock<Result<Ground, &'static str>> = OnceLock::new();
    let skipped = |reason: &&&str| {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let _ = writeln!(std::io::stderr(), "skipped: {test}: {reason}");
    };
    GROUND.get_or_init(prepare).as_ref().inspect_err(skipped).ok()
}

fn prepare() -> Result<Ground, &'static str> {
    let kernel = std::env::var_os("COFFER_GUEST_KERNEL").map(PathBuf::from);
    let kernel = kernel.filter(|kernel| kernel.is_file()).ok_or("COFFER_GUEST_KERNEL names no kernel")?;
    if !rustix::process::geteuid().is_root() {
        return Err("booting a machine needs root");
    }
    let target = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
    Ok(Ground { kernel, initrd: compile_guest(&target), vmm: build_device(&target) })
}

/// An initrd with nothing but PID 1.
fn compile_guest(target: &Path) -> PathBuf {
    let kept = target.join("hypervisor-tests");
    fs::create_dir_all(&kept).unwrap();
    let made = tempfile::tempdir_in(&kept).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/hypervisor/guest_init.rs");
    let built = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--edition", "2024", "-O", "-C", "panic=abort", "-C", "strip=symbols"])
        .args(["-C", "target-feature=+crt-static", "--target", "x86_64-unknown-linux-gnu", "-o"])
        .arg(made.path().join("init"))
        .arg(source)
        .status()
        .unwrap();
    assert!(built.success(), "the guest's init does not compile");
    let packed = Command::new("/bin/sh")
        .args(["-c", "cd \"$0\" && echo init | cpio -o -H newc -R 0:0 --quiet > initrd.img"])
        .arg(made.path())
        .status()
        .unwrap();
    assert!(packed.success(), "the initrd cannot be packed; cpio is needed");
    // Whole or not at all: other processes of the tests use it too.
    let initrd = kept.join("initrd.img");
    fs::rename(made.path().join("initrd.img"), &initrd).unwrap();
    initrd
}

/// The device's program, of the same sources as this test; `COFFER_VMM` may name another one.
fn build_device(target: &Path) -> PathBuf {
    if let Some(named) = std::env::var_os("COFFER_VMM") {
        return named.into();
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "-q", "-p", "coffer-vmm", "--bin", "coffer-vmm"]);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).env("CARGO_TARGET_DIR", target.parent().unwrap());
    if target.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success(), "coffer-vmm does not build");
    target.join("coffer-vmm")
}

fn run_dir() -> tempfile::TempDir {
    let run_dir = tempfile::tempdir().unwrap();
    fs::set_permissions(run_dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    run_dir
}

fn spec(ground: &Ground, run_dir: &Path) -> VmSpec {
    VmSpec {
        id: "test".to_owned(),
        kernel: ground.kernel.clone(),
        initrd: ground.initrd.clone(),
        cmdline: "console=ttyS0 reboot=t panic=-1 quiet".to_owned(),
        vcpus: 1,
        memory_mib: 192,
        disks: Vec::new(),
        nics: Vec::new(),
        limits: Limits::default(),
        run_dir: run_dir.to_owned(),
        uid: UID,
        cgroup_procs: Vec::new(),
    }
}

async fn boot(spec: VmSpec, ground: &Ground) -> Result<Arc<dyn Machine>, BootError> {
    let choice = choose(HypervisorChoice::Auto, Path::new("qemu-system-x86_64"), &ground.vmm);
    choice.hypervisor.boot(spec).await.map(|started| started.machine)
}

async fn boot_with(ground: &Ground, disks: Vec<Disk>) -> Guest {
    let run_dir = run_dir();
    let listener = ready_listener(run_dir.path(), UID).await.unwrap();
    let machine = boot(VmSpec { disks, ..spec(ground, run_dir.path()) }, ground).await.unwrap();
    let ready = tokio::select! {
        ready = timeout(PATIENCE, listener.accept()) => ready.expect("the guest reports").unwrap(),
        end = machine.ended() => panic!("the machine ended: {end}\n{}", machine.console_tail()),
    };
    Guest { machine, ready, run_dir }
}

impl Guest {
    async fn ask(&self, line: &str) -> UnixStream {
        let mut stream = connect(self.run_dir.path(), PORT).await.unwrap();
        stream.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        stream
    }

    async fn answer(&self, line: &str) -> String {
        let mut said = String::new();
        let mut stream = self.ask(line).await;
        timeout(PATIENCE, stream.read_to_string(&mut said)).await.expect("an answer").unwrap();
        said
    }

    /// The process of its vsock device: its root is the run directory.
    fn device(&self) -> i32 {
        let root_of = |pid: &i32| fs::read_link(format!("/proc/{pid}/root")).ok();
        let name_of = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let is_device = |pid: &i32| {
            name_of(pid).starts_with("coffer-vmm") && root_of(pid).as_deref() == Some(self.run_dir.path())
        };
        children()
            .into_iter()
            .find(is_device)
            .expect("the device's process, in the run directory as its root")
    }

    fn listen(&self, port: u32) -> UnixListener {
        let dir = SocketDir::open(self.run_dir.path()).unwrap();
        UnixListener::from_std(dir.listen(&format!("vsock.sock_{port}"), UID).unwrap()).unwrap()
    }
}

fn image(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file.set_len(MIB as u64).unwrap();
    file
}

fn disk(serial: &str, content: &[u8], read_only: bool) -> Disk {
    let file = image(content);
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    let file = File::options().read(true).write(!read_only).open(again).unwrap();
    Disk { serial: serial.to_owned(), file: file.into(), read_only }
}

fn hash(bytes: &[u8]) -> String {
    let sum = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    format!("{} {sum:016x}\n", bytes.len())
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| ((index % 65_536) % 251) as u8).collect()
}

/// Processes of the test's user whose parent is this process.
fn children() -> Vec<i32> {
    let ours = std::process::id().to_string();
    let stat = |pid: i32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let is_child =
        |pid: &i32| stat(*pid).rsplit(") ").next().unwrap_or_default().split(' ').nth(1) == Some(&ours);
    let pids =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_child).collect()
}

/// All of it in one test, because a boot is the dear part; every step says what it shows.
#[tokio::test]
async fn a_machine_boots_talks_takes_disks_and_ends() {
    let Some(ground) = ground() else { return };
    let mut guest =
        boot_with(ground, vec![disk("layer-a", b"layer a's bytes!", true), disk("scratch", b"", false)])
            .await;
    a_port_that_nobody_listens_on_is_refused(&guest).await;
    an_echo_comes_back_and_ends(&guest).await;
    a_closed_direction_leaves_the_other_open(&guest).await;
    the_guest_reaches_a_listener_of_the_host_and_no_other(&guest).await;
    many_bytes_arrive_whole_both_ways(&guest).await;
    a_stalled_connection_delays_no_other(&guest).await;
    many_connections_leave_no_descriptor(&guest).await;
    disks_are_found_by_serial(&guest).await;
    guest.machine.kill().await;
    assert_eq!(guest.machine.ended().await, VmEnd::Killed { signal: 9 });
    timeout(PATIENCE, guest.ready.gone()).await.expect("the held connection ends with the guest");
    guest.machine.kill().await;
}

async fn a_port_that_nobody_listens_on_is_refused(guest: &Guest) {
    let refused = connect(guest.run_dir.path(), 9).await;
    assert!(matches!(refused, Err(super::ConnectError::Refused { port: 9 })), "{refused:?}");
}

async fn an_echo_comes_back_and_ends(guest: &Guest) {
    let mut stream = guest.ask("echo").await;
    stream.write_all(b"there and back").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut said = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut said)).await.expect("the echo ends").unwrap();
    assert_eq!(said, "there and back");
}

async fn a_closed_direction_leaves_the_other_open(guest: &Guest) {
    let listener = guest.listen(2001);
    let mut stream = guest.ask("half 2001").await;
    let mut said = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut said)).await.expect("the guest's end of file").unwrap();
    assert_eq!(said, "said first");
    stream.write_all(b"said after").await.unwrap();
    drop(stream);
    let (mut report, _) = timeout(PATIENCE, listener.accept()).await.expect("the guest's report").unwrap();
    let mut heard = String::new();
    report.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "said after");
}

async fn the_guest_reaches_a_listener_of_the_host_and_no_other(guest: &Guest) {
    let listener = guest.listen(2002);
    assert_eq!(guest.answer("dial 2002").await, "connected");
    let (mut stream, _) = timeout(PATIENCE, listener.accept()).await.expect("a connection").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "hello host");
    assert_eq!(guest.answer("dial 2003").await, "refused");
}

async fn many_bytes_arrive_whole_both_ways(guest: &Guest) {
    let mib = std::env::var("COFFER_VSOCK_MIB").ok().and_then(|mib| mib.parse().ok()).unwrap_or(64);
    let bytes = pattern(mib * MIB);
    let mut stream = guest.ask("sink").await;
    timeout(PATIENCE, stream.write_all(&bytes)).await.expect("they reach the guest").unwrap();
    stream.shutdown().await.unwrap();
    let mut sum = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut sum)).await.expect("their hash").unwrap();
    assert_eq!(sum, hash(&bytes));

    let mut stream = guest.ask(&format!("source {}", bytes.len())).await;
    let mut received = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut received)).await.expect("they reach the host").unwrap();
    assert!(received == bytes, "{} bytes arrived, or they differ", received.len());
}

async fn a_stalled_connection_delays_no_other(guest: &Guest) {
    // One whose host never reads, and one whose guest never does; both have more to say than all buffers hold.
    let unread = guest.ask(&format!("source {}", 64 * MIB)).await;
    let stalled = guest.ask("stall").await;
    let flood = tokio::spawn(async move {
        let mut stalled = stalled;
        stalled.write_all(&pattern(64 * MIB)).await
    });
    assert_eq!(guest.answer("dial 2004").await, "refused");
    an_echo_comes_back_and_ends(guest).await;
    assert!(!flood.is_finished());
    flood.abort();
    drop(unread);
    an_echo_comes_back_and_ends(guest).await;
}

async fn many_connections_leave_no_descriptor(guest: &Guest) {
    let files = || fs::read_dir(format!("/proc/{}/fd", guest.device())).unwrap().count();
    let before = files();
    for _ in 0..20 {
        let echoes = (0..16).map(|_| an_echo_comes_back_and_ends(guest));
        futures::future::join_all(echoes).await;
    }
    // A connection is over when the guest has said so too.
    let settle = async {
        while files() > before {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, settle).await.expect("every descriptor is closed again");
}

async fn disks_are_found_by_serial(guest: &Guest) {
    assert_eq!(guest.answer("head layer-a").await, "layer a's bytes!");
    let listed = guest.answer("disks").await;
    let with = |listed: &str, serial: &str, read_only: &str| {
        listed.lines().any(|line| line.starts_with(&format!("{serial} ")) && line.ends_with(read_only))
    };
    assert!(with(&listed, "layer-a", "1") && with(&listed, "scratch", "0"), "{listed}");

    guest.machine.attach_disk(disk("layer-b", b"layer b's bytes!", true)).await.unwrap();
    assert_eq!(settled(guest, "layer-b", true).await, "layer-b");
    assert_eq!(guest.answer("head layer-b").await, "layer b's bytes!");
    let again = guest.machine.attach_disk(disk("layer-b", b"", true)).await;
    assert!(matches!(again, Err(super::MachineError::Serial { .. })), "{again:?}");

    guest.machine.detach_disk("layer-b").await.unwrap();
    assert_eq!(settled(guest, "layer-b", false).await, "");
    guest.machine.attach_disk(disk("layer-b", b"another layer b.", true)).await.unwrap();
    assert_eq!(settled(guest, "layer-b", true).await, "layer-b");
    assert_eq!(guest.answer("head layer-b").await, "another layer b.");

    let file = image(b"");
    let scratch =
        Disk { serial: "scratch-2".to_owned(), file: file.try_clone().unwrap().into(), read_only: false };
    guest.machine.attach_disk(scratch).await.unwrap();
    assert_eq!(settled(guest, "scratch-2", true).await, "scratch-2");
    assert_eq!(guest.answer("write scratch-2 kept").await, "written");
    let mut kept = [0; 4];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut kept, 0).unwrap();
    assert_eq!(&kept, b"kept");
}

/// Asks until the disk is listed, or is not: gives its serial or nothing.
async fn settled(guest: &Guest, serial: &str, there: bool) -> String {
    let ask = async {
        loop {
            let listed = guest.answer("disks").await;
            let found =
                listed.lines().find_map(|line| line.split(' ').next().filter(|found| *found == serial));
            if found.is_some() == there {
                return found.unwrap_or_default().to_owned();
            }
        }
    };
    timeout(PATIENCE, ask).await.expect("the guest sees the change")
}

#[tokio::test]
async fn a_guest_that_halts_is_off_and_leaves_no_process() {
    let Some(ground) = ground() else { return };
    let guest = boot_with(ground, Vec::new()).await;
    let pid = guest.machine.pid();
    drop(guest.ask("halt").await);
    let end = timeout(PATIENCE, guest.machine.ended()).await.expect("the machine ends");
    assert_eq!(end, VmEnd::Off);
    assert!(guest.machine.console_tail().contains("GUEST READY"), "{}", guest.machine.console_tail());
    assert!(!children().contains(&i32::try_from(pid).unwrap()));
}

#[tokio::test]
async fn a_device_that_dies_takes_the_machine_with_it() {
    let Some(ground) = ground() else { return };
    let guest = boot_with(ground, Vec::new()).await;
    let qemu = i32::try_from(guest.machine.pid()).unwrap();
    let device = guest.device();
    let uid_of = |pid: &i32| {
        fs::metadata(format!("/proc/{pid}")).map(|found| std::os::unix::fs::MetadataExt::uid(&found)).ok()
    };
    assert_eq!((uid_of(&device), uid_of(&qemu)), (Some(UID), Some(UID)));
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(device).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let end = timeout(PATIENCE, guest.machine.ended()).await.expect("the machine ends");
    assert!(matches!(end, VmEnd::DeviceLost { .. }), "{end}");
    assert!(!children().contains(&qemu));
}

/// The variable that makes the next test be the shim that is killed.
const BE_SHIM: &str = "COFFER_TEST_BE_SHIM";

#[tokio::test]
async fn a_shim_that_is_killed_takes_its_machine_with_it() {
    let Some(ground) = ground() else { return };
    if std::env::var_os(BE_SHIM).is_some() {
        let guest = boot_with(ground, Vec::new()).await;
        println!("\nMACHINE {}", children().iter().map(i32::to_string).collect::<Vec<_>>().join(" "));
        panic!("it was to be killed, but: {}", guest.machine.ended().await);
    }
    let name = format!("{}::a_shim_that_is_killed_takes_its_machine_with_it", module_path!());
    let left = tempfile::tempdir().unwrap();
    let mut shim = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", name.split_once("::").unwrap().1])
        .env(BE_SHIM, "1")
        .env("TMPDIR", left.path())
        .env("COFFER_VMM", &ground.vmm)
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(shim.stdout.take().unwrap()).lines();
    let pids = loop {
        let line = timeout(PATIENCE, lines.next_line()).await.expect("the machine").unwrap().expect("a line");
        if let Some(pids) = line.strip_prefix("MACHINE ") {
            break pids
                .split(' ')
                .map(|pid| rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap())
                .collect::<Vec<_>>();
        }
    };
    assert_eq!(pids.len(), 2);
    let held: Vec<_> = pids
        .iter()
        .map(|pid| rustix::process::pidfd_open(*pid, rustix::process::PidfdFlags::empty()).unwrap())
        .collect();
    shim.start_kill().unwrap();
    for process in &held {
        let mut gone = [rustix::event::PollFd::new(process, rustix::event::PollFlags::IN)];
        let patience = rustix::event::Timespec { tv_sec: 30, tv_nsec: 0 };
        assert_eq!(
            rustix::event::poll(&mut gone, Some(&patience)).unwrap(),
            1,
            "a process outlives its shim"
        );
    }
}

#[tokio::test]
async fn a_kernel_that_is_none_is_reported_with_what_qemu_said() {
    let Some(ground) = ground() else { return };
    let run_dir = run_dir();
    let kernel = run_dir.path().join("kernel");
    fs::write(&kernel, "no kernel").unwrap();
    let outcome = boot(VmSpec { kernel, ..spec(ground, run_dir.path()) }, ground).await;
    let Err(BootError::Ended { end, .. }) = outcome else { panic!("it must not boot") };
    assert!(matches!(&end, VmEnd::Failed { message, .. } if message.contains("kernel")), "{end}");
}

#[tokio::test]
async fn a_missing_qemu_names_the_package() {
    let choice =
        choose(HypervisorChoice::Qemu, Path::new("/nonexistent/qemu"), Path::new("/nonexistent/coffer-vmm"));
    let run_dir = run_dir();
    let spec = VmSpec { kernel: "/k".into(), initrd: "/i".into(), ..plain_spec(run_dir.path()) };
    let error = choice.hypervisor.boot(spec).await.err().expect("refused").to_string();
    assert!(error.contains("qemu-system-x86"), "{error}");
}

fn plain_spec(run_dir: &Path) -> VmSpec {
    VmSpec {
        id: "test".to_owned(),
        kernel: PathBuf::new(),
        initrd: PathBuf::new(),
        cmdline: String::new(),
        vcpus: 1,
        memory_mib: 192,
        disks: Vec::new(),
        nics: Vec::new(),
        limits: Limits::default(),
        run_dir: run_dir.to_owned(),
        uid: UID,
        cgroup_procs: Vec::new(),
    }
}

#[tokio::test]
async fn a_machine_on_qemu_is_refused_rather_than_not_limited() {
    let run_dir = run_dir();
    let choice = choose(HypervisorChoice::Qemu, Path::new("qemu-system-x86_64"), Path::new("/nonexistent"));
    let once = Rate { per_second: NonZeroU64::MIN, burst: NonZeroU64::MIN };
    let disks = Limit { bytes: Some(once), operations: None };
    let limits = Limits { disks, nics: Limit::default() };
    let refused = choice.hypervisor.boot(VmSpec { limits, ..plain_spec(run_dir.path()) }).await;
    assert!(matches!(refused, Err(BootError::Spec { what: "limits", .. })));
}

#[tokio::test]
async fn a_machine_for_root_is_refused() {
    let run_dir = run_dir();
    let choice = choose(HypervisorChoice::Auto, Path::new("qemu-system-x86_64"), Path::new("/nonexistent"));
    let refused = choice.hypervisor.boot(VmSpec { uid: 0, ..plain_spec(run_dir.path()) }).await;
    assert!(matches!(refused, Err(BootError::Spec { what: "user id", .. })));
}
