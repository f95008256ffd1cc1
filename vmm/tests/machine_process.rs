//! A whole machine as the process that it is in a pod, on this machine's `/dev/kvm`, with guests of a few instructions.

mod attack;

use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

/// Where the guests' code lies.
const ENTRY: u32 = 0x10_0000;

/// An uncompressed kernel for PVH that is nothing but `code`.
fn kernel(code: &[u8]) -> File {
    let word = |number: u32| number.to_le_bytes();
    let long = |number: u64| number.to_le_bytes();
    let note = [&word(4)[..], &word(4), &word(18), b"Xen\0", &word(ENTRY)].concat();
    let size = u64::try_from(code.len()).unwrap();
    let header = |kind: u32, offset: u64, address: u64, size: u64| {
        [
            &word(kind)[..],
            &word(5),
            &long(offset),
            &long(address),
            &long(address),
            &long(size),
            &long(size),
            &long(4096),
        ]
        .concat()
    };
    let mut file = [&b"\x7fELF\x02\x01\x01"[..], &[0; 9], &[2, 0, 62, 0, 1, 0, 0, 0]].concat();
    file.extend([long(u64::from(ENTRY)), long(64), long(0)].concat());
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    file.extend(header(1, 0x1000, u64::from(ENTRY), size));
    file.extend(header(4, 0x200, 0, u64::try_from(note.len()).unwrap()));
    file.resize(0x200, 0);
    file.extend(note);
    file.resize(0x1000, 0);
    file.extend(code);
    let mut made = tempfile::tempfile().unwrap();
    made.write_all(&file).unwrap();
    made
}

/// Code that writes `text` to the serial port.
fn say(text: &[u8]) -> Vec<u8> {
    // mov dx, 0x3f8, then per byte: mov al, byte; out dx, al
    let bytes = text.iter().flat_map(|byte| [0xb0, *byte, 0xee]);
    [0x66, 0xba, 0xf8, 0x03].into_iter().chain(bytes).collect()
}

/// Code that resets by the keyboard controller: mov al, 0xfe; out 0x64, al; and a loop.
const RESET: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe];

/// The user that machines run as.
const USER: u32 = 65_534;

/// Code that does nothing for ever.
const FOREVER: &[u8] = &[0xeb, 0xfe];

struct Machine {
    process: Child,
    control: OwnedFd,
    console: std::io::PipeReader,
    _dir: tempfile::TempDir,
}

/// Descriptors that are passed are not closed at exec, and another test's child would get them too.
static STARTING: std::sync::Mutex<()> = std::sync::Mutex::new(());

impl Machine {
    /// Starts a machine whose processors are held, or says why the test is skipped.
    fn start(test: &str, code: &[u8], more: &[&str]) -> Option<Machine> {
        Machine::start_with(test, code, more, Vec::new())
    }

    /// The same, with further descriptors: each behind what its option says before it.
    fn start_with(
        test: &str,
        code: &[u8],
        more: &[&str],
        files: Vec<(&str, &str, OwnedFd)>,
    ) -> Option<Machine> {
        if !rustix::process::geteuid().is_root() {
            let _ = writeln!(std::io::stderr(), "skipped: {test}: a machine is locked in by root");
            return None;
        }
        let kvm = match File::options().read(true).write(true).open("/dev/kvm") {
            Ok(kvm) => kvm,
            Err(error) => {
                // Past the test runner, which shows nothing of a test that passes.
                let _ = writeln!(std::io::stderr(), "skipped: {test}: /dev/kvm: {error}");
                return None;
            }
        };
        let _one = STARTING.lock().unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let ((control, theirs), (console, output)) = (pair.unwrap(), std::io::pipe().unwrap());
        let passed: [(&str, OwnedFd); 4] = [
            ("--kvm-fd", kvm.into()),
            ("--kernel-fd", kernel(code).into()),
            ("--console-fd", output.into()),
            ("--control-fd", theirs),
        ];
        let mut command = Command::new(env!("CARGO_BIN_EXE_coffer-vmm"));
        command.arg("run").current_dir(dir.path()).stdin(Stdio::null()).stderr(Stdio::piped());
        for (name, fd) in &passed {
            fcntl_setfd(fd, FdFlags::empty()).unwrap();
            command.args([*name, &fd.as_raw_fd().to_string()]);
        }
        for (name, before, fd) in &files {
            fcntl_setfd(fd, FdFlags::empty()).unwrap();
            command.args([*name, &format!("{before}{}", fd.as_raw_fd())]);
        }
        command.args(["--cmdline", "none", "--memory-mib", "16", "--uid", &USER.to_string()]);
        command.args(["--parent", &std::process::id().to_string()]).args(more);
        if !more.contains(&"--vcpus") {
            command.args(["--vcpus", "1"]);
        }
        let process = command.spawn().unwrap();
        Some(Machine { process, control, console, _dir: dir })
    }

