//! A whole machine as a process: takes over its descriptors, puts the machine together, gives up everything else, runs.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, anyhow};
use coffer_vmm::control::Changeable;
use coffer_vmm::devices::{Balloon, Block, Disk, Disks, MAX_QUEUES, Net, Random, Scsi, Vsock};
use coffer_vmm::event::Event;
use coffer_vmm::inherited::Inherited;
use coffer_vmm::machine::{self, End, Hardware, Machine, Making, Thread};
use coffer_vmm::memory::Backing;
use coffer_vmm::options::Options;
use coffer_vmm::spec::{Limit, Rate};
use coffer_vmm::virtio::{Device, Limiter, Ring};
use coffer_vmm::vsock::{self, MAX_CONNECTIONS};
use coffer_vmm::{control, jail, spec};

use crate::chain;

pub(crate) const USAGE: &str = "run --kvm-fd N --kernel-fd N --initrd-fd N --console-fd N --control-fd N \
     --cmdline LINE --vcpus N --memory-mib N [--disk SERIAL,ro|rw,FD]… [--block SERIAL,ro|rw,FD]… [--nic MAC,MTU,FD[+FD]…]… [--nic-seat MAC,MTU]… \
     [--disk-bytes RATE] [--disk-operations RATE] [--nic-bytes RATE] [--nic-operations RATE] \
     [--vsock-fd N --guest-cid N --dial PATH] [--huge-pages true] [--prefault true] --uid N --parent PID";

/// Descriptors that are not the host's sockets: 256 disks, 64 devices with seven events and files each and two more for each queue of
/// requests, 64 processors, and some spare for the machine itself.
fn other_files(queues: usize) -> usize {
    256 + 64 * (7 + 2 * queues.min(MAX_QUEUES)) + 64 + 64
}

