//! The vsock device as the process that it is in a pod, filter and all, with the test in QEMU's place.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

const MEMORY: usize = 1 << 20;
const SIZE: u16 = 16;
const RX: u64 = 0x1000;
const TX: u64 = 0x3000;
const AVAIL: u64 = 0x400;
const USED: u64 = 0x800;
const BUFFER: u64 = 0x10000;

/// Where the guest's memory would be in QEMU's address space.
const QEMU: u64 = 0x7000_0000;

const VERSION_1: u64 = 1 << 32;

/// A device's process, and what the test keeps of its descriptors.
struct Device {
    process: Child,
    qemu: UnixStream,
    control: Option<std::io::PipeWriter>,
    dir: tempfile::TempDir,
}

impl Device {
    fn start() -> Device {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
        let listener = UnixListener::bind(dir.path().join("vsock.sock")).unwrap();
        let (qemu, theirs) = UnixStream::pair().unwrap();
        let (end, control) = std::io::pipe().unwrap();
        // A child that another test starts at this moment gets them too, which does not matter: these are not the ends
        // whose closing is awaited.
        fcntl_setfd(&listener, FdFlags::empty()).unwrap();
        fcntl_setfd(&theirs, FdFlags::empty()).unwrap();
        fcntl_setfd(&end, FdFlags::empty()).unwrap();
        let root = rustix::process::geteuid().is_root();
        let uid = if root { 65_534 } else { rustix::process::geteuid().as_raw() };
        let process = Command::new(env!("CARGO_BIN_EXE_coffer-vmm"))
            .args(["vsock", "--guest-cid", "3", "--dial", "vsock.sock"])
            .args(["--socket-fd", &theirs.as_raw_fd().to_string()])
            .args(["--listen-fd", &listener.as_raw_fd().to_string()])
            .args(["--control-fd", &end.as_raw_fd().to_string()])
            .args(["--uid", &uid.to_string(), "--parent", &std::process::id().to_string()])
            .current_dir(dir.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Device { process, qemu, control: Some(control), dir }
    }

    fn frontend(&self) -> Frontend {
        Frontend::from_stream(self.qemu.try_clone().unwrap(), 2)
    }

    /// Waits for its end: gives how it ended and what it said.
    fn end(mut self) -> (ExitStatus, String) {
        let status = self.process.wait().unwrap();
        let mut said = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status, said)
    }
}

/// The guest's memory with two rings in it, and what notifies of them.
struct Rings {
    memory: GuestMemoryMmap<()>,
    file: std::fs::File,
    kicks: [EventFd; 2],
    calls: [EventFd; 2],
}

impl Rings {
    fn new() -> Rings {
        let file = tempfile::tempfile().unwrap();
        file.set_len(MEMORY as u64).unwrap();
        let range = (GuestAddress(0), MEMORY, Some(FileOffset::new(file.try_clone().unwrap(), 0)));
        let memory = GuestMemoryMmap::from_ranges_with_files([range]).unwrap();
        let event = || EventFd::new(0).unwrap();
        Rings { memory, file, kicks: [event(), event()], calls: [event(), event()] }
    }

    fn region(&self, size: u64) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: size,
            userspace_addr: QEMU,
            mmap_offset: 0,
            mmap_handle: self.file.as_raw_fd(),
        }
    }

    fn set_up(&self, frontend: &mut Frontend) {
        frontend.set_owner().unwrap();
        let features = frontend.get_features().unwrap();
        assert_ne!(features & VERSION_1, 0);
        frontend.set_features(VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()).unwrap();
        let protocol = frontend.get_protocol_features().unwrap();
        frontend.set_protocol_features(protocol & VhostUserProtocolFeatures::CONFIG).unwrap();
        frontend.set_mem_table(&[self.region(MEMORY as u64)]).unwrap();
        for (index, at) in [RX, TX].into_iter().enumerate() {
            self.start(frontend, index, at);
        }
    }

    fn start(&self, frontend: &mut Frontend, index: usize, at: u64) {
        frontend.set_vring_num(index, SIZE).unwrap();
        frontend.set_vring_base(index, 0).unwrap();
        let config = VringConfigData {
            queue_max_size: SIZE,
            queue_size: SIZE,
            flags: 0,
            desc_table_addr: QEMU + at,
            used_ring_addr: QEMU + at + USED,
            avail_ring_addr: QEMU + at + AVAIL,
            log_addr: None,
        };
        frontend.set_vring_addr(index, &config).unwrap();
        frontend.set_vring_call(index, &self.calls[index]).unwrap();
        frontend.set_vring_kick(index, &self.kicks[index]).unwrap();
        frontend.set_vring_enable(index, true).unwrap();
    }

    /// Offers one buffer to the device, and waits for the packet in it.
    fn receive(&self) -> Vec<u8> {
        self.memory.write_obj(BUFFER, GuestAddress(RX)).unwrap();
        self.memory.write_obj(0x1000_u32, GuestAddress(RX + 8)).unwrap();
        self.memory.write_obj(2_u16, GuestAddress(RX + 12)).unwrap();
        self.memory.write_obj(1_u16, GuestAddress(RX + AVAIL + 2)).unwrap();
        self.kicks[0].write(1).unwrap();
        self.calls[0].read().unwrap();
        let length: u32 = self.memory.read_obj(GuestAddress(RX + USED + 8)).unwrap();
        let mut packet = vec![0; length as usize];
        self.memory.read_slice(&mut packet, GuestAddress(BUFFER)).unwrap();
        packet
    }
}

