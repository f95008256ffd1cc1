//! The machine as two processes: QEMU, and the vsock device that serves it over vhost-user.
//!
//! ```text
//! boot: sockets ─▶ QEMU, stopped ─▶ device ─▶ machine protocol ─▶ cont ─▶ disks, while the kernel comes up
//! end:  either process ends ─▶ the other is killed ─▶ both are reaped ─▶ everybody who waits is told
//! ```

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use coffer_node::host::Accelerator;
use coffer_protocol::GUEST_CID;
use coffer_vmm::spec::{Disk, Limits, VmSpec};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;

use super::arguments::{Files, arguments};
use super::child::{Child, Ending};
use super::console::Console;
use super::dial::{SOCKET, SocketDir};
use super::disks::Disks;
use super::jail::{Root, Step};
use super::process::{
    CONSOLE, GRACE, KILL, Process, check, described, gone, guest_file, joins, launch, not_up, prepare,
    program, quoted, reached, said, settle,
};
use super::qmp::Qmp;
use super::{BootError, Hypervisor, Machine, MachineError, Started, Tail, VmEnd};

/// Interfaces that fit beside the other devices on microvm's eight virtio-mmio transports.
const MAX_NICS: usize = 5;

/// What QEMU calls its processors' threads when it names them, before a number.
const PROCESSORS: &str = "CPU ";

/// Boots machines with QEMU.
#[derive(Debug)]
pub(super) struct Qemu {
    qemu: PathBuf,
    vmm: PathBuf,
    accelerator: Accelerator,
}

/// A running machine.
#[derive(Debug)]
struct QemuMachine {
    qemu: Arc<Child>,
    device: Arc<Child>,
    qmp: Qmp,
    disks: Disks,
    console: Console,
    messages: Console,
    end: watch::Receiver<Option<VmEnd>>,
    /// Its closing tells the device that the shim is gone.
    _control: OwnedFd,
}

impl Qemu {
    /// A hypervisor that uses these programs, as the configuration names them.
    pub(super) fn new(qemu: &Path, vmm: &Path, accelerator: Accelerator) -> Qemu {
        Qemu { qemu: qemu.to_owned(), vmm: vmm.to_owned(), accelerator }
    }

    fn programs(&self) -> Result<(PathBuf, PathBuf), BootError> {
        let qemu = program(&self.qemu).ok_or_else(|| BootError::QemuMissing { path: self.qemu.clone() })?;
        let vmm = program(&self.vmm).ok_or_else(|| BootError::DeviceMissing { path: self.vmm.clone() })?;
        Ok((qemu, vmm))
    }

    fn spawn_qemu(
        &self,
        program: &Path,
        spec: &VmSpec,
        sockets: &Sockets,
    ) -> Result<(Process, Console), BootError> {
        let (kernel, initrd) = (guest_file("kernel", &spec.kernel)?, guest_file("initrd", &spec.initrd)?);
        let kvm = (self.accelerator == Accelerator::Kvm).then_some(spec.uid);
        let root = Root { base: &spec.run_dir, program, guest: [&kernel, &initrd], kvm };
        let files = Files {
            qmp: sockets.qemu_qmp.as_raw_fd(),
            vsock: sockets.qemu_vsock.as_raw_fd(),
            taps: spec.nics.iter().map(|nic| nic.tap.as_raw_fd()).collect(),
        };
        let mut steps = joins(spec)?;
        steps.push(Step::CloseOthers);
        steps.extend(files.taps.iter().chain([&files.qmp, &files.vsock]).map(|number| Step::Pass(*number)));
        let apart = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        steps.push(Step::Unshare(apart));
        steps.extend(root.steps().map_err(prepare("put together a root directory"))?);
        steps.extend([Step::Become(spec.uid), Step::Settle, Step::DieWith(std::process::id())]);
        let mut command = Command::new(program);
        command.args(arguments(spec, self.accelerator, &files)).stdout(Stdio::piped());
        let (mut process, output) = launch(command, program, steps)?;
        let console = Console::new(CONSOLE);
        if let Some(output) = output {
            process.followers.push(console.follow(output).map_err(prepare("read the console"))?);
        }
        Ok((process, console))
    }

    fn spawn_device(&self, program: &Path, spec: &VmSpec, sockets: &Sockets) -> Result<Process, BootError> {
        let listener = SocketDir::open(&spec.run_dir)
            .and_then(|dir| dir.listen(SOCKET, rustix::process::getuid().as_raw()))
            .map_err(prepare("listen on vsock.sock in the run directory"))?;
        let passed = [
            ("--socket-fd", sockets.device_vsock.as_raw_fd()),
            ("--listen-fd", listener.as_raw_fd()),
            ("--control-fd", sockets.device_control.as_raw_fd()),
        ];
        let mut steps = joins(spec)?;
        steps.push(Step::CloseOthers);
        steps.extend(passed.iter().map(|(_, number)| Step::Pass(*number)));
        steps.push(Step::Unshare(libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS));
        steps.extend([Step::Settle, Step::DieWith(std::process::id())]);
        let mut command = Command::new(program);
        command.arg("vsock").current_dir(&spec.run_dir).stdout(Stdio::null());
        for (name, number) in passed {
            command.args([name, &number.to_string()]);
        }
        command.args(["--guest-cid", &GUEST_CID.to_string(), "--dial", SOCKET]);
        command.args(["--uid", &spec.uid.to_string(), "--parent", &std::process::id().to_string()]);
        launch(command, program, steps).map(|(process, _)| process)
    }
}

