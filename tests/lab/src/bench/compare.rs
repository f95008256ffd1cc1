//! Every guest, monitor and round in turn.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::measure;
use super::monitor::{self, Devices, Monitor, Task};
use super::places::Watch;
use crate::stage;
use crate::wire::persistent_tap;

/// MiB of each guest.
const MEMORY: u32 = 256;

/// The disk of a guest that has one.
const DISK: &str = "/tmp/bench.disk";

/// An initrd whose first process says the mark and nothing else.
const MARK: &str = "/bench/mark.img";

/// What is booted: name, kernel, and whether the machine has a pod's devices.
const GUESTS: [(&str, &str, bool); 3] =
    [("tiny", "/bench/tiny", false), ("slim", "/coffer/vmlinux", false), WATCHED];

/// The one that is booted once more before all rounds, for it to be seen where it is left. That takes time and is not measured.
const WATCHED: (&str, &str, bool) = ("pod", "/coffer/vmlinux", true);

/// Rounds that count; one before them fills the page cache and does not.
const ROUNDS: u32 = 3;

/// Modules that QEMU's vsock device needs, in the order in which they need each other.
const MODULES: &[&str] =
    &["vsock", "vhost_iotlb", "vhost", "vmw_vsock_virtio_transport_common", "vhost_vsock"];

/// How long the machine is left alone between two starts, so that what a monitor leaves to the kernel is done.
const REST: Duration = Duration::from_millis(100);

/// Boots everything, and prints the figures.
pub(crate) fn run() -> Result<()> {
    prepare()?;
    let monitors = monitor::all()?;
    let (guest, kernel, devices) = WATCHED;
    for monitor in &monitors {
        let watch = Watch::begin()?;
        boot(monitor, &task(kernel, devices))?;
        for (place, count) in watch.end()? {
            println!("LAB place {guest} {} {count}x {place}", monitor.name());
        }
    }
    for round in 0..=ROUNDS {
        for (guest, kernel, devices) in GUESTS {
            for monitor in &monitors {
                let start = boot(monitor, &task(kernel, devices))
                    .with_context(|| format!("{} of {guest}", monitor.name()))?;
                println!("LAB figure {round} {guest} {} {start}", monitor.name());
                std::thread::sleep(REST);
            }
        }
    }
    Ok(())
}

fn task(kernel: &'static str, devices: bool) -> Task {
    let devices = devices.then_some(Devices { disk: DISK, ours: &["--disk layer-1,ro,"], tap: "bench1" });
    Task { kernel, initrd: MARK, words: "", devices, memory_mib: MEMORY }
}

fn boot(monitor: &Monitor, task: &Task) -> Result<measure::Figures> {
    let before = measure::Counts::read()?;
    let started = monitor.start(task)?;
    let figures = measure::measure(started, before, task)?;
    Ok(figures)
}

/// What every benchmark needs.
pub(super) fn prepare() -> Result<()> {
    stage::load(MODULES)?;
    // Huge pages come and go in the background, at times that nobody chose.
    let huge = Path::new("/sys/kernel/mm/transparent_hugepage/enabled");
    if huge.exists() {
        fs::write(huge, "never")?;
    }
    fs::write(DISK, vec![7; 8 << 20])?;
    persistent_tap(monitor::TAP)
}