fn assert_exit(status: ExitStatus, code: i32, said: &str) {
    assert_eq!(status.signal(), None, "killed, by its own filter? it said: {said}");
    assert_eq!(status.code(), Some(code), "{said}");
}

#[test]
fn a_client_reaches_the_guest_and_the_device_ends_with_qemu() {
    let device = Device::start();
    let (rings, mut frontend) = (Rings::new(), device.frontend());
    rings.set_up(&mut frontend);
    let config = frontend.get_config(0, 8, VhostUserConfigFlags::WRITABLE, &[0; 8]).unwrap().1;
    assert_eq!(config, 3_u64.to_le_bytes());
    let mut client = UnixStream::connect(device.dir.path().join("vsock.sock")).unwrap();
    client.write_all(b"CONNECT 1024\n").unwrap();
    let packet = rings.receive();
    assert_eq!((packet.len(), packet[20], packet[21], packet[30]), (44, 0, 4, 1));
    assert_eq!(frontend.get_vring_base(0).unwrap(), 1);
    drop(frontend);
    device.qemu.shutdown(std::net::Shutdown::Both).unwrap();
    let (status, said) = device.end();
    assert_exit(status, 0, &said);
}

#[test]
fn the_device_ends_with_the_shim() {
    let mut device = Device::start();
    device.control = None;
    let (status, said) = device.end();
    assert_exit(status, 0, &said);
}

#[test]
fn a_memory_region_beyond_its_file_is_refused() {
    let device = Device::start();
    let (rings, frontend) = (Rings::new(), device.frontend());
    frontend.set_owner().unwrap();
    // Refused or not, nothing is answered to this message: the device ends.
    let _ = frontend.set_mem_table(&[rings.region(2 * MEMORY as u64)]);
    let (status, said) = device.end();
    assert_exit(status, 1, &said);
    assert!(said.contains("does not understand QEMU"), "{said}");
}

#[test]
fn a_message_that_is_none_ends_the_device() {
    let mut device = Device::start();
    device.qemu.write_all(&[0xff; 64]).unwrap();
    let (status, said) = device.end();
    assert_exit(status, 1, &said);
}

#[test]
fn a_ring_that_claims_too_much_does_not_end_the_device() {
    let device = Device::start();
    let (rings, mut frontend) = (Rings::new(), device.frontend());
    rings.set_up(&mut frontend);
    rings.memory.write_obj(1000_u16, GuestAddress(TX + AVAIL + 2)).unwrap();
    rings.kicks[1].write(1).unwrap();
    // A client of the stopped device sees its end, and the device still answers QEMU.
    let mut client = UnixStream::connect(device.dir.path().join("vsock.sock")).unwrap();
    let mut watched = [PollFd::new(&client, PollFlags::IN)];
    poll(&mut watched, None).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(
        frontend.get_config(0, 8, VhostUserConfigFlags::WRITABLE, &[0; 8]).unwrap().1,
        3_u64.to_le_bytes()
    );
    drop(frontend);
    device.qemu.shutdown(std::net::Shutdown::Both).unwrap();
    let (status, said) = device.end();
    assert_exit(status, 0, &said);
    assert!(said.contains("corrupt"), "{said}");
}

#[test]
fn an_option_that_is_missing_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_coffer-vmm")).arg("vsock").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("--socket-fd is missing"));
}
