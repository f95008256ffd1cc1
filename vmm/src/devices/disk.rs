//! A file or block device as sectors: what every kind of disk does the same way.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, fcntl_get_seals, seek};

use crate::memory::Memory;
use crate::spec::{self, MAX_SERIAL};
use crate::virtio::{Buffer, Kept, Patience, Transfer, read_at, write_at};

/// Bytes of a sector.
pub(super) const SECTOR: u64 = 512;

/// The most sectors that one request may read or write: 32 MiB.
pub(super) const MAX_SECTORS: u32 = 65_536;

/// The most sectors that one request may forget or make zero: 2 GiB.
pub(super) const MAX_FORGET: u32 = 1 << 22;

/// Bytes moved per call of a device, before others have their turn: as many as one request has at most.
pub(super) const TURN: u64 = MAX_SECTORS as u64 * SECTOR;

/// How many bytes forgotten are booked like one byte moved: the longest request of either kind is a whole turn.
pub(super) const FORGET_WEIGHT: u64 = (MAX_FORGET / MAX_SECTORS) as u64;

/// Why a file cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The name by which the guest finds it is none.
    #[error("disk serial {serial:?} must be 1 to 20 of a-z, 0-9 and '-'")]
    Serial {
        /// As given.
        serial: String,
    },
    /// Its file is of another kind.
    #[error("disk {serial:?} is backed by something that is neither a file nor a block device")]
    NoBlocks {
        /// Its serial.
        serial: String,
    },
    /// Its size cannot be found out.
    #[error("cannot look at the file of disk {serial:?}")]
    Look {
        /// Its serial.
        serial: String,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// Why a request was not fulfilled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It reaches beyond the end, is no whole number of sectors, or writes what may only be read.
    Request,
    /// What backs it cannot do this at all.
    Unable,
    /// The host could not do it.
    Host,
}

/// How a file is asked not to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Haste {
    /// Need not be asked: it is memory.
    Always,
    /// Can be, as far as is known.
    Askable,
    /// Cannot be.
    Never,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToGuest,
    ToFile,
}

/// A disk.
#[derive(Debug)]
pub struct Disk {
    serial: String,
    /// Kept by requests that wait, also when the disk is gone.
    file: Arc<File>,
    sectors: u64,
    read_only: bool,
    block_device: bool,
    /// For reads and for writes: what file systems can do differs.
    reads: Cell<Haste>,
    writes: Cell<Haste>,
}

