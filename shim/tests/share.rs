//! The file server as the process that it is, spoken to over its stream. It mounts, so it needs root.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;

use rustix::fs::{CWD, Mode, OFlags};

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-coffer-v2");

const VERSION: u8 = 100;
const ATTACH: u8 = 104;
const WALK: u8 = 110;
const OPEN: u8 = 12;
const READ: u8 = 116;
const MKDIR: u8 = 72;
const ERROR: u8 = 7;

/// Held while descriptors are open that a child of another test would inherit.
static SPAWN: Mutex<()> = Mutex::new(());

struct Server {
    child: Child,
    stream: UnixStream,
}

impl Server {
    fn on(path: &Path, flags: &[&str]) -> Server {
        let _alone = SPAWN.lock().unwrap();
        let root: OwnedFd = rustix::fs::openat(CWD, path, OFlags::PATH, Mode::empty()).unwrap();
        let (stream, theirs) = UnixStream::pair().unwrap();
        rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).unwrap();
        let numbers = [root.as_raw_fd().to_string(), theirs.as_raw_fd().to_string()];
        let child = Command::new(SHIM)
            .args(["share", "--root-fd", &numbers[0], "--stream-fd", &numbers[1]])
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Server { child, stream }
    }

    fn ready(path: &Path, flags: &[&str]) -> Server {
        let mut server = Server::on(path, flags);
        let mut version = 65536_u32.to_le_bytes().to_vec();
        version.extend([8, 0]);
        version.extend(b"9P2000.L");
        server.call(VERSION, &version).unwrap();
        let mut attach = 1_u32.to_le_bytes().to_vec();
        attach.extend([0xff; 4]);
        attach.extend([0; 8]);
        server.call(ATTACH, &attach).unwrap();
        server
    }

    fn call(&mut self, message: u8, body: &[u8]) -> Result<Vec<u8>, i32> {
        let mut frame = u32::try_from(body.len() + 7).unwrap().to_le_bytes().to_vec();
        frame.extend([message, 1, 0]);
        frame.extend(body);
        self.stream.write_all(&frame).unwrap();
        let mut size = [0; 4];
        self.stream.read_exact(&mut size).unwrap();
        let mut reply = vec![0; usize::try_from(u32::from_le_bytes(size)).unwrap() - 4];
        self.stream.read_exact(&mut reply).unwrap();
        match reply[0] {
            ERROR => Err(i32::from_le_bytes(reply[3..7].try_into().unwrap())),
            _ => Ok(reply[3..].to_vec()),
        }
    }

    fn walk(&mut self, fid: u32, name: &str) -> Result<Vec<u8>, i32> {
        let mut body = 1_u32.to_le_bytes().to_vec();
        body.extend(fid.to_le_bytes());
        body.extend([1, 0]);
        body.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
        body.extend(name.as_bytes());
        self.call(WALK, &body)
    }

    fn read(&mut self, fid: u32, name: &str) -> Result<Vec<u8>, i32> {
        self.walk(fid, name)?;
        let mut open = fid.to_le_bytes().to_vec();
        open.extend([0; 4]);
        self.call(OPEN, &open)?;
        let mut read = fid.to_le_bytes().to_vec();
        read.extend([0; 8]);
        read.extend(100_u32.to_le_bytes());
        self.call(READ, &read).map(|reply| reply[4..].to_vec())
    }

    fn make_directory(&mut self, name: &str) -> Result<Vec<u8>, i32> {
        let mut body = 1_u32.to_le_bytes().to_vec();
        body.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
        body.extend(name.as_bytes());
        body.extend(0o755_u32.to_le_bytes());
        body.extend([0; 4]);
        self.call(MKDIR, &body)
    }

    fn status(&self, key: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
        line.trim().to_owned()
    }

    fn mounts(&self) -> String {
        fs::read_to_string(format!("/proc/{}/mountinfo", self.child.id())).unwrap()
    }

    /// Ends the stream and waits for the process.
    fn end(self) -> (ExitStatus, String) {
        let Server { mut child, stream } = self;
        drop(stream);
        let status = child.wait().unwrap();
        let mut words = String::new();
        child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
        (status, words)
    }
}