pub(crate) fn run(mut options: Options) -> anyhow::Result<ExitCode> {
    let (uid, parent) = (options.take("--uid")?, options.take("--parent")?);
    let lifeline = jail::enter_own_processes(uid, parent)?;
    let limit = usize::try_from(jail::limit_resources()?).unwrap_or(usize::MAX);
    // Before anything else is opened, which could take the number of a descriptor that was not passed after all.
    let Passed { control, console, kvm, kernel, initrd, disks, blocks, nics, listener } =
        Passed::take(&mut options)?;
    // From here on the kernel makes a machine, while this thread does everything else.
    let making = Making::begin(kvm).context("cannot begin to make a machine")?;
    jail::leave_the_node(parent)?;
    // A processor writes to it, and must not wait for whoever reads it.
    rustix::io::ioctl_fionbio(&console, true).context("--console-fd")?;
    let cpus = options.take("--vcpus")?;
    // As many as processors: each asks in its own.
    let queues = usize::from(cpus);
    let (disk_limit, nic_limit) = (limit_of(&mut options, "--disk")?, limit_of(&mut options, "--nic")?);
    let (controller, mut devices) = all_disks(disks, blocks, queues, disk_limit)?;
    for nic in nics {
        devices.push(Box::new(Net::new(nic, nic_limit)?));
    }
    let mut seats = Vec::new();
    for SeatOption { mac, mtu } in options.take_all("--nic-seat")? {
        let (device, seat) = Net::seat(mac, mtu, nic_limit).context("cannot make a seat for an interface")?;
        seats.push((devices.len(), seat));
        devices.push(Box::new(device));
    }
    if let Some(listener) = listener {
        devices.push(Box::new(vsock(&mut options, listener, limit.saturating_sub(other_files(queues)))?));
    }
    if !making.gives_random_numbers() {
        devices.push(Box::new(Random));
    }
    let memory_mib = options.take("--memory-mib")?;
    let (balloon, ration) = Balloon::new(memory_mib).context("cannot make the balloon")?;
    devices.push(Box::new(balloon));
    let hardware = Hardware {
        making,
        kernel: kernel.into(),
        initrd: initrd.map(File::from),
        console: console.into(),
        command_line: options.take("--cmdline")?,
        cpus,
        memory_mib,
        backing: Backing {
            huge_pages: options.take_if("--huge-pages")?.unwrap_or(false),
            prefault: options.take_if("--prefault")?.unwrap_or(false),
        },
        devices,
    };
    options.finish()?;
    let machine = Machine::build(hardware)?;
    jail::become_nobody(uid, &lifeline)?;
    // Before the processors' threads are started, so that it is theirs as well.
    jail::give_up_files()?;
    jail::report_refused_calls().context("cannot catch refused system calls")?;
    let rules = machine::allowed(Thread::Processor);
    let enter = move || jail::allow_only(&rules).map_err(io::Error::other);
    let running = machine.start(control.as_fd(), enter).context("cannot start the processors")?;
    jail::allow_only(&machine::allowed(Thread::Devices))?;
    match control::serve(running, &Changeable { disks: controller, ration, seats }, &control) {
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

/// The disks at the controller, which can be changed later, and all devices that are disks: the controller, and those on their own.
fn all_disks(
    attached: Vec<spec::Disk>,
    alone: Vec<spec::Disk>,
    queues: usize,
    limit: Limit,
) -> anyhow::Result<(Disks, Vec<Box<dyn Device>>)> {
    let disks = Disks::new().context("cannot make the disks' controller")?;
    for disk in attached {
        disks.attach(Disk::new(disk)?)?;
    }
    let controller = Scsi::new(disks.clone(), queues, Limiter::new(limit), ring(disks.event()));
    let mut devices: Vec<Box<dyn Device>> = vec![Box::new(controller)];
    for disk in alone {
        let device = Block::new(Disk::new(disk)?, queues, Limiter::new(limit), ring(Event::new()));
        devices.push(Box::new(device));
    }
    Ok((disks, devices))
}

/// What a device's requests wait in, whose ends are told by `event`. Without it they hold up the machine's other devices.
fn ring(event: io::Result<Event>) -> Option<Ring> {
    let outcome = event.and_then(Ring::new);
    outcome
        .inspect_err(|error| {
            eprintln!("coffer-vmm: a disk that waits holds up other devices: no io_uring: {error}")
        })
        .ok()
}

fn vsock(options: &mut Options, listener: OwnedFd, limit: usize) -> anyhow::Result<Vsock> {
    let (cid, dial): (u64, PathBuf) = (options.take("--guest-cid")?, options.take("--dial")?);
    let limit = MAX_CONNECTIONS.min(limit);
    let device = vsock::Device::new(cid, UnixListener::from(listener), &dial, limit)
        .context("cannot set up the vsock device")?;
    Ok(Vsock::new(device))
}

/// The limit that the options beginning with `name` give.
fn limit_of(options: &mut Options, name: &str) -> anyhow::Result<Limit> {
    let mut rate = |what| -> anyhow::Result<Option<Rate>> {
        Ok(options.take_if::<RateOption>(&format!("{name}-{what}"))?.map(|RateOption(rate)| rate))
    };
    Ok(Limit { bytes: rate("bytes")?, operations: rate("operations")? })
}

/// `PER-SECOND,BURST`
struct RateOption(Rate);

impl FromStr for RateOption {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<RateOption> {
        let (per_second, burst) =
            text.split_once(',').context("two parts, separated by a comma: a second's, and at once")?;
        Ok(RateOption(Rate { per_second: per_second.parse()?, burst: burst.parse()? }))
    }
}

/// Every descriptor that was passed.
struct Passed {
    control: OwnedFd,
    console: OwnedFd,
    kvm: OwnedFd,
    kernel: OwnedFd,
    initrd: Option<OwnedFd>,
    disks: Vec<spec::Disk>,
    blocks: Vec<spec::Disk>,
    nics: Vec<spec::Nic>,
    listener: Option<OwnedFd>,
}

impl Passed {
    fn take(options: &mut Options) -> anyhow::Result<Passed> {
        let mut files = Files(Inherited::default());
        Ok(Passed {
            control: files.take(options, "--control-fd")?,
            console: files.take(options, "--console-fd")?,
            kvm: files.take(options, "--kvm-fd")?,
            kernel: files.take(options, "--kernel-fd")?,
            initrd: files.take_if(options, "--initrd-fd")?,
            disks: files.take_disks(options, "--disk")?,
            blocks: files.take_disks(options, "--block")?,
            nics: files.take_nics(options)?,
            listener: files.take_if(options, "--vsock-fd")?,
        })
    }
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

    fn take_disks(&mut self, options: &mut Options, name: &'static str) -> anyhow::Result<Vec<spec::Disk>> {
        let disks = options.take_all(name)?.into_iter().map(|DiskOption { serial, read_only, fd }| {
            Ok(spec::Disk { serial, file: self.inherit(fd, name)?, read_only })
        });
        disks.collect()
    }

    fn take_nics(&mut self, options: &mut Options) -> anyhow::Result<Vec<spec::Nic>> {
        let nics =
            options.take_all("--nic")?.into_iter().map(|NicOption { mac, mtu, fds: (first, more) }| {
                let more = more.into_iter().map(|fd| self.inherit(fd, "--nic")).collect::<Result<_, _>>();
                Ok(spec::Nic { tap: self.inherit(first, "--nic")?, more: more?, mac, mtu })
            });
        nics.collect()
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

/// `MAC,MTU,FD`, or `MAC,MTU,FD+FD…` where the tap has several queues.
struct NicOption {
    mac: [u8; 6],
    mtu: u16,
    /// The first, and those that follow it.
    fds: (RawFd, Vec<RawFd>),
}

impl FromStr for NicOption {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<NicOption> {
        let [mac, mtu, fds] = parts(text)?;
        let mut fds = fds.split('+').map(str::parse);
        let first = fds.next().context("a descriptor")??;
        Ok(NicOption { mac: address(mac)?, mtu: mtu.parse()?, fds: (first, fds.collect::<Result<_, _>>()?) })
    }
}

/// `MAC,MTU`
struct SeatOption {
    mac: [u8; 6],
    mtu: u16,
}

impl FromStr for SeatOption {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<SeatOption> {
        let (mac, mtu) = text.split_once(',').context("two parts, separated by a comma")?;
        Ok(SeatOption { mac: address(mac)?, mtu: mtu.parse()? })
    }
}

fn address(mac: &str) -> anyhow::Result<[u8; 6]> {
    let bytes: Result<Vec<u8>, _> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
    bytes?.try_into().map_err(|_| anyhow!("an address has six bytes"))
}

fn parts(text: &str) -> anyhow::Result<[&str; 3]> {
    let parts: Vec<&str> = text.split(',').collect();
    parts.try_into().map_err(|_| anyhow!("three parts, separated by commas"))
}
