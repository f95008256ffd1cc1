//! What a virtual machine is made of: a value that the shim fills in and a hypervisor boots.
//!
//! Files arrive as open descriptors, so the process that runs the guest needs no right to open anything.

use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// The longest disk serial in bytes: virtio-blk's `VIRTIO_BLK_ID_BYTES` (virtio 1.2, section 5.2.6).
pub const MAX_SERIAL: usize = 20;

/// The most queues of an interface's tap. One thread serves them: more would only cost.
pub const MAX_NIC_QUEUES: usize = 8;

/// One virtual machine.
#[derive(Debug)]
pub struct VmSpec {
    /// Name of the machine in logs and process titles: the pod's id.
    pub id: String,
    /// Guest kernel: a bzImage, or an ELF vmlinux with a PVH note.
    pub kernel: PathBuf,
    /// Guest initrd.
    pub initrd: PathBuf,
    /// Kernel command line.
    pub cmdline: String,
    /// Number of virtual CPUs, 1 to 64.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Disks present at boot.
    pub disks: Vec<Disk>,
    /// Network interfaces present at boot.
    pub nics: Vec<Nic>,
    /// How much the machine may move.
    pub limits: Limits,
    /// Directory, owned by root with mode 0711, in which the machine's sockets are made.
    pub run_dir: PathBuf,
    /// User and group id, not 0, that the machine's processes run as.
    pub uid: u32,
    /// `cgroup.procs` files into which the machine's processes are placed before the guest's memory is touched.
    pub cgroup_procs: Vec<PathBuf>,
}

/// How much a machine may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// From and to all disks together.
    pub disks: Limit,
    /// Through each interface, in each direction.
    pub nics: Limit,
}

/// How much may be moved: nothing said is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limit {
    /// Bytes.
    pub bytes: Option<Rate>,
    /// Requests of a disk, packets of an interface.
    pub operations: Option<Rate>,
}

/// So many a second, and so many at once after a rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In a second, in the long run.
    pub per_second: NonZeroU64,
    /// At once, at most.
    pub burst: NonZeroU64,
}

/// A block device.
#[derive(Debug)]
pub struct Disk {
    /// By this the guest finds it: `[a-z0-9-]`, at most [`MAX_SERIAL`] bytes, unique in the machine.
    pub serial: String,
    /// The backing file or block device, opened read-only or read-write to match `read_only`.
    pub file: OwnedFd,
    /// Whether the guest may write.
    pub read_only: bool,
}

/// A network interface.
#[derive(Debug)]
pub struct Nic {
    /// An attached tap queue with `IFF_VNET_HDR`.
    pub tap: OwnedFd,
    /// Further queues of the same tap, which then has `IFF_MULTI_QUEUE`, for guests that have as many processors.
    pub more: Vec<OwnedFd>,
    /// MAC address that the guest sees.
    pub mac: [u8; 6],
    /// MTU in bytes.
    pub mtu: u16,
}
