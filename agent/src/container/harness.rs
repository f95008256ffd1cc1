#![allow(unsafe_code)] // A function that runs before main, so that the test binary can be a helper process.
//! For tests with real containers: a root file system out of this machine's `/usr`, a runtime, and shorthands.
//!
//! The tests need root and a cgroup v2 hierarchy; controllers it may lack. Each test has a runtime on its own thread,
//! and so its own reaper.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

/// A scenario that needs a process of its own: its name is the first argument.
pub(super) const SCENARIOS: &[(&str, fn())] = &[
    ("orphans-scenario", super::reaper_tests::orphans_scenario),
    ("leaks-scenario", super::reaper_tests::leaks_scenario),
];

#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

/// libtest knows nothing of helper processes and has threads; before main there is one.
extern "C" fn before_main() {
    run_if_child();
    let first = std::env::args().nth(1);
    if let Some((_, scenario)) = SCENARIOS.iter().find(|(name, _)| Some(*name) == first.as_deref()) {
        scenario();
        std::process::exit(0);
    }
}

/// Says that the running test looks at nothing on this machine, past the test runner, which shows nothing of a test that passes.
pub(super) fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {reason}");
}

/// Whether a process may make a user namespace here; in a chroot it may not.
pub(super) fn has_user_namespaces() -> bool {
    let tried = std::process::Command::new("unshare").args(["--user", "true"]).output();
    let has = tried.is_ok_and(|output| output.status.success());
    if !has {
        skip("no user namespace can be made here");
    }
    has
}

/// A runtime with its own corner of the hierarchy, and a root file system.
pub(super) struct Guest {
    pub(super) runtime: Runtime,
    pub(super) rootfs: TempDir,
    pub(super) cgroup: PathBuf,
}

static COUNTER: AtomicU32 = AtomicU32::new(0);

impl Guest {
    pub(super) fn new() -> Guest {
        let unified = Path::new("/sys/fs/cgroup/unified");
        let cgroup_root = if unified.exists() { unified } else { Path::new("/sys/fs/cgroup") };
        let parent =
            format!("coffer-test-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let cgroup = cgroup_root.join(&parent);
        let config = RuntimeConfig { cgroup_root: cgroup_root.to_owned(), parent };
        let mut runtime = Runtime::new(config).expect("these tests need root and cgroup v2");
        // Where the machine lets nobody load a program the rest can still be tested.
        runtime.ground.enforce_devices = super::device_filter::can_load();
        Guest { runtime, rootfs: rootfs(), cgroup }
    }

    /// Whether this machine's hierarchy has a controller; without it a test has nothing to look at.
    pub(super) fn has(&self, controller: &str) -> bool {
        let list = fs::read_to_string(self.cgroup.join("cgroup.controllers")).unwrap();
        let has = list.split_whitespace().any(|name| name == controller);
        if !has {
            skip(&format!("the {controller} controller is not in cgroup v2 here"));
        }
        has
    }

    pub(super) fn root(&self) -> &Path {
        self.rootfs.path()
    }

    pub(super) async fn create(&self, id: &str, spec: &Value) -> Result<Container, ContainerError> {
        self.create_with(id, spec, PIPES).await
    }

    pub(super) async fn create_with(
        &self,
        id: &str,
        spec: &Value,
        stdio: StdioRequest,
    ) -> Result<Container, ContainerError> {
        let spec = ContainerSpec::parse(spec.to_string().as_bytes()).unwrap();
        let rootfs = self.root().to_owned();
        let params = CreateParams { id: id.to_owned(), spec, rootfs, pid_namespace: None, stdio };
        self.runtime.create(params).await
    }

    /// Runs a shell script to its end in a container and returns its exit status, output and errors.
    pub(super) async fn run(&self, spec: &Value) -> (u32, String) {
        let container = self.create("c", spec).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        let (status, output) = finish(&container.init()).await;
        container.delete().await.unwrap();
        (status, output)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let leftovers: Vec<_> =
            fs::read_dir(&self.cgroup).unwrap().flatten().filter(|entry| entry.path().is_dir()).collect();
        let _ = fs::remove_dir(&self.cgroup);
        if !std::thread::panicking() {
            assert!(leftovers.is_empty(), "cgroups left behind: {leftovers:?}");
        }
    }
}

pub(super) const PIPES: StdioRequest =
    StdioRequest { stdin: false, stdout: true, stderr: true, terminal: None };

/// Starts a process and collects what it writes until it and its descriptors are gone.
pub(super) async fn finish(process: &Process) -> (u32, String) {
    let stdio = process.take_stdio();
    process.start().await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    let reading = tokio::task::spawn_blocking(move || match stdio {
        Some(Stdio::Pipes { stdout, stderr, .. }) => {
            stdout.into_iter().chain(stderr).map(read_all).collect::<String>()
        }
        Some(Stdio::Terminal(master)) => read_all(master),
        None => String::new(),
    });
    let exit = process.wait().await;
    (exit.status, reading.await.unwrap())
}

pub(super) fn read_all(fd: OwnedFd) -> String {
    rustix::io::ioctl_fionbio(&fd, false).unwrap();
    let mut bytes = Vec::new();
    // A terminal ends with EIO.
    let _ = fs::File::from(fd).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An error with its sources.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What containerd gives an ordinary container, shortened, for a shell script.
pub(super) fn spec(script: &str) -> Value {
    json!({
        "ociVersion": "1.1.0",
        "root": { "path": "rootfs" },
        "process": process(script),
        "hostname": "box",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
              "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs",
              "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
              "options": ["ro", "nosuid", "noexec", "nodev"] },
            { "destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"] },
        ],
        "linux": {
            "namespaces": [
                { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "cgroup" },
                { "type": "network" },
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware", "/no/such/path"],
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// The `process` object for a shell script.
pub(super) fn process(script: &str) -> Value {
    let usual = ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"];
    json!({
        "args": ["sh", "-c", script],
        "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
        "cwd": "/",
        "user": { "uid": 0, "gid": 0 },
        "noNewPrivileges": true,
        "capabilities": { "bounding": usual, "effective": usual, "permitted": usual },
    })
}

/// The parsed `process` object for a shell script.
pub(super) fn exec_spec(script: &str) -> ProcessSpec {
    ProcessSpec::parse(process(script).to_string().as_bytes()).unwrap()
}

fn rootfs() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for directory in ["usr", "etc", "tmp"] {
        fs::create_dir(root.path().join(directory)).unwrap();
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{name}"), root.path().join(name)).unwrap();
    }
    fs::write(root.path().join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:\n")
        .unwrap();
    root
}