    fn tell(&self, request: &str) {
        send(&self.control, request.as_bytes(), SendFlags::NOSIGNAL).unwrap();
    }

    /// The monitor's next packet. The limit is for a monitor that hangs: a machine that has much else to do may be slow.
    fn answer(&self) -> String {
        let limit = Timespec::try_from(Duration::from_secs(120)).unwrap();
        let mut watched = [PollFd::from_borrowed_fd(self.control.as_fd(), PollFlags::IN)];
        assert_eq!(poll(&mut watched, Some(&limit)), Ok(1), "no answer");
        let mut packet = [0; 512];
        let (length, _) = recv(&self.control, &mut packet[..], RecvFlags::empty()).unwrap();
        String::from_utf8(packet[..length].to_vec()).unwrap()
    }

    fn ask(&self, request: &str) -> String {
        self.tell(request);
        self.answer()
    }

    /// Waits for the process: its status, what it said on standard error, and what the guest said.
    fn end(mut self) -> (ExitStatus, String, String) {
        drop(self.control);
        let (mut said, mut console) = (String::new(), String::new());
        self.console.read_to_string(&mut console).unwrap();
        let status = self.process.wait().unwrap();
        self.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status, said, console)
    }
}

/// The machine's own process: the only child of the one that was started.
fn inner(machine: &Machine) -> i32 {
    let supervisor = machine.process.id();
    let children = format!("/proc/{supervisor}/task/{supervisor}/children");
    std::fs::read_to_string(children).unwrap().trim().parse().unwrap()
}

/// The threads of a process by their names.
fn thread(process: i32, name: &str) -> i32 {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let mut threads = tasks.map(|task| task.unwrap().path());
    let found = threads.find(|task| std::fs::read_to_string(task.join("comm")).unwrap().trim() == name);
    found.unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap()
}

#[test]
fn a_machine_is_alone_and_may_do_nothing() {
    let Some(machine) = Machine::start("a_machine_is_alone_and_may_do_nothing", FOREVER, &[]) else { return };
    // Locked in by the time that it answers.
    assert_eq!(machine.ask("start"), "ok");
    let process = inner(&machine);
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{process}/{name}")).unwrap();
    for name in ["user", "mnt", "pid", "net", "ipc", "uts"] {
        let link = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/{name}")).unwrap();
        assert_ne!(link(&process.to_string()), link("self"), "{name}");
    }
    let status = read("status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(field("Uid:"), "65534 65534 65534 65534");
    assert_eq!(field("Groups:"), "");
    for capabilities in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(capabilities), "0000000000000000", "{capabilities}");
    }
    assert_eq!((field("NoNewPrivs:").as_str(), field("Seccomp:").as_str()), ("1", "2"));
    assert!(field("NSpid:").ends_with(" 1"), "{}", field("NSpid:"));
    assert_eq!((read("uid_map").as_str(), read("gid_map").as_str()), ("", ""));
    let mounts = read("mountinfo");
    let [root] = mounts.lines().collect::<Vec<_>>()[..] else { panic!("more than one mount: {mounts}") };
    assert!(root.contains(" / ro,nosuid,nodev,noexec"), "{root}");
    assert_eq!(machine.ask("stop"), "ok");
    assert!(machine.end().0.success());
}