#[test]
fn a_directory_is_served_and_the_server_leaves_with_its_stream() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "contents").unwrap();
    let mut server = Server::ready(dir.path(), &[]);
    assert_eq!(server.read(2, "f").unwrap(), b"contents");
    server.make_directory("made").unwrap();
    assert!(dir.path().join("made").is_dir());
    let (status, words) = server.end();
    assert!(status.success(), "{words}");
}

#[test]
fn the_server_sees_nothing_but_the_shared_tree_and_may_next_to_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::ready(dir.path(), &[]);
    let mounts = server.mounts();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert!(mounts.contains("nosuid,nodev,noexec") && mounts.contains("nosymfollow"), "{mounts}");
    // CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID.
    assert_eq!(server.status("CapPrm"), "000000000000001f");
    assert_eq!(server.status("CapBnd"), "000000000000001f");
    assert_eq!((server.status("NoNewPrivs"), server.status("Seccomp")), ("1".to_owned(), "2".to_owned()));
    // The root and the mount of its own descriptors; the rest are streams. Its standard ones are the test's own.
    let fds = fs::read_dir(format!("/proc/{}/fd", server.child.id())).unwrap();
    let standard = ["0", "1", "2"];
    let beyond = fds.map(Result::unwrap).filter(|fd| !standard.iter().any(|name| fd.file_name() == *name));
    let open: Vec<_> = beyond.map(|fd| fs::read_link(fd.path()).unwrap()).collect();
    let files = open.iter().filter(|path| path.is_absolute() && !path.starts_with("/dev")).count();
    assert!(files <= 2, "{open:?}");
}

#[test]
fn a_read_only_share_is_read_only_to_the_kernel_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::ready(dir.path(), &["--read-only"]);
    assert_eq!(server.make_directory("made"), Err(libc::EROFS));
    assert!(server.mounts().contains(" ro,"));
}

#[test]
fn a_single_file_is_served_under_an_empty_root() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("log"), "line").unwrap();
    fs::write(dir.path().join("secret"), "no").unwrap();
    let mut server = Server::ready(&dir.path().join("log"), &[]);
    assert_eq!(server.read(2, "file").unwrap(), b"line");
    assert_eq!(server.walk(3, "secret"), Err(libc::ENOENT));
    assert!(server.mounts().contains(" tmpfs "));
}

#[test]
fn what_is_mounted_below_is_seen_only_when_it_is_shared_too() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("below")).unwrap();
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
                .expect("this test mounts, so it needs root");
            let private =
                rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private).unwrap();
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount("none", dir.path().join("below"), "tmpfs", flags, None).unwrap();
            fs::create_dir(dir.path().join("below/inner")).unwrap();
            let lines = |flags: &[&str]| Server::ready(dir.path(), flags).mounts().lines().count();
            assert_eq!((lines(&[]), lines(&["--recursive"])), (1, 2));
        });
        run.join().unwrap();
    });
}

#[test]
fn a_link_out_of_the_tree_leads_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    symlink("/etc/passwd", dir.path().join("l")).unwrap();
    let mut server = Server::ready(dir.path(), &[]);
    assert_eq!(server.read(2, "l"), Err(libc::EPERM));
}

#[test]
fn a_broken_frame_ends_the_server_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::ready(dir.path(), &[]);
    server.stream.write_all(&[0xff; 7]).unwrap();
    let status = server.child.wait().unwrap();
    let mut words = String::new();
    server.child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    assert_eq!((status.code(), status.signal()), (Some(1), None));
    assert!(words.contains("frame of 4294967295 bytes"), "{words}");
}

#[test]
fn a_server_without_its_descriptors_says_so() {
    let output = Command::new(SHIM).args(["share", "--root-fd", "77", "--stream-fd", "78"]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("descriptor 77 is not open"));
}