impl Disk {
    /// Takes over the file of `disk`.
    pub fn new(disk: spec::Disk) -> Result<Disk, DiskError> {
        let spec::Disk { serial, file, read_only } = disk;
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=MAX_SERIAL).contains(&serial.len()) || !serial.bytes().all(allowed) {
            return Err(DiskError::Serial { serial });
        }
        let file = File::from(file);
        let look = |source| DiskError::Look { serial: serial.clone(), source };
        let kind = file.metadata().map_err(look)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(DiskError::NoBlocks { serial });
        }
        let length = seek(&file, SeekFrom::End(0)).map_err(|error| look(error.into()))?;
        let block_device = kind.is_block_device();
        // Only what lies in memory has seals: files of tmpfs and of huge pages. They never wait, but do not know the question.
        let haste = if fcntl_get_seals(&file).is_ok() { Haste::Always } else { Haste::Askable };
        let (reads, writes) = (Cell::new(haste), Cell::new(haste));
        // What follows the last whole sector cannot be read by a guest.
        Ok(Disk {
            serial,
            file: Arc::new(file),
            sectors: length / SECTOR,
            read_only,
            block_device,
            reads,
            writes,
        })
    }

    /// By this the guest finds it.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Its length in sectors of 512 bytes.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether the guest may only read it.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn range(&self, sector: u64, length: u64) -> Result<u64, Refusal> {
        let end = sector.checked_add(length / SECTOR).ok_or(Refusal::Request)?;
        if !length.is_multiple_of(SECTOR) || end > self.sectors {
            return Err(Refusal::Request);
        }
        sector.checked_mul(SECTOR).ok_or(Refusal::Request)
    }

    fn writable_range(&self, sector: u64, length: u64) -> Result<u64, Refusal> {
        if self.read_only { Err(Refusal::Request) } else { self.range(sector, length) }
    }

    /// Fills `buffer` from `sector` on, waiting if need be. If `waits` is given, the memory that `buffer` lies in, it never
    /// does: what would wait is then given back as a transfer, and nothing else is done.
    pub(super) fn read(
        &self,
        sector: u64,
        buffer: &Buffer<'_>,
        waits: Option<&Memory>,
    ) -> Result<Option<Transfer>, Refusal> {
        let offset = self.range(sector, buffer.len() as u64)?;
        self.transfer(Way::ToGuest, buffer, offset, waits)
    }

    /// Writes `buffer` from `sector` on, in the same way.
    pub(super) fn write(
        &self,
        sector: u64,
        buffer: &Buffer<'_>,
        waits: Option<&Memory>,
    ) -> Result<Option<Transfer>, Refusal> {
        let offset = self.writable_range(sector, buffer.len() as u64)?;
        self.transfer(Way::ToFile, buffer, offset, waits)
    }

    /// Makes everything that was written safe, in the same way.
    pub(super) fn flush(&self, waits: Option<&Memory>) -> Result<Option<Transfer>, Refusal> {
        match (self.read_only, waits) {
            (true, _) => Ok(None),
            (false, Some(_)) if self.writes.get() != Haste::Always => {
                Ok(Some(Transfer::sync(Arc::clone(&self.file))))
            }
            (false, _) => self.file.sync_data().map(|()| None).map_err(|_| Refusal::Host),
        }
    }

    fn transfer(
        &self,
        way: Way,
        buffer: &Buffer<'_>,
        offset: u64,
        waits: Option<&Memory>,
    ) -> Result<Option<Transfer>, Refusal> {
        let haste = match way {
            Way::ToGuest => &self.reads,
            Way::ToFile => &self.writes,
        };
        let Some(memory) = waits.filter(|_| haste.get() != Haste::Always && !buffer.is_empty()) else {
            return whole(buffer, self.step(way, buffer, offset, Patience::Wait)).map(|()| None);
        };
        let mut moved = 0;
        if haste.get() == Haste::Askable {
            match self.step(way, buffer, offset, Patience::Never) {
                Ok(all) if all == buffer.len() => return Ok(None),
                Ok(some) => moved = some,
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => haste.set(Haste::Never),
                // Not at once, for whatever reason: a file system that is short of memory says so, too. What is the matter is told
                // by the call that may wait.
                Err(_) => {}
            }
        }
        let kept = Kept::new(buffer, memory).ok_or(Refusal::Host)?;
        let file = Arc::clone(&self.file);
        Ok(Some(match way {
            Way::ToGuest => Transfer::read(file, kept, offset, moved),
            Way::ToFile => Transfer::write(file, kept, offset, moved),
        }))
    }

    fn step(&self, way: Way, buffer: &Buffer<'_>, offset: u64, patience: Patience) -> io::Result<usize> {
        match way {
            Way::ToGuest => read_at(&*self.file, buffer, offset, patience),
            Way::ToFile => write_at(&*self.file, buffer, offset, patience),
        }
    }

    /// Forgets `sectors` sectors: what they hold is not said.
    pub(super) fn discard(&self, sector: u64, sectors: u64) -> Result<(), Refusal> {
        let length = sectors.checked_mul(SECTOR).ok_or(Refusal::Request)?;
        let offset = self.writable_range(sector, length)?;
        if length > 0 {
            // A file system that cannot make holes keeps what there is, which a disk may do.
            let _ = fallocate(
                &*self.file,
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                offset,
                length,
            );
        }
        Ok(())
    }

    /// Whether a guest may write, forget or make zero these sectors.
    pub(super) fn check(&self, sector: u64, sectors: u64) -> Result<(), Refusal> {
        let length = sectors.checked_mul(SECTOR).ok_or(Refusal::Request)?;
        self.writable_range(sector, length).map(|_| ())
    }

    /// Makes `sectors` sectors zero, without writing them.
    pub(super) fn zero(&self, sector: u64, sectors: u64) -> Result<(), Refusal> {
        let length = sectors.checked_mul(SECTOR).ok_or(Refusal::Request)?;
        let offset = self.writable_range(sector, length)?;
        if length == 0 {
            return Ok(());
        }
        let mut refusal = Refusal::Unable;
        for way in ways_to_zero(self.block_device) {
            match fallocate(&*self.file, *way, offset, length) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::OPNOTSUPP) => {}
                Err(_) => refusal = Refusal::Host,
            }
        }
        Err(refusal)
    }
}

