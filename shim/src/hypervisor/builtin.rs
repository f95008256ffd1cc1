//! The machine as one process: coffer-vmm, our own monitor, on /dev/kvm.
//!
//! ```text
//! boot: every file opened here ─▶ coffer-vmm locks itself in ─▶ "start" on the control socket
//! end:  "ended …" on the control socket, then the process's own end ─▶ everybody who waits is told
//! ```

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use coffer_node::host::Virtualization;
use coffer_protocol::GUEST_CID;
use coffer_vmm::spec::{Disk, Limits, MAX_NIC_QUEUES, Nic, Rate, VmSpec};
use tokio::sync::watch;
use tokio::time::timeout;

use super::child::{Child, Ending};
use super::console::Console;
use super::control::Control;
use super::dial::{SOCKET, SocketDir};
use super::jail::Step;
use super::process::{
    CONSOLE, GRACE, Process, check, described, gone, guest_file, joins, launch, not_up, prepare, program,
    reached, said, settle,
};
use super::{BootError, Hypervisor, Machine, MachineError, Started, Tail, VmEnd};

/// What the monitor calls its processors' threads, before a number.
const PROCESSORS: &str = "cpu";

/// Boots machines with coffer-vmm.
#[derive(Debug)]
pub(super) struct Builtin {
    vmm: PathBuf,
    virtualization: Virtualization,
}

/// A running machine.
#[derive(Debug)]
struct BuiltinMachine {
    child: Arc<Child>,
    control: Arc<Control>,
    console: Console,
    messages: Console,
    end: watch::Receiver<Option<VmEnd>>,
}

impl Builtin {
    /// A hypervisor that uses this program, as the configuration names it, on a host that offers this.
    pub(super) fn new(vmm: &Path, virtualization: Virtualization) -> Builtin {
        Builtin { vmm: vmm.to_owned(), virtualization }
    }

    /// Opens /dev/kvm where an ordinary kernel survives it.
    fn kvm(&self) -> Result<OwnedFd, BootError> {
        if self.virtualization.cpu_flag.is_none() {
            return Err(BootError::NoVirtualization);
        }
        let opened = File::options().read(true).write(true).open("/dev/kvm");
        opened.map(OwnedFd::from).map_err(|source| BootError::Kvm { source })
    }

    fn spawn(&self, spec: &VmSpec, control: OwnedFd) -> Result<(Process, Console), BootError> {
        let kvm = self.kvm()?;
        let vmm = program(&self.vmm).ok_or_else(|| BootError::DeviceMissing { path: self.vmm.clone() })?;
        let (kernel, initrd) = (guest_file("kernel", &spec.kernel)?, guest_file("initrd", &spec.initrd)?);
        let listener = SocketDir::open(&spec.run_dir)
            .and_then(|dir| dir.listen(SOCKET, rustix::process::getuid().as_raw()))
            .map_err(prepare("listen on vsock.sock in the run directory"))?;
        let (output, theirs) = io::pipe().map_err(prepare("make a pipe"))?;
        let (kept, console) = (OwnedFd::from(theirs), Console::new(CONSOLE));
        let files = [
            ("--kvm-fd", kvm.as_raw_fd()),
            ("--kernel-fd", kernel.as_raw_fd()),
            ("--initrd-fd", initrd.as_raw_fd()),
            ("--console-fd", kept.as_raw_fd()),
            ("--control-fd", control.as_raw_fd()),
            ("--vsock-fd", listener.as_raw_fd()),
        ];
        let mut steps = joins(spec)?;
        steps.push(Step::CloseOthers);
        steps.extend(files.iter().map(|(_, number)| *number).chain(blocks(spec)).map(Step::Pass));
        steps.push(Step::Unshare(libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS));
        steps.extend([Step::Settle, Step::DieWith(std::process::id())]);
        let mut command = Command::new(&vmm);
        command.arg("run").current_dir(&spec.run_dir).stdout(Stdio::null());
        for (name, number) in files {
            command.args([name, &number.to_string()]);
        }
        describe(&mut command, spec);
        let (mut process, _) = launch(command, &vmm, steps)?;
        process.followers.push(console.follow(output.into()).map_err(prepare("read the console"))?);
        Ok((process, console))
    }
}

/// The descriptors of disks and interfaces.
fn blocks(spec: &VmSpec) -> impl Iterator<Item = RawFd> {
    let taps =
        spec.nics.iter().flat_map(|nic| std::iter::once(&nic.tap).chain(&nic.more)).map(AsRawFd::as_raw_fd);
    spec.disks.iter().map(|disk| disk.file.as_raw_fd()).chain(taps)
}

