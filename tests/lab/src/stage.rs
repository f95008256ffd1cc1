//! The nested machine itself: file systems, modules, the kernel's command line, and its end.

use std::fs::{self, File};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

/// Modules that make `/dev/kvm` and taps, in the order in which they need each other.
const MODULES: &[&str] = &["irqbypass", "ccp", "kvm", "kvm-amd", "tun"];

/// Lays a mount of itself over the first root: that one has no parent, and cannot be exchanged for another, as each
/// monitor does for itself.
fn settle() -> Result<()> {
    let none = None::<&str>;
    fs::create_dir_all("/self")?;
    mount(Some("/"), "/self", none, MsFlags::MS_BIND, none)?;
    become_root("/self")
}

/// Moves the mount at `path` over the root, and goes there.
pub(crate) fn become_root(path: &str) -> Result<()> {
    let none = None::<&str>;
    nix::unistd::chdir(path)?;
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none)?;
    nix::unistd::chroot(".")?;
    nix::unistd::chdir("/")?;
    Ok(())
}

/// Mounts what the kernel tells developers, KVM's counters among it.
pub(crate) fn mount_debug() -> Result<()> {
    mount(Some("debugfs"), "/sys/kernel/debug", Some("debugfs"), MsFlags::empty(), None::<&str>)
        .context("debugfs")
}

/// Mounts what programs expect.
pub(crate) fn mount_all() -> Result<()> {
    settle().context("the root")?;
    for (kind, at) in
        [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run"), ("tmpfs", "/tmp")]
    {
        fs::create_dir_all(at)?;
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mount {at}"))?;
    }
    Ok(())
}

/// Loads the modules that guests need.
pub(crate) fn prepare() -> Result<()> {
    load(MODULES)?;
    File::open("/dev/kvm").context("/dev/kvm")?;
    mount_debug()
}

/// Loads modules of the initrd's, in this order.
pub(crate) fn load(modules: &[&str]) -> Result<()> {
    for module in modules {
        let file = File::open(format!("/modules/{module}.ko")).with_context(|| format!("module {module}"))?;
        nix::kmod::finit_module(&file, c"", nix::kmod::ModuleInitFlags::empty())
            .with_context(|| format!("module {module}"))?;
    }
    Ok(())
}

/// The value of `name=…` on the nested machine's command line.
pub(crate) fn argument(name: &str) -> Option<String> {
    let line = fs::read_to_string("/proc/cmdline").ok()?;
    line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
}

/// Ends the machine.
pub(crate) fn switch_off() -> ! {
    rustix::fs::sync();
    loop {
        // Returns only when it is refused, and then there is nothing better to try.
        let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
        std::thread::sleep(Duration::from_secs(1));
    }
}
