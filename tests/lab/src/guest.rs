//! One machine of coffer-vmm's, started as the shim starts it.

use std::fs::{self, File, Permissions};
use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    recv, send, sendmsg, socketpair,
};

const PROGRAM: &str = "/coffer/coffer-vmm";

/// The user that machines run as.
const USER: u32 = 4242;

/// What is booted.
pub(crate) struct Wanted<'a> {
    pub(crate) kernel: &'a Path,
    pub(crate) initrd: Option<&'a Path>,
    pub(crate) cmdline: &'a str,
    pub(crate) cpus: u8,
    pub(crate) memory_mib: u32,
    /// Further options of coffer-vmm's without a descriptor: names and values in turn.
    pub(crate) plain: &'a [&'a str],
    /// Further options of coffer-vmm's, and the descriptors that they name.
    pub(crate) more: Vec<(String, OwnedFd)>,
}

/// A monitor that was started, whose machine does not run yet.
pub(crate) struct Launched {
    control: OwnedFd,
    pub(crate) ready: UnixListener,
    pub(crate) started: Instant,
    pub(crate) dir: PathBuf,
}

impl Launched {
    /// Sends a request.
    pub(crate) fn tell(&self, request: &str) -> Result<()> {
        send(&self.control, request.as_bytes(), SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

/// Starts coffer-vmm as the shim does, with the guest's console at `console`; gives its process too, for the caller to end.
pub(crate) fn launch(wanted: Wanted<'_>, console: OwnedFd) -> Result<(Launched, Child)> {
    let dir = PathBuf::from(format!("/run/vm-{}", unique()));
    fs::create_dir_all(&dir)?;
    fs::set_permissions(&dir, Permissions::from_mode(0o711))?;
    let listener = UnixListener::bind(dir.join("vsock.sock"))?;
    let ready = UnixListener::bind(dir.join("vsock.sock_1023"))?;
    chown(dir.join("vsock.sock_1023"), Some(USER), Some(USER))?;
    let (control, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let open = |path: &Path| File::open(path).with_context(|| path.display().to_string());
    let mut passed: Vec<(String, OwnedFd)> = vec![
        ("--kvm-fd".into(), File::options().read(true).write(true).open("/dev/kvm")?.into()),
        ("--kernel-fd".into(), open(wanted.kernel)?.into()),
        ("--console-fd".into(), console),
        ("--control-fd".into(), theirs),
        ("--vsock-fd".into(), listener.into()),
    ];
    if let Some(initrd) = wanted.initrd {
        passed.push(("--initrd-fd".into(), open(initrd)?.into()));
    }
    passed.extend(wanted.more);
    let mut command = Command::new(PROGRAM);
    command.arg("run").current_dir(&dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    for (name, fd) in &passed {
        fcntl_setfd(fd, FdFlags::empty())?;
        let number = fd.as_fd().as_raw_fd().to_string();
        // `--disk serial,ro,` and the like end with the place for the number.
        match name.split_once(' ') {
            Some((name, value)) => command.args([name, &format!("{value}{number}")]),
            None => command.args([name, &number]),
        };
    }
    command.args(["--cmdline", wanted.cmdline, "--guest-cid", "3", "--dial", "vsock.sock"]);
    command.args(["--vcpus", &wanted.cpus.to_string(), "--memory-mib", &wanted.memory_mib.to_string()]);
    command.args(wanted.plain);
    command.args(["--uid", &USER.to_string(), "--parent", &std::process::id().to_string()]);
    let started = Instant::now();
    let child = command.spawn().context(PROGRAM)?;
    Ok((Launched { control, ready, started, dir }, child))
}

/// A machine.
pub(crate) struct Guest {
    child: Child,
    launched: Launched,
    console: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Guest {
    /// Starts a machine; its processors run.
    pub(crate) fn boot(wanted: Wanted<'_>) -> Result<Guest> {
        let (output, console) = std::io::pipe()?;
        let (launched, child) = launch(wanted, console.into())?;
        let console = Arc::new(Mutex::new(Vec::new()));
        let reader = Some(std::thread::spawn({
            let console = Arc::clone(&console);
            move || follow(output, &console)
        }));
        let guest = Guest { child, launched, console, reader };
        let answer = guest.ask("start")?;
        if answer != "ok" {
            bail!("the monitor does not start: {answer}");
        }
        Ok(guest)
    }

    /// Process id of the monitor: of the process that waits for the machine's.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a request.
    pub(crate) fn tell(&self, request: &str) -> Result<()> {
        self.launched.tell(request)
    }

    /// The next packet of the monitor's.
    pub(crate) fn answer(&self, limit: Duration) -> Result<String> {
        readable(self.launched.control.as_fd(), limit).context("no answer of the monitor's")?;
        let mut packet = [0; 1024];
        let (length, _) = recv(&self.launched.control, &mut packet[..], RecvFlags::empty())?;
        Ok(String::from_utf8_lossy(&packet[..length]).into_owned())
    }

    /// Sends a request with a descriptor, and gives the answer.
    pub(crate) fn ask_with(&self, request: &str, file: &File) -> Result<String> {
        let files = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&files));
        let bytes = [IoSlice::new(request.as_bytes())];
        sendmsg(&self.launched.control, &bytes, &mut ancillary, SendFlags::NOSIGNAL)?;
        self.answer(Duration::from_secs(30))
    }

    /// Asks, and gives the answer.
    pub(crate) fn ask(&self, request: &str) -> Result<String> {
        self.tell(request)?;
        self.answer(Duration::from_secs(30))
    }

    /// Waits until the agent in the guest has connected; gives the time since the start.
    pub(crate) fn agent(&self, limit: Duration) -> Result<(UnixStream, Duration)> {
        if let Err(error) = readable(self.launched.ready.as_fd(), limit) {
            bail!("the agent does not connect ({error}); console:\n{}", self.console());
        }
        let (stream, _) = self.launched.ready.accept()?;
        Ok((stream, self.launched.started.elapsed()))
    }

    /// What the console has said so far.
    pub(crate) fn console(&self) -> String {
        let bytes = self.console.lock().unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits for the monitor's own end: its status, its standard error, all of the console.
    pub(crate) fn end(mut self) -> Result<(ExitStatus, String, String)> {
        let mut said = String::new();
        if let Some(mut errors) = self.child.stderr.take() {
            errors.read_to_string(&mut said)?;
        }
        let status = self.child.wait()?;
        if let Some(reader) = self.reader.take() {
            reader.join().ok().context("the console's reader failed")?;
        }
        let console = self.console();
        fs::remove_dir_all(&self.launched.dir)?;
        Ok((status, said, console))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(mut output: impl Read, console: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(length) = output.read(&mut buffer) {
        if length == 0 {
            return;
        }
        console.lock().unwrap().extend_from_slice(&buffer[..length]);
    }
}

fn readable(fd: std::os::fd::BorrowedFd<'_>, limit: Duration) -> Result<()> {
    let limit = Timespec::try_from(limit)?;
    let mut watched = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    if poll(&mut watched, Some(&limit))? == 0 {
        bail!("nothing within {} s", limit.tv_sec);
    }
    Ok(())
}

fn unique() -> u32 {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
    COUNT.fetch_add(1, std::sync::atomic::Ordering::SeqCst)
}
