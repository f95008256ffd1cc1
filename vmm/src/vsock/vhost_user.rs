//! What QEMU may ask of the device: vhost-user's messages, as the part of the protocol that a vsock device needs.
//!
//! QEMU is less trusted than the host: a guest may have taken it over. Its memory regions are mapped only within
//! their files, its ring addresses only within those regions; a message that asks for more is an error, after which
//! [`super::serve`] ends.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use vhost::vhost_user::message::{
    VHOST_USER_CONFIG_OFFSET, VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags,
    VhostUserInflight, VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVirtioFeatures, VhostUserVringAddrFlags,
    VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::QueueT;
use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap};

use super::device::{Device, RX, RingFault, TX};
use super::rings::Ring;
use crate::memory::Memory;

const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
const FEATURES: u64 = (1 << VIRTIO_F_VERSION_1) | EVENT_IDX | (1 << VIRTIO_RING_F_INDIRECT_DESC);
const PROTOCOL: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// Where a region of the guest's memory is in QEMU's address space: ring addresses are given in those terms.
#[derive(Debug, Clone, Copy)]
struct Place {
    qemu: u64,
    guest: u64,
    size: u64,
}

/// The device as QEMU sees it.
#[derive(Debug)]
pub(super) struct Backend {
    device: Device,
    rings: [Ring; 2],
    memory: Option<Memory>,
    places: Vec<Place>,
}

impl Backend {
    /// A device that QEMU has not spoken to yet.
    pub(super) fn new(device: Device) -> std::result::Result<Backend, virtio_queue::Error> {
        let rings = [Ring::new()?, Ring::new()?];
        Ok(Backend { device, rings, memory: None, places: Vec::new() })
    }

    /// The device.
    pub(super) fn device(&mut self) -> &mut Device {
        &mut self.device
    }

    /// The rings: first the guest's receive ring.
    pub(super) fn rings(&mut self) -> &mut [Ring; 2] {
        &mut self.rings
    }

    /// What wakes the device: its sockets, and each ring's notification.
    pub(super) fn watched(&self) -> (BorrowedFd<'_>, [Option<BorrowedFd<'_>>; 2]) {
        let [rx, tx] = &self.rings;
        (self.device.as_fd(), [rx.kick(), tx.kick()])
    }

    /// Moves packets; says whether there is more to do at once.
    pub(super) fn serve(&mut self) -> std::result::Result<bool, RingFault> {
        let Some(memory) = &self.memory else { return Ok(false) };
        let [rx, tx] = &mut self.rings;
        if !rx.is_running() || !tx.is_running() {
            return Ok(false);
        }
        let served = self.device.serve(memory, &mut rx.queue, &mut tx.queue)?;
        for (ring, index) in [(rx, RX), (tx, TX)] {
            if served.used[index] {
                ring.interrupt(memory).map_err(|reason| RingFault::new(index, reason))?;
            }
        }
        Ok(served.again)
    }

    fn ring(&mut self, index: u32) -> Result<&mut Ring> {
        usize::try_from(index).ok().and_then(|index| self.rings.get_mut(index)).ok_or(Error::InvalidParam)
    }

    fn to_guest(&self, address: u64) -> Result<GuestAddress> {
        let place = self.places.iter().find(|place| address.wrapping_sub(place.qemu) < place.size);
        let place = place.ok_or(Error::InvalidParam)?;
        Ok(GuestAddress(place.guest.wrapping_add(address.wrapping_sub(place.qemu))))
    }

    fn map(&mut self, regions: &[VhostUserMemoryRegion], files: Vec<File>) -> Option<()> {
        let mut places = Vec::with_capacity(regions.len());
        let mut mapped = Vec::with_capacity(regions.len());
        for (region, file) in regions.iter().zip(files) {
            let (guest, size, qemu) = (region.guest_phys_addr, region.memory_size, region.user_addr);
            let length = usize::try_from(size).ok()?;
            // A region beyond its file's end would be a trap to step into. QEMU can still shorten the file later: that
            // ends this process, which serves no other machine.
            let end = region.mmap_offset.checked_add(size)?;
            if file.metadata().ok()?.len() < end {
                return None;
            }
            let offset = FileOffset::new(file, region.mmap_offset);
            mapped.push(GuestRegionMmap::from_range(GuestAddress(guest), length, Some(offset)).ok()?);
            places.push(Place { qemu, guest, size });
        }
        mapped.sort_by_key(vm_memory::GuestMemoryRegion::start_addr);
        self.memory = Some(Memory::from_regions(mapped).ok()?);
        self.places = places;
        Some(())
    }
}

