//! A whole machine as a process: takes over its descriptors, puts the machine together, gives up everything else, runs.

use std::fs::File;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, anyhow};
use coffer_vmm::devices::{Balloon, Block, Disk, Disks, Net, Random, Scsi, Vsock};
use coffer_vmm::inherited::Inherited;
use coffer_vmm::machine::{self, End, Hardware, Machine, Thread};
use coffer_vmm::memory::Backing;
use coffer_vmm::options::Options;
use coffer_vmm::virtio::Device;
use coffer_vmm::vsock::{self, MAX_CONNECTIONS};
use coffer_vmm::{control, jail, landlock, spec};

use crate::chain;

pub(crate) const USAGE: &str = "run --kvm-fd N --kernel-fd N --initrd-fd N --console-fd N --control-fd N \
     --cmdline LINE --vcpus N --memory-mib N [--disk SERIAL,ro|rw,FD]… [--block SERIAL,ro|rw,FD]… [--nic MAC,MTU,FD]… \
     [--vsock-fd N --guest-cid N --dial PATH] [--huge-pages true] [--prefault true] --uid N --parent PID";

/// Descriptors that are not the host's sockets: the machine's own.
const OTHER_FILES: usize = 256;

pub(crate) fn run(mut options: Options) -> anyhow::Result<ExitCode> {
    let mut files = Files(Inherited::default());
    let limit = usize::try_from(jail::limit_resources()?).unwrap_or(usize::MAX);
    let control = files.take(&mut options, "--control-fd")?;
    let console = files.take(&mut options, "--console-fd")?;
    // A processor writes to it, and must not wait for whoever reads it.
    rustix::io::ioctl_fionbio(&console, true).context("--console-fd")?;
    let disks = Disks::new().context("cannot make the disks' controller")?;
    let hardware = Hardware {
        kvm: files.take(&mut options, "--kvm-fd")?,
        kernel: files.take(&mut options, "--kernel-fd")?.into(),
        initrd: files.take_if(&mut options, "--initrd-fd")?.map(File::from),
        console: console.into(),
        command_line: options.take("--cmdline")?,
        cpus: options.take("--vcpus")?,
        memory_mib: options.take("--memory-mib")?,
        backing: Backing {
            huge_pages: options.take_if("--huge-pages")?.unwrap_or(false),
            prefault: options.take_if("--prefault")?.unwrap_or(false),
        },
        devices: devices(&mut options, &mut files, &disks, limit)?,
    };
    let (uid, parent) = (options.take("--uid")?, options.take("--parent")?);
    options.finish()?;
    let machine = Machine::build(hardware)?;
    jail::drop_privileges(uid, parent)?;
    // Before the processors' threads are started, so that it is theirs as well.
    landlock::give_up_files()?;
    let rules = machine::allowed(Thread::Processor).context("system call filter of the processors")?;
    let enter = move || jail::allow_only(rules.clone()).map_err(io::Error::other);
    let running = machine.start(enter).context("cannot start the processors")?;
    let rules = machine::allowed(Thread::Devices).context("system call filter of the devices")?;
    jail::allow_only(rules)?;
    match control::serve(running, &disks, &control) {
        Ok(End::Stopped | End::Reset) => Ok(ExitCode::SUCCESS),
        Ok(end) => {
            eprintln!("coffer-vmm: {end}");
            Ok(ExitCode::FAILURE)
        }
        Err(error) => {
            eprintln!("coffer-vmm: {}", chain(&error));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn devices(
    options: &mut Options,
    files: &mut Files,
    disks: &Disks,
    limit: usize,
) -> anyhow::Result<Vec<Box<dyn Device>>> {
    let mut devices: Vec<Box<dyn Device>> = vec![Box::new(Scsi::new(disks.clone()))];
    for DiskOption { serial, read_only, fd } in options.take_all("--disk")? {
        let disk = spec::Disk { serial, file: files.inherit(fd, "--disk")?, read_only };
        disks.attach(Disk::new(disk)?)?;
    }
    for DiskOption { serial, read_only, fd } in options.take_all("--block")? {
        let disk = spec::Disk { serial, file: files.inherit(fd, "--block")?, read_only };
        devices.push(Box::new(Block::new(Disk::new(disk)?)));
    }
    for NicOption { mac, mtu, fd } in options.take_all("--nic")? {
        let nic = spec::Nic { tap: files.inherit(fd, "--nic")?, mac, mtu };
        devices.push(Box::new(Net::new(nic)?));
    }
    if let Some(listener) = files.take_if(options, "--vsock-fd")? {
        let (cid, dial): (u64, PathBuf) = (options.take("--guest-cid")?, options.take("--dial")?);
        let limit = MAX_CONNECTIONS.min(limit.saturating_sub(OTHER_FILES));
        let device = vsock::Device::new(cid, UnixListener::from(listener), &dial, limit)
            .context("cannot set up the vsock device")?;
        devices.push(Box::new(Vsock::new(device)));
    }
    devices.push(Box::new(Random));
    devices.push(Box::new(Balloon));
    Ok(devices)
}

/// Takes descriptors over, each once.
struct Files(Inherited);

impl Files {
    fn inherit(&mut self, number: RawFd, name: &'static str) -> anyhow::Result<OwnedFd> {
        self.0.take(number).context(name)
    }

    fn take(&mut self, options: &mut Options, name: &'static str) -> anyhow::Result<OwnedFd> {
        self.inherit(options.take(name)?, name)
    }

    fn take_if(&mut self, options: &mut Options, name: &'static str) -> anyhow::Result<Option<OwnedFd>> {
        options.take_if(name)?.map(|number| self.inherit(number, name)).transpose()
    }
}

/// `SERIAL,ro|rw,FD`
struct DiskOption {
    serial: String,
    read_only: bool,
    fd: RawFd,
}

impl FromStr for DiskOption {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<DiskOption> {
        let [serial, access, fd] = parts(text)?;
        let read_only = match access {
            "ro" => true,
            "rw" => false,
            _ => return Err(anyhow!("access is ro or rw")),
        };
        Ok(DiskOption { serial: serial.to_owned(), read_only, fd: fd.parse()? })
    }
}

/// `MAC,MTU,FD`
struct NicOption {
    mac: [u8; 6],
    mtu: u16,
    fd: RawFd,
}

impl FromStr for NicOption {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<NicOption> {
        let [mac, mtu, fd] = parts(text)?;
        let bytes: Result<Vec<u8>, _> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
        let mac = bytes?.try_into().map_err(|_| anyhow!("an address has six bytes"))?;
        Ok(NicOption { mac, mtu: mtu.parse()?, fd: fd.parse()? })
    }
}

fn parts(text: &str) -> anyhow::Result<[&str; 3]> {
    let parts: Vec<&str> = text.split(',').collect();
    parts.try_into().map_err(|_| anyhow!("three parts, separated by commas"))
}