#[async_trait]
impl Hypervisor for Qemu {
    async fn boot(&self, spec: VmSpec) -> Result<Started, BootError> {
        check(&spec)?;
        if spec.nics.len() > MAX_NICS {
            let found = spec.nics.len().to_string();
            return Err(BootError::Spec { what: "interfaces", found, limit: "at most 5 fit" });
        }
        if spec.limits != Limits::default() {
            let found = format!("{:?}", spec.limits);
            return Err(BootError::Spec {
                what: "limits",
                found,
                limit: "only the built-in monitor keeps any",
            });
        }
        let (qemu, vmm) = self.programs()?;
        let sockets = Sockets::new().map_err(prepare("make socket pairs"))?;
        // QEMU takes longer to come up, and meets the device only at the end of that.
        let (qemu, console) = self.spawn_qemu(&qemu, &spec, &sockets)?;
        let device = self.spawn_device(&vmm, &spec, &sockets)?;
        let Sockets { qmp, control, qemu_qmp, qemu_vsock, device_vsock, device_control } = sockets;
        // Only the processes keep these, so that an end of one is seen by the others.
        drop((qemu_qmp, qemu_vsock, device_vsock, device_control));
        let messages = qemu.messages.clone();
        let (qemu, device, end) = supervise(qemu, device);
        let set_up = async {
            let qmp = Qmp::connect(qmp).await?;
            qmp.execute("cont", json!({})).await?;
            let running = Instant::now();
            // The kernel looks for disks long after this, and the agent waits for those that it is told of.
            let disks = Disks::default();
            for disk in spec.disks {
                disks.attach(&qmp, disk).await?;
            }
            Ok((qmp, disks, running))
        };
        match set_up.await {
            Ok((qmp, disks, running)) => {
                let machine =
                    QemuMachine { qemu, device, qmp, disks, console, messages, end, _control: control };
                Ok(Started { machine: Arc::new(machine), running, processors: PROCESSORS })
            }
            Err(source) => {
                let ended = timeout(GRACE, reached(&end)).await.ok();
                qemu.kill();
                device.kill();
                // Bounded: a process that does not go is the kernel's, and is gone with the shim at the latest.
                let _ = timeout(KILL, reached(&end)).await;
                Err(not_up(ended, source, Tail(said(&console, &messages))))
            }
        }
    }
}

#[async_trait]
impl Machine for QemuMachine {
    fn pid(&self) -> u32 {
        self.qemu.pid()
    }

    async fn attach_disk(&self, disk: Disk) -> Result<(), MachineError> {
        self.disks.attach(&self.qmp, disk).await
    }

    async fn detach_disk(&self, serial: &str) -> Result<(), MachineError> {
        self.disks.detach(&self.qmp, serial).await
    }

    async fn kill(&self) {
        self.qemu.kill();
        self.device.kill();
        gone(self.qemu.pid(), &self.end).await;
    }

    async fn ended(&self) -> VmEnd {
        reached(&self.end).await
    }

    fn console_tail(&self) -> String {
        said(&self.console, &self.messages)
    }
}

impl Drop for QemuMachine {
    fn drop(&mut self) {
        self.qemu.kill();
        self.device.kill();
    }
}

/// The pairs of sockets between shim, QEMU and device: ours, then theirs.
struct Sockets {
    qmp: UnixStream,
    control: OwnedFd,
    qemu_qmp: UnixStream,
    qemu_vsock: UnixStream,
    device_vsock: UnixStream,
    device_control: OwnedFd,
}

impl Sockets {
    fn new() -> io::Result<Sockets> {
        let (qmp, qemu_qmp) = UnixStream::pair()?;
        let (qemu_vsock, device_vsock) = UnixStream::pair()?;
        let (device_control, control) = io::pipe()?;
        let (device_control, control) = (device_control.into(), control.into());
        Ok(Sockets { qmp, control, qemu_qmp, qemu_vsock, device_vsock, device_control })
    }
}

type Supervised = (Arc<Child>, Arc<Child>, watch::Receiver<Option<VmEnd>>);

/// Watches over both processes in a task: when one ends, so does the other.
fn supervise(qemu: Process, device: Process) -> Supervised {
    let (sender, end) = watch::channel(None);
    let (main, helper) = (Arc::new(qemu.child), Arc::new(device.child));
    let watched = (Arc::clone(&main), Arc::clone(&helper));
    tokio::spawn(async move {
        let first = first_end(&watched.0, &watched.1).await;
        watched.0.kill();
        watched.1.kill();
        // Bounded, all of it: a process that the kernel does not let go of must not hold up the news.
        let _ = timeout(KILL, async { (watched.0.ended().await, watched.1.ended().await) }).await;
        settle(qemu.followers.into_iter().chain(device.followers)).await;
        let end = describe(first, &qemu.messages, &device.messages);
        // Nobody to tell: the machine was dropped.
        let _ = sender.send(Some(end));
    });
    (main, helper, end)
}

/// Which of the two ended by itself, and how. The device ends when QEMU does, so it is the cause only if QEMU stays.
async fn first_end(qemu: &Child, device: &Child) -> Result<Ending, Ending> {
    let device = tokio::select! {
        ending = qemu.ended() => return Ok(ending),
        ending = device.ended() => ending,
    };
    timeout(GRACE, qemu.ended()).await.map_err(|_| device)
}

fn describe(first: Result<Ending, Ending>, qemu: &Console, device: &Console) -> VmEnd {
    match first {
        Ok(ending) => described(ending, qemu),
        Err(ending) => VmEnd::DeviceLost { message: format!("{ending:?}; {}", quoted(device)) },
    }
}
