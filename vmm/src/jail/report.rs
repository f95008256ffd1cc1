#![allow(unsafe_code)] // A signal handler is set by the C library, and reads what the kernel lays before it.
//! Says which system call a filter refused, before the process ends of it.
//!
//! The filter's answer is a signal that cannot be held off: while its handler runs, or is blocked, or is not there, the next
//! call that is refused ends the process at once. So the handler writes one line and makes such a call itself. The process
//! that waits for this one sees that it ended by SIGSYS.

use std::io;

/// Where `siginfo_t` says which call it was, in bytes: behind three numbers, a gap and the caller's address.
const CALL: usize = 24;

/// Sets the handler, for all threads. To be called before the first filter is installed.
pub fn report_refused_calls() -> io::Result<()> {
    // SAFETY: all zeros are a valid structure: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *const libc::siginfo_t, *const libc::c_void) = refused;
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the structure lives through the call, and the handler does only what a handler may.
    let outcome = unsafe { libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut()) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn refused(_signal: libc::c_int, info: *const libc::siginfo_t, _context: *const libc::c_void) {
    let at = info.cast::<u8>().wrapping_add(CALL).cast::<i32>();
    // SAFETY: the kernel lays a whole `siginfo_t` before the handler; for SIGSYS there is a number at this offset.
    let call = unsafe { at.read_unaligned() };
    let (line, length) = line(call);
    // SAFETY: the bytes live through the call. If nobody reads them there is nothing to be done about it.
    unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), length) };
    // SAFETY: takes nothing. It is on no list: with SIGSYS blocked, as it is in its handler, the process ends here.
    unsafe { libc::syscall(libc::SYS_getppid) };
    // SAFETY: ends a process that has no filter after all.
    unsafe { libc::_exit(1) }
}

/// The line about a call, made without anything that a handler may not use.
fn line(call: i32) -> ([u8; 96], usize) {
    let (mut line, mut length) = ([0; 96], 0);
    let mut put = |bytes: &[u8]| {
        for byte in bytes {
            if let Some(place) = line.get_mut(length) {
                *place = *byte;
                length += 1;
            }
        }
    };
    put(b"coffer-vmm: system call ");
    let mut digits = [0; 10];
    let (mut rest, mut count) = (call.unsigned_abs(), 0);
    for place in digits.iter_mut().rev() {
        *place = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        count += 1;
        if rest == 0 {
            break;
        }
    }
    put(digits.get(digits.len() - count..).unwrap_or(&[]));
    put(b" is not one that this thread may make\n");
    (line, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_named_by_its_number() {
        let text = |call| {
            let (line, length) = line(call);
            String::from_utf8(line[..length].to_vec()).unwrap()
        };
        assert_eq!(text(59), "coffer-vmm: system call 59 is not one that this thread may make\n");
        assert_eq!(text(0), "coffer-vmm: system call 0 is not one that this thread may make\n");
        assert!(text(i32::MAX).contains("2147483647"));
    }
}