/// Says what the machine is made of.
fn describe(command: &mut Command, spec: &VmSpec) {
    command.args(["--cmdline", &spec.cmdline, "--guest-cid", &GUEST_CID.to_string(), "--dial", SOCKET]);
    command.args(["--vcpus", &spec.vcpus.to_string(), "--memory-mib", &spec.memory_mib.to_string()]);
    command.args(["--uid", &spec.uid.to_string(), "--parent", &std::process::id().to_string()]);
    for Disk { serial, file, read_only } in &spec.disks {
        command.args(["--disk", &format!("{serial},{},{}", access(*read_only), file.as_raw_fd())]);
    }
    for Nic { tap, more, mac: [a, b, c, d, e, f], mtu } in &spec.nics {
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        let more: String = more.iter().map(|queue| format!("+{}", queue.as_raw_fd())).collect();
        command.args(["--nic", &format!("{mac},{mtu},{}{more}", tap.as_raw_fd())]);
    }
    let Limits { disks, nics } = &spec.limits;
    for (name, rate) in [
        ("--disk-bytes", disks.bytes),
        ("--disk-operations", disks.operations),
        ("--nic-bytes", nics.bytes),
        ("--nic-operations", nics.operations),
    ] {
        if let Some(Rate { per_second, burst }) = rate {
            command.args([name, &format!("{per_second},{burst}")]);
        }
    }
}

fn access(read_only: bool) -> &'static str {
    if read_only { "ro" } else { "rw" }
}

#[async_trait]
impl Hypervisor for Builtin {
    fn nic_queues(&self, vcpus: u8) -> usize {
        usize::from(vcpus).min(MAX_NIC_QUEUES)
    }

    async fn boot(&self, spec: VmSpec) -> Result<Started, BootError> {
        check(&spec)?;
        let (control, theirs) = Control::new().map_err(prepare("make a socket pair"))?;
        let control = Arc::new(control);
        // The process has its own by then, and closes it when it ends.
        let (process, console) = self.spawn(&spec, theirs)?;
        let messages = process.messages.clone();
        let (child, end) = supervise(process, Arc::clone(&control));
        let machine = BuiltinMachine { child, control, console, messages, end };
        match machine.control.ask("start", None).await {
            Ok(()) => {
                Ok(Started { machine: Arc::new(machine), running: Instant::now(), processors: PROCESSORS })
            }
            Err(source) => {
                let ended = timeout(GRACE, reached(&machine.end)).await.ok();
                machine.kill().await;
                Err(not_up(ended, source, Tail(machine.console_tail())))
            }
        }
    }
}

#[async_trait]
impl Machine for BuiltinMachine {
    fn pid(&self) -> u32 {
        self.child.pid()
    }

    async fn attach_disk(&self, disk: Disk) -> Result<(), MachineError> {
        let request = format!("attach {} {}", disk.serial, access(disk.read_only));
        self.control.ask(&request, Some(std::os::fd::AsFd::as_fd(&disk.file))).await
    }

    async fn detach_disk(&self, serial: &str) -> Result<(), MachineError> {
        self.control.ask(&format!("detach {serial}"), None).await
    }

    async fn kill(&self) {
        self.child.kill();
        gone(self.child.pid(), &self.end).await;
    }

    async fn ended(&self) -> VmEnd {
        reached(&self.end).await
    }

    fn console_tail(&self) -> String {
        said(&self.console, &self.messages)
    }
}

impl Drop for BuiltinMachine {
    fn drop(&mut self) {
        self.child.kill();
    }
}

/// Watches over the process in a task.
fn supervise(process: Process, control: Arc<Control>) -> (Arc<Child>, watch::Receiver<Option<VmEnd>>) {
    let (sender, end) = watch::channel(None);
    let child = Arc::new(process.child);
    let watched = Arc::clone(&child);
    let (messages, followers) = (process.messages, process.followers);
    tokio::spawn(async move {
        let ending = watched.ended().await;
        // Bounded: what the process passed on, if it did, must not hold up the news.
        let word = timeout(GRACE, control.end()).await.ok().flatten();
        settle(followers).await;
        // Nobody to tell: the machine was dropped.
        let _ = sender.send(Some(concluded(word.as_deref(), ending, &messages)));
    });
    (child, end)
}

/// The end, by the monitor's last word if there was one.
fn concluded(word: Option<&str>, ending: Ending, messages: &Console) -> VmEnd {
    match word.and_then(|word| word.split_once(": ")) {
        Some(("reset" | "stopped", _)) => VmEnd::Off,
        Some(("panic" | "triple-fault", how)) => VmEnd::Crashed { how: how.to_owned() },
        _ => described(ending, messages),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_panicked_did_not_switch_itself_off() {
        let nothing = Console::new(16);
        let end = concluded(Some("panic: the guest's kernel panicked"), Ending::Exited(1), &nothing);
        assert_eq!(end, VmEnd::Crashed { how: "the guest's kernel panicked".to_owned() });
    }

    #[test]
    fn a_guest_that_reset_itself_is_off() {
        let end = concluded(Some("reset: the guest reset itself"), Ending::Exited(0), &Console::new(16));
        assert_eq!(end, VmEnd::Off);
    }

    #[test]
    fn a_monitor_that_was_killed_says_nothing() {
        let end = concluded(None, Ending::Signalled(9), &Console::new(16));
        assert_eq!(end, VmEnd::Killed { signal: 9 });
    }

    #[tokio::test]
    async fn a_processor_without_virtualization_is_refused_whatever_kvm_says() {
        let none = Virtualization { cpu_flag: None, kvm_error: None };
        let error = Builtin::new(Path::new("/nonexistent"), none).kvm().unwrap_err();
        assert!(error.to_string().contains("neither VMX nor SVM"), "{error}");
    }
}
