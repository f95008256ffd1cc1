#![allow(unsafe_code)] // Only a signal gets a thread out of KVM_RUN.
//! Gets a virtual CPU that runs back into the monitor.
//!
//! The flag in the shared page catches a CPU that is about to enter the guest, the signal one that is in it.

use std::io;
use std::sync::Arc;

use super::page::Page;

/// Gets one CPU out of the guest.
#[derive(Debug, Clone)]
pub struct Kick {
    page: Arc<Page>,
    process: i32,
    thread: i32,
}

extern "C" fn nothing(_signal: libc::c_int) {}

/// The signal: the first that the C library leaves to programs.
fn signal() -> libc::c_int {
    libc::SIGRTMIN()
}

/// Makes the signal harmless: it interrupts a system call and does nothing else. Once per process, before a kick.
pub fn prepare_thread() -> io::Result<()> {
    // SAFETY: all zeros are a valid action without flags; without SA_RESTART the interrupted call returns.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
    // SAFETY: the action is a live value, and its function touches nothing at all.
    let outcome = unsafe { libc::sigaction(signal(), &action, std::ptr::null_mut()) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Kick {
    pub(super) fn of_this_thread(page: Arc<Page>) -> Kick {
        let process = rustix::process::getpid().as_raw_nonzero().get();
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        Kick { page, process, thread }
    }

    /// Gets the CPU out: its [`super::Cpu::run`] returns [`super::Exit::Interrupted`], now or at its next call.
    pub fn kick(&self) {
        self.page.set_immediate_exit(true);
        // SAFETY: takes no pointers. A thread that has ended is not found, or its number is another thread of ours,
        // which the signal does not harm.
        unsafe { libc::syscall(libc::SYS_tgkill, self.process, self.thread, signal()) };
    }
}
