//! Guests of our own image: as it is, and one that does what it is asked over vsock.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::guest::{Guest, Wanted};

/// How long a guest may take: emulated twice over, nothing is fast.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

const CMDLINE: &str = "console=ttyS0 loglevel=4 reboot=t panic=-1 acpi=off pci=off cgroup_no_v1=all tsc=reliable \
     no_timer_check rdinit=/init";

/// Our guest image with this kernel.
pub(crate) fn image(kernel: &str) -> Wanted<'static> {
    let kernel = if kernel == "bzImage" { "/coffer/bzImage" } else { "/coffer/vmlinux" };
    Wanted {
        kernel: Path::new(kernel),
        initrd: Some(Path::new("/coffer/initrd.img")),
        cmdline: CMDLINE,
        cpus: 1,
        memory_mib: 256,
        plain: &[],
        more: Vec::new(),
    }
}

/// A guest that does what it is asked over vsock.
pub(crate) struct Obedient {
    pub(crate) machine: Guest,
    pub(crate) lines: BufReader<UnixStream>,
}

/// Boots a guest that obeys, with further options of coffer-vmm's.
pub(crate) fn obedient(cpus: u8, memory_mib: u32, more: Vec<(String, OwnedFd)>) -> Result<Obedient> {
    obey(Wanted { cpus, memory_mib, more, ..image("vmlinux") })
}

/// The same, with everything else as `wanted` says.
pub(crate) fn obey(wanted: Wanted<'_>) -> Result<Obedient> {
    let cmdline = format!("{CMDLINE} lab.role=obey");
    let initrd = Path::new("/coffer/lab.img");
    let machine = Guest::boot(Wanted { initrd: Some(initrd), cmdline: &cmdline, ..wanted })?;
    let (stream, _) = machine.agent(PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(Obedient { machine, lines: BufReader::new(stream) })
}

impl Obedient {
    /// Asks the guest to do something, and gives its answer.
    pub(crate) fn obeys(&mut self, command: &str) -> Result<String> {
        writeln!(self.lines.get_mut(), "{command}")?;
        let mut line = String::new();
        if self.lines.read_line(&mut line).with_context(|| format!("no answer to {command}"))? == 0 {
            bail!("the guest is gone after {command}; console:\n{}", self.machine.console());
        }
        Ok(line.trim_end().to_owned())
    }

    /// Fails unless the guest answers so.
    pub(crate) fn says(&mut self, command: &str, expected: &str) -> Result<()> {
        let answer = self.obeys(command)?;
        ensure!(answer == expected, "{command}: expected {expected:?}, found {answer:?}");
        Ok(())
    }

    /// Stops the machine; gives what it counted. A guest that behaved is not counted as misusing anything.
    pub(crate) fn stop(self) -> Result<String> {
        let counters = self.machine.ask("counters")?;
        ensure!(
            counters.contains(" malformed=0 faults=0 "),
            "the guest behaved, and the monitor says {counters}"
        );
        self.machine.tell("stop")?;
        let (status, said, _) = self.machine.end()?;
        ensure!(status.success(), "the monitor ended with {status}: {said}");
        Ok(counters)
    }
}
