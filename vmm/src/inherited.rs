#![allow(unsafe_code)] // Descriptors that a parent passes by number can only be taken over by asserting that they are ours.
//! Descriptors that the parent passed by number on the command line.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Why a descriptor cannot be taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InheritError {
    /// Standard input, output and error are not passed this way.
    #[error("descriptor {number} is one of the three standard ones")]
    Standard {
        /// Its number.
        number: RawFd,
    },
    /// The number was given twice.
    #[error("descriptor {number} is given for two things")]
    Twice {
        /// Its number.
        number: RawFd,
    },
    /// The process opened it itself: what is passed on was not to be closed by the start of this program.
    #[error("descriptor {number} is the process's own")]
    Own {
        /// Its number.
        number: RawFd,
    },
    /// There is no such descriptor.
    #[error("descriptor {number} is not open")]
    Closed {
        /// Its number.
        number: RawFd,
    },
}

/// The numbers that were taken over so far.
#[derive(Debug, Default)]
pub struct Inherited {
    taken: Vec<RawFd>,
}

impl Inherited {
    /// Takes over descriptor `number`; call it before anything else in the process opens one.
    pub fn take(&mut self, number: RawFd) -> Result<OwnedFd, InheritError> {
        if number <= 2 {
            return Err(InheritError::Standard { number });
        }
        if self.taken.contains(&number) {
            return Err(InheritError::Twice { number });
        }
        // SAFETY: F_GETFD only asks for a flag of the descriptor, and fails on a number that is none.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        if flags < 0 {
            return Err(InheritError::Closed { number });
        }
        if flags & libc::FD_CLOEXEC != 0 {
            return Err(InheritError::Own { number });
        }
        // SAFETY: F_SETFD only sets a flag of the descriptor, and fails on a number that is none.
        if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
            return Err(InheritError::Closed { number });
        }
        self.taken.push(number);
        // SAFETY: the descriptor is open, as just seen; it is not a standard one; `taken` shows that nobody got it
        // from here before, and it was there when this program started, so nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::{AsRawFd, IntoRawFd};

    #[test]
    fn a_descriptor_that_the_process_opened_itself_is_refused() {
        let own = File::open("/dev/null").unwrap();
        let number = own.as_raw_fd();
        assert_eq!(Inherited::default().take(number).unwrap_err(), InheritError::Own { number });
    }

    #[test]
    fn a_descriptor_is_taken_once() {
        let passed = File::open("/dev/null").unwrap();
        rustix::io::fcntl_setfd(&passed, rustix::io::FdFlags::empty()).unwrap();
        let number = passed.into_raw_fd();
        let mut inherited = Inherited::default();
        let _taken = inherited.take(number).unwrap();
        assert_eq!(inherited.take(number).unwrap_err(), InheritError::Twice { number });
    }

    #[test]
    fn a_standard_descriptor_is_refused() {
        assert_eq!(Inherited::default().take(1).unwrap_err(), InheritError::Standard { number: 1 });
    }

    #[test]
    fn a_number_that_is_not_open_is_refused() {
        assert_eq!(Inherited::default().take(1 << 20).unwrap_err(), InheritError::Closed { number: 1 << 20 });
    }
}
