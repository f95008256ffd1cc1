//! The nested machine as a node: the root file system of the machine around it, read-only and with a layer above, in which
//! the pods' test suites run as they do outside, but with the built-in monitor on a real `/dev/kvm`.
//!
//! The file `/node` in the initrd tells what is to be done, one thing per line:
//!
//! ```text
//! show PATH             a directory of the machine around that lies in its /tmp, which is another one here
//! modules DIRECTORY     the kernel's modules, as the machine around has them
//! share TAG PATH        a directory of the machine around that can be written to
//! set NAME VALUE        for the environment of everything that is run later
//! once NAME VALUE       for the environment of the next thing that is run
//! run PROGRAM WORD…     run in this order; each is a case that passes if it exits with 0
//! ```

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitStatus, wait};

use crate::stage;

/// What is to be done, if the machine is to be a node.
const TOLD: &str = "/node";

/// Modules that make the outer root file system reachable, in the order in which they need each other.
const MODULES: &[&str] = &[
    "virtio",
    "virtio_ring",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "9pnet",
    "9pnet_virtio",
    "netfs",
    "fscache",
    "9p",
    "overlay",
];

/// Modules that a node's boot would load; others are loaded as they are needed.
const BOOT: &[&str] = &["kvm-amd", "tun", "virtio_blk", "ext4", "loop", "veth", "bridge", "erofs"];

/// The disk for what containerd keeps: the layer above the root file system takes no upper layers of its own.
const DISK: &str = "/dev/vda";
const DATA: &str = "/var/lib/coffer-test";

const SHARE: &str = "trans=virtio,version=9p2000.L,msize=1048576,cache=loose";

/// What was told, or nothing if the machine is to be no node.
pub(crate) fn told() -> Option<String> {
    fs::read_to_string(TOLD).ok()
}

/// Does it; gives how many cases passed and failed.
pub(crate) fn play(told: &str) -> Result<(u32, u32)> {
    stage::load(MODULES)?;
    if stage::argument("lab.console").is_some() {
        std::thread::spawn(crate::busy::watch);
    }
    let shown: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("show ")).collect();
    enter_root(&shown).context("cannot enter the root file system of the machine around")?;
    let (mut passed, mut failed, mut once) = (0, 0, Vec::new());
    let mut environment: Vec<(&str, &str)> =
        vec![("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/root")];
    for line in told.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            // Done before all else.
            ["show", _] => {}
            ["modules", directory] => boot(directory)?,
            ["share", tag, path] => share(tag, path)?,
            ["set", name, value] => environment.push((name, value)),
            ["once", name, value] => once.push((name, value)),
            ["run", program, ref arguments @ ..] => {
                let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy();
                println!("LAB begin {name}");
                let variables = [environment.as_slice(), &std::mem::take(&mut once)].concat();
                match run(program, arguments, &variables) {
                    Ok(()) => {
                        passed += 1;
                        println!("LAB pass {name}");
                    }
                    Err(error) => {
                        failed += 1;
                        println!("LAB fail {name} {error:#}");
                    }
                }
            }
            _ => bail!("not understood: {line:?}"),
        }
    }
    Ok((passed, failed))
}

fn enter_root(shown: &[&str]) -> Result<()> {
    for directory in ["/outer", "/above", "/root"] {
        fs::create_dir_all(directory)?;
    }
    mount(Some("outer"), "/outer", Some("9p"), MsFlags::MS_RDONLY, Some(SHARE)).context("the outer root")?;
    mount(Some("above"), "/above", Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    layered("", 0)?;
    for moved in ["/proc", "/sys", "/dev", "/run", "/tmp"] {
        let to = format!("/root{moved}");
        mount(Some(moved), to.as_str(), None::<&str>, MsFlags::MS_MOVE, None::<&str>).context(moved)?;
    }
    for (path, number) in shown.iter().zip(1..) {
        layered(path, number)?;
    }
    stage::become_root("/root")
}

/// Mounts a directory of the machine around at its own place, with a layer of its own above.
fn layered(path: &str, number: u32) -> Result<()> {
    let (lower, at, above) = (format!("/outer{path}"), format!("/root{path}"), format!("/above/{number}"));
    fs::create_dir_all(&at)?;
    fs::create_dir_all(format!("{above}/upper"))?;
    fs::create_dir_all(format!("{above}/work"))?;
    let layers = format!("lowerdir={lower},upperdir={above}/upper,workdir={above}/work");
    mount(Some("root"), at.as_str(), Some("overlay"), MsFlags::empty(), Some(layers.as_str()))
        .with_context(|| format!("the layer above {lower}"))
}

/// What a node's boot does.
fn boot(modules: &str) -> Result<()> {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    let at = format!("/usr/lib/modules/{release}");
    fs::create_dir_all(&at)?;
    mount(Some(modules), at.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>).context("the modules")?;
    let loaded = Command::new("/usr/sbin/modprobe").arg("-a").args(BOOT).status()?;
    ensure!(loaded.success(), "modprobe ended with {loaded}");
    fs::create_dir_all(DATA)?;
    mount(Some(DISK), DATA, Some("ext4"), MsFlags::empty(), None::<&str>).context("the disk")?;
    for (kind, at) in [
        ("cgroup2", "/sys/fs/cgroup"),
        ("devpts", "/dev/pts"),
        ("tmpfs", "/dev/shm"),
        ("mqueue", "/dev/mqueue"),
    ] {
        fs::create_dir_all(at)?;
        let options = (kind == "devpts").then_some("gid=5,mode=620,ptmxmode=666");
        mount(Some(kind), at, Some(kind), MsFlags::empty(), options).with_context(|| at.to_owned())?;
    }
    delegate()?;
    fs::write("/proc/sys/kernel/hostname", "nested")?;
    // Faults of guests are what costs most here, because their tables are walked by an emulator.
    fs::write("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "force")?;
    let up = Command::new("/usr/sbin/ip").args(["link", "set", "lo", "up"]).status()?;
    ensure!(up.success(), "ip ended with {up}");
    // As udev would.
    let _ = std::os::unix::fs::symlink("/proc/self/fd", "/dev/fd");
    Ok(())
}

/// Gives the cgroups below the root every controller, and leaves the root to nobody, as an init system does.
fn delegate() -> Result<()> {
    let top = Path::new("/sys/fs/cgroup");
    let here = top.join("init.scope");
    fs::create_dir(&here)?;
    fs::write(here.join("cgroup.procs"), "1").context("cannot move to a cgroup below")?;
    let controllers = fs::read_to_string(top.join("cgroup.controllers"))?;
    for controller in controllers.split_whitespace() {
        fs::write(top.join("cgroup.subtree_control"), format!("+{controller}"))
            .with_context(|| format!("cannot give the controller {controller}"))?;
    }
    Ok(())
}

fn share(tag: &str, path: &str) -> Result<()> {
    fs::create_dir_all(path)?;
    mount(Some(tag), path, Some("9p"), MsFlags::empty(), Some(SHARE)).with_context(|| path.to_owned())
}

/// Runs a program, and reaps whatever else ends meanwhile: this is the first process.
fn run(program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| program.to_owned())?;
    let id = i32::try_from(child.id())?;
    loop {
        match wait()? {
            WaitStatus::Exited(pid, 0) if pid.as_raw() == id => return Ok(()),
            WaitStatus::Exited(pid, code) if pid.as_raw() == id => bail!("exited with {code}"),
            WaitStatus::Signaled(pid, signal, _) if pid.as_raw() == id => bail!("was ended by {signal}"),
            _ => {}
        }
    }
}
