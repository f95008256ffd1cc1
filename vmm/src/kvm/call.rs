#![allow(unsafe_code)] // An ioctl is a number and memory whose meaning only the number tells.
//! One ioctl as a value, and who carries it out.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A request that the kernel did not fulfil.
#[derive(Debug, thiserror::Error)]
#[error("{request} failed")]
pub struct KvmError {
    /// Which.
    pub request: Request,
    /// The kernel's answer.
    pub source: io::Error,
}

/// An ioctl's number, which also says how much memory it takes, and its name in the kernel's headers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Request {
    number: u32,
    name: &'static str,
}

impl Request {
    pub(super) const fn new(number: u32, name: &'static str) -> Request {
        Request { number, name }
    }

    /// Its number.
    pub fn number(self) -> u32 {
        self.number
    }

    /// Its name, such as `KVM_CREATE_VM`.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Bytes of memory that the kernel reads or writes at the argument, at least.
    fn size(self) -> usize {
        usize::try_from((self.number >> 16) & 0x3fff).unwrap_or(usize::MAX)
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[derive(Debug)]
enum Argument<'a> {
    Value(u64),
    Memory(&'a mut [u8]),
}

/// One ioctl. Only this folder makes them, so that number, memory and the addresses in it fit each other.
#[derive(Debug)]
pub struct Call<'a> {
    request: Request,
    argument: Argument<'a>,
}

impl<'a> Call<'a> {
    /// A call whose argument is a number.
    pub(super) fn value(request: Request, value: u64) -> Call<'a> {
        assert_eq!(request.size(), 0, "{request} takes memory");
        Call { request, argument: Argument::Value(value) }
    }

    /// A call whose argument is memory. What follows the part that the number tells, such as the entries of a list,
    /// must be there as the part before it says: that is for the caller of this function to see to.
    pub(super) fn memory(request: Request, memory: &'a mut [u8]) -> Call<'a> {
        assert!(memory.len() >= request.size(), "{request} takes more memory");
        Call { request, argument: Argument::Memory(memory) }
    }

    /// What is asked.
    pub fn request(&self) -> Request {
        self.request
    }

    /// The argument, if it is memory.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.argument {
            Argument::Value(_) => None,
            Argument::Memory(memory) => Some(memory),
        }
    }

    /// The argument, if it is memory, to answer into.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        match &mut self.argument {
            Argument::Value(_) => None,
            Argument::Memory(memory) => Some(memory),
        }
    }

    /// The argument, if it is a number.
    pub fn number(&self) -> Option<u64> {
        match self.argument {
            Argument::Value(value) => Some(value),
            Argument::Memory(_) => None,
        }
    }
}

/// Carries out calls.
///
/// # Safety
/// It does what the kernel would do: the addresses in a call are used for what the request says and nothing else, and
/// where the request makes a descriptor, the answer is one that nobody else owns.
pub unsafe trait Sys: fmt::Debug + Send + Sync {
    /// Carries out one call on `fd`: gives the kernel's answer, which is not negative.
    fn ioctl(&self, fd: BorrowedFd<'_>, call: Call<'_>) -> io::Result<i32>;
}

/// The kernel itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kernel;

// SAFETY: it is the kernel.
unsafe impl Sys for Kernel {
    fn ioctl(&self, fd: BorrowedFd<'_>, call: Call<'_>) -> io::Result<i32> {
        let number = libc::c_ulong::from(call.request.number);
        let argument = match call.argument {
            Argument::Value(value) => value,
            Argument::Memory(memory) => memory.as_mut_ptr().expose_provenance() as u64,
        };
        // SAFETY: the memory is as long as the number says, and its contents were put together by this folder; what
        // addresses in it point to is kept alive by the type that made the call.
        let answer = unsafe { libc::ioctl(fd.as_raw_fd(), number, argument) };
        if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
    }
}

/// A structure of KVM's that is nothing but its bytes.
///
/// # Safety
/// It has no padding, and any bytes are a valid value.
pub(super) unsafe trait Plain: Copy + Default {}

// SAFETY: (all of these) made of integers only, laid out by the kernel's headers without gaps.
unsafe impl Plain for kvm_bindings::kvm_userspace_memory_region {}
// SAFETY: as above.
unsafe impl Plain for kvm_bindings::kvm_irqfd {}
// SAFETY: as above.
unsafe impl Plain for kvm_bindings::kvm_pit_config {}
// SAFETY: as above.
unsafe impl Plain for kvm_bindings::kvm_regs {}
// SAFETY: as above.
unsafe impl Plain for kvm_bindings::kvm_sregs {}
// SAFETY: as above.
unsafe impl Plain for kvm_bindings::kvm_fpu {}
// SAFETY: as above.
unsafe impl Plain for kvm_bindings::kvm_enable_cap {}

/// What is needed to make calls on one descriptor.
#[derive(Debug)]
pub(super) struct Handle {
    sys: std::sync::Arc<dyn Sys>,
    fd: OwnedFd,
}

impl Handle {
    pub(super) fn new(sys: std::sync::Arc<dyn Sys>, fd: OwnedFd) -> Handle {
        Handle { sys, fd }
    }

    pub(super) fn call(&self, call: Call<'_>) -> Result<i32, KvmError> {
        use std::os::fd::AsFd;
        let request = call.request;
        self.sys.ioctl(self.fd.as_fd(), call).map_err(|source| KvmError { request, source })
    }

    /// A call whose argument is the number `value`.
    pub(super) fn value(&self, request: Request, value: u64) -> Result<i32, KvmError> {
        self.call(Call::value(request, value))
    }

    /// A call whose argument is `argument`, which the kernel may also write.
    pub(super) fn structure<T: Plain>(&self, request: Request, argument: &mut T) -> Result<i32, KvmError> {
        let length = size_of::<T>();
        // SAFETY: the value lives through the call, has no padding that would be read uninitialised, and takes any
        // bytes: `Plain` says so.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(argument).cast::<u8>(), length) };
        self.call(Call::memory(request, bytes))
    }

    /// A call that makes a descriptor.
    pub(super) fn descriptor(&self, request: Request, value: u64) -> Result<Handle, KvmError> {
        let number = self.value(request, value)?;
        // SAFETY: `Sys` promises that the answer to such a request is a descriptor that nobody owns yet.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        Ok(Handle { sys: std::sync::Arc::clone(&self.sys), fd })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.fd.as_fd()
    }
}
