#![allow(unsafe_code)] // Landlock has three system calls, and no wrapper in the C library.
//! Landlock: from here on this thread, and every one that it starts, opens, makes and removes no file at all.
//!
//! Descriptors that are open stay as they are. Connecting to a Unix socket by its path is none of the rights that are
//! given up here: the vsock device needs it, and its root directory is the pod's run directory.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Asks for the version of the interface instead of a set of rules (`linux/landlock.h`).
const VERSION: libc::c_uint = 1;

/// Rights of files by the version that brought them: all from EXECUTE to MAKE_SYM, REFER, TRUNCATE, IOCTL_DEV.
const FILES: [(i64, u64); 4] = [(1, 0x1fff), (2, 1 << 13), (3, 1 << 14), (5, 1 << 15)];

/// Binding and connecting TCP sockets, since version 4.
const TCP: (i64, u64) = (4, 3);

/// Abstract Unix sockets of others, and signals to others, since version 6.
const SCOPES: (i64, u64) = (6, 3);

/// Why the thread could not be restricted.
#[derive(Debug, thiserror::Error)]
pub enum LandlockError {
    /// The kernel has Landlock and refused it.
    #[error("the kernel refuses to restrict the process with Landlock")]
    Refused(#[source] io::Error),
}

/// Gives up every right that this kernel's Landlock knows, less what it does not know yet. Gives the version of the
/// interface, or nothing if the kernel was built or started without Landlock. The thread must have no new privileges.
pub fn give_up_files() -> Result<Option<i64>, LandlockError> {
    // SAFETY: with this flag the kernel reads no memory.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u64>(), 0_usize, VERSION)
    };
    if version <= 0 {
        return Ok(None);
    }
    let known = |(since, rights): (i64, u64)| if version >= since { rights } else { 0 };
    let files = FILES.into_iter().map(known).fold(0, |all, rights| all | rights);
    // struct landlock_ruleset_attr, which grew with the versions.
    let attribute = [files, known(TCP), known(SCOPES)];
    let length = if version >= 6 {
        24_usize
    } else if version >= 4 {
        16
    } else {
        8
    };
    // SAFETY: the attribute lives through the call and is at least as long as said.
    let rules = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, attribute.as_ptr(), length, 0 as libc::c_uint)
    };
    let Some(rules) = i32::try_from(rules).ok().filter(|rules| *rules >= 0) else {
        return Err(LandlockError::Refused(io::Error::last_os_error()));
    };
    // SAFETY: the kernel has just made this descriptor for us.
    let rules = unsafe { OwnedFd::from_raw_fd(rules) };
    // SAFETY: takes no pointers.
    let outcome =
        unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0 as libc::c_uint) };
    if outcome == 0 { Ok(Some(version)) } else { Err(LandlockError::Refused(io::Error::last_os_error())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    #[test]
    fn a_restricted_thread_reads_what_is_open_and_opens_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, b"content").unwrap();
        let outcome = std::thread::spawn(move || {
            let mut open = File::open(&path).unwrap();
            nix::sys::prctl::set_no_new_privs().unwrap();
            let version = give_up_files().unwrap()?;
            let mut content = String::new();
            open.read_to_string(&mut content).unwrap();
            Some((version, content, File::open(&path).map(drop).map_err(|error| error.kind())))
        });
        match outcome.join().unwrap() {
            None => println!("skipped: this kernel has no Landlock"),
            Some((version, content, opened)) => {
                println!("Landlock version {version}");
                assert_eq!((content.as_str(), opened), ("content", Err(io::ErrorKind::PermissionDenied)));
            }
        }
    }
}