#[test]
fn a_system_call_outside_the_list_ends_the_machine_and_is_named() {
    let name = "a_system_call_outside_the_list_ends_the_machine_and_is_named";
    for wanted in ["coffer-vmm", "cpu0"] {
        let Some(machine) = Machine::start(name, FOREVER, &[]) else { return };
        assert_eq!(machine.ask("start"), "ok");
        let thread = Pid::from_raw(thread(inner(&machine), wanted));
        ptrace::attach(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        let mut registers = ptrace::getregs(thread).unwrap();
        // It waits in a system call, whose two bytes are made anew: openat, and no restart of the one before.
        registers.rip -= 2;
        registers.rax = 257;
        registers.orig_rax = u64::MAX;
        ptrace::setregs(thread, registers).unwrap();
        ptrace::detach(thread, None).unwrap();
        let (status, said, _) = machine.end();
        assert_eq!(status.signal(), Some(31), "{status} {said}");
        assert_eq!(said, "coffer-vmm: system call 257 is not one that this thread may make\n");
    }
}

#[test]
fn a_machine_whose_supervisor_is_killed_dies() {
    let Some(mut machine) = Machine::start("a_machine_whose_supervisor_is_killed_dies", FOREVER, &[]) else {
        return;
    };
    assert_eq!(machine.ask("start"), "ok");
    machine.process.kill().unwrap();
    // Held open by the machine's own process as long as it lives.
    let mut console = Vec::new();
    machine.console.read_to_end(&mut console).unwrap();
}

#[test]
fn a_guest_speaks_and_resets_itself() {
    let code = [&say(b"hello\n")[..], RESET].concat();
    let Some(machine) = Machine::start("a_guest_speaks_and_resets_itself", &code, &[]) else { return };
    assert_eq!(machine.ask("start"), "ok");
    assert_eq!(machine.answer(), "ended reset: the guest reset itself");
    let (status, said, console) = machine.end();
    assert!(status.success(), "{status} {said}");
    assert_eq!((said.as_str(), console.as_str()), ("", "hello\n"));
}

#[test]
fn a_guest_does_not_run_before_it_is_started() {
    let code = [&say(b"early\n")[..], RESET].concat();
    let Some(machine) = Machine::start("a_guest_does_not_run_before_it_is_started", &code, &[]) else {
        return;
    };
    assert!(machine.ask("counters").starts_with("ok port_exits=0 "));
    assert_eq!(machine.ask("stop"), "ok");
    assert_eq!(machine.end().2, "");
}

#[test]
fn a_console_that_nobody_reads_does_not_stop_the_guest() {
    // mov ecx, 10000; out dx, al; dec ecx; jnz back: more than the pipe holds
    let flood = [0xb9, 0x10, 0x27, 0, 0, 0xee, 0x49, 0x75, 0xfc];
    let code = [&say(b"x")[..], &flood, RESET].concat();
    let name = "a_console_that_nobody_reads_does_not_stop_the_guest";
    let Some(machine) = Machine::start(name, &code, &[]) else { return };
    assert_eq!(rustix::pipe::fcntl_setpipe_size(&machine.console, 4096), Ok(4096));
    assert_eq!(machine.ask("start"), "ok");
    assert_eq!(machine.answer(), "ended reset: the guest reset itself");
    assert!(machine.end().0.success());
}

#[test]
fn a_panic_is_told_from_a_reset() {
    let code = [&say(b"Kernel panic - not syncing: test\n")[..], RESET].concat();
    let Some(machine) = Machine::start("a_panic_is_told_from_a_reset", &code, &[]) else { return };
    assert_eq!(machine.ask("start"), "ok");
    assert_eq!(machine.answer(), "ended panic: the guest's kernel panicked");
    assert!(!machine.end().0.success());
}

#[test]
fn a_triple_fault_is_told_from_a_reset() {
    let Some(machine) = Machine::start("a_triple_fault_is_told_from_a_reset", &[0x0f, 0x0b], &[]) else {
        return;
    };
    assert_eq!(machine.ask("start"), "ok");
    assert!(machine.answer().starts_with("ended triple-fault: processor 0 "));
    let (status, said, _) = machine.end();
    assert!(!status.success());
    assert!(said.contains("triple fault at 0x100000"), "{said}");
}

#[test]
fn a_paused_guest_makes_no_exits() {
    // in al, 0x40; jmp back: an exit per round
    let code = [0xe4, 0x99, 0xeb, 0xfc];
    let Some(machine) = Machine::start("a_paused_guest_makes_no_exits", &code, &[]) else { return };
    assert_eq!(machine.ask("start"), "ok");
    assert_eq!(machine.ask("pause"), "ok");
    let paused = machine.ask("counters");
    assert_eq!(machine.ask("counters"), paused);
    assert_eq!(machine.ask("resume"), "ok");
    while machine.ask("counters") == paused {
        std::thread::yield_now();
    }
    assert_eq!(machine.ask("stop"), "ok");
    assert_eq!(machine.answer(), "ended stopped: the machine was stopped");
    assert!(machine.end().0.success());
}

#[test]
fn a_machine_of_many_processors_pauses_and_stops() {
    let more = ["--vcpus", "8"];
    let Some(machine) = Machine::start("a_machine_of_many_processors_pauses_and_stops", FOREVER, &more)
    else {
        return;
    };
    assert_eq!(machine.ask("start"), "ok");
    assert_eq!(machine.ask("pause"), "ok");
    assert_eq!(machine.ask("resume"), "ok");
    assert_eq!(machine.ask("stop"), "ok");
    assert!(machine.end().0.success());
}

#[test]
fn a_machine_ends_when_its_shim_is_gone() {
    let Some(machine) = Machine::start("a_machine_ends_when_its_shim_is_gone", FOREVER, &[]) else { return };
    assert_eq!(machine.ask("start"), "ok");
    // The end closes the control socket first.
    assert!(machine.end().0.success());
}

#[test]
fn a_request_that_is_not_understood_changes_nothing() {
    let Some(machine) = Machine::start("a_request_that_is_not_understood_changes_nothing", FOREVER, &[])
    else {
        return;
    };
    assert_eq!(machine.ask("fly"), "error: not understood");
    assert_eq!(machine.ask("start"), "ok");
    assert_eq!(machine.ask("stop"), "ok");
    assert!(machine.end().0.success());
}

#[test]
fn a_machine_with_an_unknown_option_does_not_start() {
    let more = ["--colour", "red"];
    let Some(machine) = Machine::start("a_machine_with_an_unknown_option_does_not_start", FOREVER, &more)
    else {
        return;
    };
    let (status, said, _) = machine.end();
    assert!(!status.success());
    assert!(said.contains("--colour is not known here"), "{said}");
}

#[test]
fn a_machine_of_no_processors_does_not_start() {
    let more = ["--vcpus", "0"];
    let Some(machine) = Machine::start("a_machine_of_no_processors_does_not_start", FOREVER, &more) else {
        return;
    };
    let (status, said, _) = machine.end();
    assert!(!status.success());
    assert!(said.contains("cannot have 0 processors"), "{said}");
}

#[test]
fn a_guest_that_attacks_its_devices_stops_them_and_not_the_monitor() {
    let name = "a_guest_that_attacks_its_devices_stops_them_and_not_the_monitor";
    let (disk, sockets) = (tempfile::tempfile().unwrap(), tempfile::tempdir().unwrap());
    disk.set_len(1 << 20).unwrap();
    let listener = UnixListener::bind(sockets.path().join("vsock")).unwrap();
    // The controller of disks, virtio-blk, vsock, and random numbers or what is there instead of them, by their queues.
    let code = attack::guest(&[3, 1, 3, 1], 20);
    let files = vec![
        ("--disk", "a,rw,", disk.try_clone().unwrap().into()),
        ("--block", "b,rw,", disk.into()),
        ("--vsock-fd", "", listener.into()),
    ];
    let more = ["--guest-cid", "3", "--dial", "vsock"];
    let Some(mut machine) = Machine::start_with(name, &code, &more, files) else { return };
    assert_eq!(machine.ask("start"), "ok");
    let mut console = Vec::new();
    let mut byte = [0];
    while !console.ends_with(b"done\n") {
        if machine.console.read(&mut byte).unwrap() == 0 {
            let told = machine.answer();
            panic!("the machine ended: {told}; {:?}", machine.end());
        }
        console.push(byte[0]);
    }
    let counters = machine.ask("counters");
    let count = |name: &str| -> u64 {
        let (_, rest) = counters.split_once(&format!(" {name}=")).unwrap();
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    println!("{counters}");
    assert!(count("malformed") > 0 && count("faults") > 0, "nothing was attacked: {counters}");
    assert_eq!(machine.ask("stop"), "ok");
    assert!(machine.end().0.success());
}
