//! What is seen in the nested machine, each by name.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::guest::{Guest, Wanted};
use crate::stage;

/// Something to be seen: gives what was measured.
type Case = fn() -> Result<String>;

/// Every case, by name.
pub(crate) const ALL: &[(&str, Case)] = &[
    ("the_agent_comes_up", the_agent_comes_up),
    ("the_agent_comes_up_from_a_bzimage", the_agent_comes_up_from_a_bzimage),
];

/// How long a guest may take: emulated twice over, nothing is fast.
const PATIENCE: Duration = Duration::from_secs(120);

const CMDLINE: &str = "console=ttyS0 loglevel=4 reboot=t panic=-1 acpi=off pci=off cgroup_no_v1=all tsc=reliable \
     no_timer_check rdinit=/init";

fn image(kernel: &str) -> Wanted<'static> {
    let kernel = if kernel == "bzImage" { "/coffer/bzImage" } else { "/coffer/vmlinux" };
    Wanted {
        kernel: Path::new(kernel),
        initrd: Some(Path::new("/coffer/initrd.img")),
        cmdline: CMDLINE,
        cpus: 1,
        memory_mib: 256,
        more: Vec::new(),
    }
}

fn the_agent_comes_up() -> Result<String> {
    comes_up(image("vmlinux"))
}

fn the_agent_comes_up_from_a_bzimage() -> Result<String> {
    comes_up(image("bzImage"))
}

fn comes_up(wanted: Wanted<'_>) -> Result<String> {
    let guest = Guest::boot(wanted)?;
    let (_agent, took) = guest.agent(PATIENCE)?;
    let counters = guest.ask("counters")?;
    guest.tell("stop")?;
    let pid = guest.pid();
    let (status, said, console) = guest.end()?;
    if stage::argument("lab.console").is_some() {
        println!("{console}");
    }
    ensure!(status.success(), "the monitor {pid} ended with {status}: {said}");
    Ok(format!("agent after {} ms, {counters}", took.as_millis()))
}
