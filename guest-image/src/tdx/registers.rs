//! RTMR1 and RTMR2 of a kernel that firmware starts without a boot loader, as chains of events.
//!
//! ```text
//! register = SHA-384( register so far[48] | digest of the event[48] )       from zeros on
//! RTMR1    kernel | "Calling EFI Application…" | separator | "Exit Boot Services Invocation" | "… Returned with Success"
//! RTMR2    load options in UTF-16 with the zero that ends them | initrd, if there is one
//! ```
//! The order is OVMF's with QEMU's `-kernel`, since its release of February 2025: from then on it reads the kernel's file as
//! it was given, and QEMU with support for TDX offers it. Firmware of before measures a kernel that QEMU wrote into.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha384};

use super::kernel::EfiKernel;
use crate::measure::DIGEST_BYTES;

/// Measured once the kernel is loaded.
pub const CALLING: &[u8] = b"Calling EFI Application from Boot Option";
/// Measured between firmware's own events and those of what it starts.
pub const SEPARATOR: &[u8] = &[0; 4];
/// Measured when the kernel asks for the machine.
pub const EXITING: &[u8] = b"Exit Boot Services Invocation";
/// Measured when it has been given it.
pub const EXITED: &[u8] = b"Exit Boot Services Returned with Success";

/// The first release of OVMF that hands on the kernel's file unchanged.
const FIRST: u32 = 202502;
/// The first release that puts the initrd's name before the command line.
const INITRD_FIRST: u32 = 202508;

/// A register that is extended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register([u8; DIGEST_BYTES]);

/// A release of the firmware's source, as edk2 names them: year and month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release(u32);

/// A release that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{found:?} is no release of edk2 from {FIRST} on, such as 202508: firmware of before measures a kernel that QEMU changed"
)]
pub struct OldFirmware {
    /// What was given.
    pub found: String,
}

/// What is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EfiBoot<'a> {
    /// The kernel.
    pub kernel: &'a EfiKernel,
    /// SHA-384 of the initrd, if there is one.
    pub initrd: Option<[u8; DIGEST_BYTES]>,
    /// The command line as QEMU is given it.
    pub cmdline: &'a str,
    /// Which firmware starts it.
    pub release: Release,
}

/// Why load options cannot be foretold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BootError {
    /// A text that firmware widens byte by byte, whatever it means.
    #[error("the command line has characters that are not ASCII, which firmware does not convert")]
    Characters,
    /// Nothing to measure.
    #[error("there is neither a command line nor an initrd, so the kernel has no load options to measure")]
    Nothing,
}

impl Register {
    /// One that was never extended.
    pub fn new() -> Self {
        Self([0; DIGEST_BYTES])
    }

    /// One that was extended with each of `digests`.
    pub fn of<'a>(digests: impl IntoIterator<Item = &'a [u8; DIGEST_BYTES]>) -> Self {
        digests.into_iter().fold(Self::new(), |so_far, digest| {
            let mut hash = Sha384::new();
            hash.update(so_far.0);
            hash.update(digest);
            Self(hash.finalize().into())
        })
    }

    /// Its value.
    pub fn bytes(&self) -> [u8; DIGEST_BYTES] {
        self.0
    }
}

impl Default for Register {
    fn default() -> Self {
        Self::new()
    }
}

impl EfiBoot<'_> {
    /// Digests of the events that extend RTMR1.
    pub fn rtmr1(&self) -> Vec<[u8; DIGEST_BYTES]> {
        let said = [CALLING, SEPARATOR, EXITING, EXITED].map(|text| Sha384::digest(text).into());
        [self.kernel.digest()].into_iter().chain(said).collect()
    }

    /// Digests of the events that extend RTMR2.
    ///
    /// # Errors
    /// [`BootError`]
    pub fn rtmr2(&self) -> Result<Vec<[u8; DIGEST_BYTES]>, BootError> {
        let options: Vec<u8> = self.options()?.bytes().chain([0]).flat_map(|byte| [byte, 0]).collect();
        let options: [u8; DIGEST_BYTES] = Sha384::digest(options).into();
        Ok([options].into_iter().chain(self.initrd).collect())
    }

    fn options(&self) -> Result<String, BootError> {
        if !self.cmdline.is_ascii() || self.cmdline.contains('\0') {
            return Err(BootError::Characters);
        }
        match (self.initrd, self.release) {
            (None, _) if self.cmdline.is_empty() => Err(BootError::Nothing),
            (None, _) => Ok(self.cmdline.to_owned()),
            (Some(_), release) if release.0 >= INITRD_FIRST => Ok(format!("initrd=initrd {}", self.cmdline)),
            (Some(_), _) => Ok(format!("{} initrd=initrd", self.cmdline)),
        }
    }
}

impl FromStr for Release {
    type Err = OldFirmware;

    fn from_str(text: &str) -> Result<Self, OldFirmware> {
        let digits = text.len() == 6 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| text.parse().ok()).flatten();
        let known = number.filter(|number| *number >= FIRST && (1..=12).contains(&(number % 100)));
        known.map(Self).ok_or_else(|| OldFirmware { found: text.to_owned() })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::tests::kernel;
    use super::*;

    fn options(release: &str, initrd: bool, cmdline: &str) -> Result<String, BootError> {
        let kernel = EfiKernel::parse(&kernel()).expect("a kernel");
        let release = release.parse().expect("a release");
        EfiBoot { kernel: &kernel, initrd: initrd.then_some([1; 48]), cmdline, release }.options()
    }

    #[test]
    fn the_initrds_name_stands_where_the_firmwares_release_puts_it() {
        assert_eq!(options("202502", true, "quiet").as_deref(), Ok("quiet initrd=initrd"));
        assert_eq!(options("202505", true, "").as_deref(), Ok(" initrd=initrd"));
        assert_eq!(options("202508", true, "quiet").as_deref(), Ok("initrd=initrd quiet"));
        assert_eq!(options("202608", false, "quiet").as_deref(), Ok("quiet"));
    }

    #[test]
    fn what_firmware_does_not_convert_is_refused() {
        assert_eq!(options("202508", true, "name=\u{e4}"), Err(BootError::Characters));
        assert_eq!(options("202508", false, ""), Err(BootError::Nothing));
    }

    #[test]
    fn firmware_that_measures_a_changed_kernel_is_refused() {
        let refused = ["202411", "202500", "202513", "2025", "+20258", "stable"];
        assert!(refused.iter().all(|text| text.parse::<Release>().is_err()));
    }

    #[test]
    fn every_event_counts_and_so_does_their_order() {
        let (one, two) = ([1; 48], [2; 48]);
        let registers = [vec![], vec![&one], vec![&one, &two], vec![&two, &one]].map(Register::of);
        let different: std::collections::BTreeSet<_> = registers.iter().map(Register::bytes).collect();
        assert_eq!(different.len(), 4);
    }

    #[test]
    fn rtmr2_is_the_options_and_then_the_initrd() {
        let kernel = EfiKernel::parse(&kernel()).expect("a kernel");
        let release = "202508".parse().expect("a release");
        let boot = EfiBoot { kernel: &kernel, initrd: Some([1; 48]), cmdline: "a", release };
        let text: Vec<u8> = "initrd=initrd a\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(boot.rtmr2(), Ok(vec![Sha384::digest(text).into(), [1; 48]]));
    }
}
