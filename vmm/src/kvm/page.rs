#![allow(unsafe_code)] // The page is shared with the kernel: it is mapped, and only KVM_RUN says which part is valid.
//! The page that kernel and monitor share per virtual CPU: why it stopped, and where its answer goes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings as kernel;

/// Bytes that an access to a port moves: `count` units of `size` bytes.
#[derive(Debug)]
pub struct PortData<'p> {
    /// All bytes.
    pub bytes: &'p mut [u8],
    /// Bytes of one unit: 1, 2 or 4.
    pub size: usize,
}

/// Why a virtual CPU stopped. What borrows from the page is answered by writing into it before the CPU runs again.
#[derive(Debug)]
pub enum Exit<'p> {
    /// The guest reads a port.
    PortIn(u16, PortData<'p>),
    /// The guest writes a port.
    PortOut(u16, PortData<'p>),
    /// The guest reads memory that is none.
    MemoryRead(u64, &'p mut [u8]),
    /// The guest writes memory that is none.
    MemoryWrite(u64, &'p [u8]),
    /// The guest waits for an interrupt, and KVM does not wait for it.
    Halted,
    /// A fault within a fault within a fault: what the guest does to reset itself, or what becomes of it.
    TripleFault,
    /// KVM has a message from the guest or its firmware, of this kind (`KVM_SYSTEM_EVENT_…`).
    SystemEvent(u32),
    /// A signal or a request came before or while the CPU ran.
    Interrupted,
    /// The processor refused to enter the guest, for this reason of its own.
    RefusedEntry(u64),
    /// KVM could not go on, for this reason (`KVM_INTERNAL_ERROR_…`).
    InternalError(u32),
    /// A reason that no machine of ours is set up to give (`KVM_EXIT_…`).
    Unexpected(u32),
}

/// The mapped page, and the pages after it.
#[derive(Debug)]
pub(super) struct Page {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: it is memory that any thread may use; of all its bytes only `immediate_exit` is touched by more than the one
// thread that runs the CPU, and that one is an atomic.
unsafe impl Send for Page {}
// SAFETY: as above. `exit` needs the CPU's own `&mut`, see `Cpu::run`.
unsafe impl Sync for Page {}

impl Page {
    /// Maps `length` bytes of the CPU's descriptor.
    pub(super) fn map(cpu: BorrowedFd<'_>, length: usize) -> io::Result<Page> {
        if length < size_of::<kernel::kvm_run>() {
            return Err(io::Error::other(format!("the run page has only {length} bytes")));
        }
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
        let at =
            unsafe { libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, cpu.as_raw_fd(), 0) };
        match NonNull::new(at.cast::<u8>()) {
            Some(start) if at != libc::MAP_FAILED => Ok(Page { start, length }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Makes the CPU leave the guest as soon as it enters it, or not.
    pub(super) fn set_immediate_exit(&self, wanted: bool) {
        let at = self.at(std::mem::offset_of!(kernel::kvm_run, immediate_exit));
        // SAFETY: the byte lies in the page, which is mapped as long as `self`; every access of ours to it is through
        // an atomic, and the kernel only reads it.
        let flag = unsafe { AtomicU8::from_ptr(at) };
        flag.store(u8::from(wanted), Ordering::SeqCst);
    }

    /// Why the CPU stopped.
    ///
    /// # Safety
    /// The CPU is not running, and does not run while the result is alive; nobody else holds a result.
    pub(super) unsafe fn exit(&self) -> Exit<'_> {
        let reason = self.at(std::mem::offset_of!(kernel::kvm_run, exit_reason)).cast::<u32>();
        // SAFETY: it lies in the page, is aligned there, and nobody writes it now.
        let reason = unsafe { reason.read() };
        match reason {
            // SAFETY: the CPU is stopped, and the reason is the one that the function is for.
            kernel::KVM_EXIT_IO => unsafe { self.port() },
            // SAFETY: as above.
            kernel::KVM_EXIT_MMIO => unsafe { self.memory() },
            kernel::KVM_EXIT_HLT => Exit::Halted,
            kernel::KVM_EXIT_SHUTDOWN => Exit::TripleFault,
            // SAFETY: the CPU is stopped; the number is first in what belongs to this reason.
            kernel::KVM_EXIT_SYSTEM_EVENT => Exit::SystemEvent(unsafe { self.detail::<u32>() }),
            kernel::KVM_EXIT_INTR => Exit::Interrupted,
            // SAFETY: as above.
            kernel::KVM_EXIT_FAIL_ENTRY => Exit::RefusedEntry(unsafe { self.detail::<u64>() }),
            // SAFETY: as above.
            kernel::KVM_EXIT_INTERNAL_ERROR => Exit::InternalError(unsafe { self.detail::<u32>() }),
            other => Exit::Unexpected(other),
        }
    }

    fn at(&self, offset: usize) -> *mut u8 {
        self.start.as_ptr().wrapping_add(offset)
    }

    /// Where the part of the page is that the reason gives a meaning to.
    const DETAIL: usize = std::mem::offset_of!(kernel::kvm_run, __bindgen_anon_1);

    /// The beginning of that part.
    ///
    /// # Safety
    /// As [`Page::exit`]; any bytes are a valid `T`, which is no longer than the part.
    unsafe fn detail<T: Copy>(&self) -> T {
        // SAFETY: it lies in the page, aligned for every structure that KVM puts there, and nobody writes it now.
        unsafe { self.at(Self::DETAIL).cast::<T>().read() }
    }

    /// # Safety
    /// As [`Page::exit`], and the reason is KVM_EXIT_IO.
    unsafe fn port(&self) -> Exit<'_> {
        // SAFETY: the caller knows that this is what the page holds.
        let io = unsafe { self.detail::<kernel::kvm_run__bindgen_ty_1__bindgen_ty_4>() };
        let unexpected = Exit::Unexpected(kernel::KVM_EXIT_IO);
        let size = usize::from(io.size);
        let range = usize::try_from(io.count)
            .ok()
            .and_then(|count| count.checked_mul(size))
            .zip(usize::try_from(io.data_offset).ok());
        let Some((length, offset)) = range else { return unexpected };
        let inside = offset >= size_of::<kernel::kvm_run>() && offset.saturating_add(length) <= self.length;
        if !inside || size == 0 {
            return unexpected;
        }
        // SAFETY: the range was just seen to lie in the mapping, behind the kvm_run; nobody else uses it while the
        // CPU is stopped.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.at(offset), length) };
        let data = PortData { bytes, size };
        match u32::from(io.direction) {
            kernel::KVM_EXIT_IO_IN => Exit::PortIn(io.port, data),
            _ => Exit::PortOut(io.port, data),
        }
    }

    /// # Safety
    /// As [`Page::exit`], and the reason is KVM_EXIT_MMIO.
    unsafe fn memory(&self) -> Exit<'_> {
        type Access = kernel::kvm_run__bindgen_ty_1__bindgen_ty_6;
        // SAFETY: the caller knows that this is what the page holds.
        let access = unsafe { self.detail::<Access>() };
        let length = usize::try_from(access.len).unwrap_or(usize::MAX);
        if length > access.data.len() {
            return Exit::Unexpected(kernel::KVM_EXIT_MMIO);
        }
        let data = self.at(Self::DETAIL + std::mem::offset_of!(Access, data));
        // SAFETY: the bytes lie in the page, and nobody else uses them while the CPU is stopped.
        let data = unsafe { std::slice::from_raw_parts_mut(data, length) };
        if access.is_write != 0 {
            Exit::MemoryWrite(access.phys_addr, data)
        } else {
            Exit::MemoryRead(access.phys_addr, data)
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this length, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}