fn unsupported<T>() -> Result<T> {
    Err(Error::InvalidOperation("not offered by the vsock device"))
}

impl VhostUserBackendReqHandlerMut for Backend {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.reset_device()
    }

    fn reset_device(&mut self) -> Result<()> {
        for ring in &mut self.rings {
            ring.stop();
            ring.enabled = false;
        }
        self.device.reset();
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(FEATURES | PROTOCOL)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !(FEATURES | PROTOCOL) != 0 {
            return Err(Error::FeatureMismatch);
        }
        for ring in &mut self.rings {
            ring.queue.set_event_idx(features & EVENT_IDX != 0);
            // Without protocol features there is no message that would enable a ring.
            ring.enabled |= features & PROTOCOL == 0;
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<vhost::VhostUserMemoryRegionBase>>> {
        self.map(regions, files).ok_or(Error::InvalidParam)?;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let size = u16::try_from(num).map_err(|_| Error::InvalidParam)?;
        self.ring(index)?.queue.try_set_size(size).map_err(|_| Error::InvalidParam)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let (table, used, available) =
            (self.to_guest(descriptor)?, self.to_guest(used)?, self.to_guest(available)?);
        let queue = &mut self.ring(index)?.queue;
        queue
            .try_set_desc_table_address(table)
            .and_then(|()| queue.try_set_used_ring_address(used))
            .and_then(|()| queue.try_set_avail_ring_address(available))
            .map_err(|_| Error::InvalidParam)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        let queue = &mut self.ring(index)?.queue;
        // A machine that was paused goes on where it was; a driver that starts anew begins elsewhere, at 0.
        let anew = queue.next_avail() != base;
        queue.set_next_avail(base);
        if anew {
            self.device.reset();
        }
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let base = self.ring(index)?.stop();
        Ok(VhostUserVringState::new(index, u32::from(base)))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let ring = self.rings.get_mut(usize::from(index)).ok_or(Error::InvalidParam)?;
        if ring.start(fd, self.memory.as_ref()) { Ok(()) } else { Err(Error::InvalidParam) }
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.ring(u32::from(index))?.set_call(fd);
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, _fd: Option<File>) -> Result<()> {
        self.ring(u32::from(index)).map(|_| ())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::MQ)
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(2)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.ring(index)?.enabled = enable;
        Ok(())
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        let config = self.device.guest_cid().to_le_bytes();
        let start = usize::try_from(offset.saturating_sub(VHOST_USER_CONFIG_OFFSET))
            .map_err(|_| Error::InvalidParam)?;
        let end =
            usize::try_from(size).ok().and_then(|size| start.checked_add(size)).ok_or(Error::InvalidParam)?;
        config.get(start..end).map(<[u8]>::to_vec).ok_or(Error::InvalidParam)
    }

    fn set_config(&mut self, _offset: u32, _buf: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        unsupported()
    }

    fn set_gpu_socket(&mut self, _gpu: GpuBackend) -> Result<()> {
        unsupported()
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        unsupported()
    }

    fn get_inflight_fd(&mut self, _inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        unsupported()
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        unsupported()
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        unsupported()
    }

    fn add_mem_region(
        &mut self,
        _region: &VhostUserSingleMemoryRegion,
        _fd: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<vhost::VhostUserMemoryRegionBase>> {
        unsupported()
    }

    fn remove_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion) -> Result<()> {
        unsupported()
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> Result<Option<File>> {
        unsupported()
    }

    fn check_device_state(&mut self) -> Result<()> {
        unsupported()
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        unsupported()
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        unsupported()
    }
}
