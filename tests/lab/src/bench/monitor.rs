//! How a monitor is started.

use std::fs::{self, File};
use std::io::PipeReader;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use super::exchange::VSOCK_PORT;
use crate::guest::{Launched, Wanted, launch};
use crate::wire::tap;

/// The tap that monitors open by its name.
pub(super) const TAP: &str = "bench0";

/// What makes the guest's own start the same for every monitor: the guest image's words, but for those on devices.
const CMDLINE: &str = "console=ttyS0 quiet loglevel=1 panic=-1 reboot=t cgroup_no_v1=all tsc=reliable no_timer_check \
     noreplace-smp rcupdate.rcu_expedited=1 rcupdate.rcu_normal_after_boot=1 initcall_blacklist=calibrate_xor_blocks,slab_late_init";

/// What our own guests are told besides.
const OURS: &str = "acpi=off pci=off";

/// What is to be booted.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) kernel: &'static str,
    pub(super) initrd: &'static str,
    /// What the guest is told besides, with a space before it.
    pub(super) words: &'static str,
    pub(super) devices: Option<Devices>,
    pub(super) memory_mib: u32,
}

/// A pod's devices: a disk, vsock, and an interface.
#[derive(Debug, Clone, Copy)]
pub(super) struct Devices {
    /// The disk's file.
    pub(super) disk: &'static str,
    /// Options of ours that take it.
    pub(super) ours: &'static [&'static str],
    /// The tap of ours; the others' is [`TAP`].
    pub(super) tap: &'static str,
}

/// One that was started.
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) console: PipeReader,
    pub(super) at: Instant,
    own: Own,
    /// What is removed at its end.
    pub(super) dir: PathBuf,
}

/// What must not be closed before its end.
enum Own {
    Ours(Launched),
    Described(UnixListener),
}

impl Started {
    /// Where the guest's connections to [`VSOCK_PORT`] arrive, with monitors whose vsock ends in Unix sockets.
    pub(super) fn vsock(&self) -> BorrowedFd<'_> {
        match &self.own {
            Own::Ours(launched) => launched.ready.as_fd(),
            Own::Described(listener) => listener.as_fd(),
        }
    }
}

/// A monitor.
pub(super) enum Monitor {
    /// coffer-vmm.
    Ours,
    /// One that a line describes: its program and arguments, with places for what differs.
    Described { name: String, line: String, config: String },
}

/// Ours, and every one that `/bench` describes.
pub(super) fn all() -> Result<Vec<Monitor>> {
    let mut monitors = vec![Monitor::Ours];
    let mut paths: Vec<PathBuf> = fs::read_dir("/bench")?.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|end| end == "line")) {
        let name = path.file_stem().context("a monitor without a name")?.to_string_lossy().into_owned();
        let config = fs::read_to_string(path.with_extension("config")).unwrap_or_default();
        monitors.push(Monitor::Described { name, line: fs::read_to_string(path)?, config });
    }
    Ok(monitors)
}

impl Monitor {
    pub(super) fn name(&self) -> &str {
        match self {
            Monitor::Ours => "coffer-vmm",
            Monitor::Described { name, .. } => name,
        }
    }

    /// Starts it; the guest runs as soon as it can.
    pub(super) fn start(&self, task: &Task) -> Result<Started> {
        match self {
            Monitor::Ours => ours(task),
            Monitor::Described { name, line, config } => described(name, line, config, task),
        }
    }
}

fn ours(task: &Task) -> Result<Started> {
    let mut more: Vec<(String, OwnedFd)> = Vec::new();
    if let Some(Devices { disk, ours, tap: name }) = task.devices {
        for option in ours {
            more.push(((*option).to_owned(), File::open(disk)?.into()));
        }
        more.push(("--nic 02:00:00:00:00:0a,1500,".to_owned(), tap(name)?));
    }
    let cmdline = format!("{CMDLINE} {OURS}{}", task.words);
    let wanted = Wanted {
        kernel: Path::new(task.kernel),
        initrd: Some(Path::new(task.initrd)),
        cmdline: &cmdline,
        cpus: 1,
        memory_mib: task.memory_mib,
        plain: &[],
        more,
    };
    let (console, output) = std::io::pipe()?;
    let (launched, child) = launch(wanted, output.into())?;
    // It is read when the monitor gets to it.
    launched.tell("start")?;
    let (at, dir) = (launched.started, launched.dir.clone());
    Ok(Started { child, console, at, own: Own::Ours(launched), dir })
}

fn described(name: &str, line: &str, config: &str, task: &Task) -> Result<Started> {
    let dir = PathBuf::from(format!("/run/{name}"));
    fs::create_dir_all(&dir)?;
    let directory = dir.to_string_lossy().into_owned();
    let written = dir.join("config");
    let memory = task.memory_mib.to_string();
    let cmdline = format!("{CMDLINE}{}", task.words);
    let listener = UnixListener::bind(dir.join(format!("vsock_{VSOCK_PORT}")))?;
    let values = [
        ("{kernel}", task.kernel),
        ("{initrd}", task.initrd),
        ("{cmdline}", cmdline.as_str()),
        ("{mib}", memory.as_str()),
        ("{disk}", task.devices.map_or("", |devices| devices.disk)),
        ("{tap}", TAP),
        ("{dir}", directory.as_str()),
        ("{config}", &written.to_string_lossy()),
    ];
    let fill =
        |text: &str| values.iter().fold(text.to_owned(), |text, (place, value)| text.replace(place, value));
    fs::write(&written, fill(&with_devices(config, task.devices.is_some())))?;
    let line = with_devices(line, task.devices.is_some());
    // Words first, so that the kernel's command line stays one.
    let mut words = line.split_whitespace().map(fill);
    let program = words.next().context("an empty description")?;
    let (console, output) = std::io::pipe()?;
    let mut command = Command::new(&program);
    command.args(words).current_dir(&dir).stdin(Stdio::null()).stderr(output.try_clone()?).stdout(output);
    let at = Instant::now();
    let child = command.spawn().with_context(|| program)?;
    Ok(Started { child, console, at, own: Own::Described(listener), dir })
}

/// What is between `<pod>` and `</pod>` is for guests with devices only.
fn with_devices(text: &str, devices: bool) -> String {
    let mut whole = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("<pod>") {
        whole.push_str(before);
        let (inside, behind) = after.split_once("</pod>").unwrap_or((after, ""));
        whole.push_str(if devices { inside } else { "" });
        rest = behind;
    }
    whole + rest
}