/// How sectors become zero without being written, the best way first.
///
/// On a block device only a hole does it: the kernel punches one by the device's own command or not at all, but fulfils
/// `ZERO_RANGE` by writing zeros, which takes as long as the range is large, and cannot be ended.
fn ways_to_zero(block_device: bool) -> &'static [FallocateFlags] {
    const HOLE: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
    const ZEROS: FallocateFlags = FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE);
    if block_device { &[HOLE] } else { &[HOLE, ZEROS] }
}

#[cfg(test)]
impl Disk {
    /// A disk of eight sectors that gives what is written to its other end, and waits for it.
    pub(super) fn slow(serial: &str) -> (Disk, io::PipeWriter) {
        let (reader, writer) = io::pipe().unwrap();
        let disk = Disk {
            serial: serial.to_owned(),
            file: Arc::new(File::from(std::os::fd::OwnedFd::from(reader))),
            sectors: 8,
            read_only: true,
            block_device: false,
            reads: Cell::new(Haste::Never),
            writes: Cell::new(Haste::Never),
        };
        (disk, writer)
    }
}

/// A disk does all of a request or says that it did not.
fn whole(buffer: &Buffer<'_>, moved: io::Result<usize>) -> Result<(), Refusal> {
    match moved {
        Ok(moved) if moved == buffer.len() => Ok(()),
        Ok(_) | Err(_) => Err(Refusal::Host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_device_is_never_made_to_write_zeros() {
        assert!(ways_to_zero(true).iter().all(|way| !way.contains(FallocateFlags::ZERO_RANGE)));
    }

    #[test]
    fn a_file_in_memory_is_told_from_one_that_may_wait() {
        let haste = |file: File| {
            let spec = spec::Disk { serial: "one".to_owned(), file: file.into(), read_only: true };
            Disk::new(spec).unwrap().reads.get()
        };
        let memory = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        assert_eq!(haste(memory.into()), Haste::Always);
        // A file of the build: no build lies in memory, or the file system says so itself.
        let file = File::open(std::env::current_exe().unwrap()).unwrap();
        let in_memory = rustix::fs::fstatfs(&file).unwrap().f_type == 0x0102_1994;
        assert_eq!(haste(file), if in_memory { Haste::Always } else { Haste::Askable });
    }

    /// A file of ones on the build's file system, of which the kernel keeps nothing in memory.
    fn cold() -> File {
        let file = tempfile::tempfile_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[1; 1 << 20], 0).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        file
    }

    #[test]
    fn what_is_not_in_memory_is_given_back_as_a_transfer_and_what_is_is_read() {
        let memory = Memory::from_ranges(&[(vm_memory::GuestAddress(0), 0x10000)]).unwrap();
        let slice =
            vm_memory::GuestMemoryBackend::get_slice(&memory, vm_memory::GuestAddress(0), 4096).unwrap();
        let kept = Kept::new(&Buffer::of([slice].into_iter().collect()), &memory).unwrap();
        let spec = spec::Disk { serial: "cold".to_owned(), file: cold().into(), read_only: true };
        let disk = Disk::new(spec).unwrap();
        let first = disk.read(1024, &kept.buffer(), Some(&memory)).unwrap();
        if disk.reads.get() == Haste::Askable {
            assert!(first.is_some());
            disk.read(1024, &kept.buffer(), None).unwrap();
            assert!(disk.read(1024, &kept.buffer(), Some(&memory)).unwrap().is_none());
        } else {
            let name = "what_is_not_in_memory_is_given_back_as_a_transfer_and_what_is_is_read";
            let _ = io::Write::write_fmt(
                &mut io::stderr(),
                format_args!("skipped: {name}: the build's file system cannot be asked not to wait\n"),
            );
        }
        assert!(disk.flush(Some(&memory)).unwrap().is_none());
    }

    #[test]
    fn what_the_host_refuses_is_told_from_what_it_cannot_do() {
        let file = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&file, 4096).unwrap();
        rustix::fs::fcntl_add_seals(&file, rustix::fs::SealFlags::WRITE).unwrap();
        let disk = Disk::new(spec::Disk { serial: "sealed".to_owned(), file, read_only: false }).unwrap();
        assert_eq!(disk.zero(0, 8), Err(Refusal::Host));
        assert_eq!(disk.zero(0, 9), Err(Refusal::Request));
    }
}
