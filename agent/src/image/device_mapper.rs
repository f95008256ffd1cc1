//! The kernel's device mapper, as far as one mapped device with one target is made and removed.
#![allow(unsafe_code)] // The device mapper is spoken to by ioctl alone.
//!
//! ```text
//! DEV_CREATE name → its number ── TABLE_LOAD one line ── DEV_SUSPEND without the flag: it is live ── DEV_REMOVE
//! ```
//! Source: `include/uapi/linux/dm-ioctl.h` of Linux. Never here: what a table's line means.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use zeroize::{Zeroize, Zeroizing};

/// Made by the kernel where `/dev` is a devtmpfs.
pub(crate) const CONTROL: &str = "/dev/mapper/control";

/// The interface's version that this was written for; the kernel refuses another first number.
const VERSION: [u32; 3] = [4, 0, 0];
const NAME_BYTES: usize = 128;
const UUID_BYTES: usize = 129;
const TYPE_BYTES: usize = 16;
/// Room for a table's line and its end.
const LINE_BYTES: usize = 512;

const READ_ONLY: u32 = 1 << 0;
/// The kernel wipes its copies of the call.
const SECURE_DATA: u32 = 1 << 15;
/// Removes the device once nobody has it open any more.
const DEFERRED_REMOVE: u32 = 1 << 17;

/// `struct dm_ioctl`.
#[repr(C)]
struct Header {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; NAME_BYTES],
    uuid: [u8; UUID_BYTES],
    data: [u8; 7],
}

/// `struct dm_target_spec`, and the line behind it.
#[repr(C)]
struct Target {
    sector_start: u64,
    length: u64,
    status: i32,
    next: u32,
    target_type: [u8; TYPE_BYTES],
    line: [u8; LINE_BYTES],
}

#[repr(C)]
struct Call {
    header: Header,
    target: Target,
}

// The kernel takes a buffer of `data_size` bytes; the request's number carries the size of the header alone.
nix::ioctl_readwrite!(dm_dev_create, 0xfd, 3, Header);
nix::ioctl_readwrite!(dm_dev_remove, 0xfd, 4, Header);
nix::ioctl_readwrite!(dm_dev_suspend, 0xfd, 6, Header);
nix::ioctl_readwrite!(dm_table_load, 0xfd, 9, Header);

type Request = unsafe fn(libc::c_int, *mut Header) -> nix::Result<libc::c_int>;

/// The one target of a device.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// Of 512 bytes.
    pub(crate) sectors: u64,
    pub(crate) target: &'static str,
    pub(crate) line: Line,
    pub(crate) writable: bool,
}

/// A target's parameters.
#[derive(PartialEq, Eq)]
pub(crate) enum Line {
    /// For everybody to see.
    Plain(String),
    /// With a key in it.
    Secret(Zeroizing<String>),
}

impl Line {
    /// No line is as long as this.
    pub(crate) const MOST: usize = LINE_BYTES;

    fn text(&self) -> &str {
        match self {
            Line::Plain(text) => text,
            Line::Secret(text) => text,
        }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Line::Plain(text) => fmt::Debug::fmt(text, f),
            Line::Secret(_) => f.write_str("secret"),
        }
    }
}

/// A mapped device; dropping it removes it, at the latest when its last user has gone.
#[derive(Debug)]
pub(crate) struct Mapped {
    name: String,
    control: PathBuf,
    node: PathBuf,
}

impl Mapped {
    /// Makes the device.
    pub(crate) fn make(control: &Path, name: &str, table: &Table) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(control)?;
        let mut create = Call::named(name)?;
        create.send(&file, dm_dev_create)?;
        // The device goes again if anything below fails.
        let mapped = Self {
            name: name.to_owned(),
            control: control.to_owned(),
            node: PathBuf::from(format!("/dev/dm-{}", number(create.header.dev))),
        };
        let mut load = Call::named(name)?;
        load.set_target(table)?;
        load.send(&file, dm_table_load)?;
        Call::named(name)?.send(&file, dm_dev_suspend)?;
        Ok(mapped)
    }

    /// Its node, which devtmpfs makes.
    pub(crate) fn node(&self) -> &Path {
        &self.node
    }

    /// Leaves it to the end of the guest.
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let (name, control) = (std::mem::take(&mut self.name), std::mem::take(&mut self.control));
        let remove = move || {
            if let Err(error) = remove(&control, &name) {
                tracing::warn!(name, %error, "mapped device stays");
            }
        };
        // The kernel takes a tenth of a second for it, and nobody has to wait for that. Outside a runtime (in a test) it is
        // gone when this returns.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

fn remove(control: &Path, name: &str) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(control)?;
    let mut remove = Call::named(name)?;
    remove.header.flags = DEFERRED_REMOVE;
    remove.send(&file, dm_dev_remove)
}

impl Call {
    fn named(name: &str) -> io::Result<Self> {
        let mut header = Header {
            version: VERSION,
            data_size: size_of::<Call>() as u32,
            data_start: size_of::<Header>() as u32,
            target_count: 0,
            open_count: 0,
            flags: 0,
            event_nr: 0,
            padding: 0,
            dev: 0,
            name: [0; NAME_BYTES],
            uuid: [0; UUID_BYTES],
            data: [0; 7],
        };
        put(&mut header.name, name)?;
        let target = Target {
            sector_start: 0,
            length: 0,
            status: 0,
            next: 0,
            target_type: [0; TYPE_BYTES],
            line: [0; LINE_BYTES],
        };
        Ok(Self { header, target })
    }

    fn set_target(&mut self, table: &Table) -> io::Result<()> {
        self.header.target_count = 1;
        if !table.writable {
            self.header.flags |= READ_ONLY;
        }
        if matches!(table.line, Line::Secret(_)) {
            self.header.flags |= SECURE_DATA;
        }
        self.target.length = table.sectors;
        put(&mut self.target.target_type, table.target)?;
        put(&mut self.target.line, table.line.text())
    }

    fn send(&mut self, control: &File, request: Request) -> io::Result<()> {
        // SAFETY: the kernel reads and writes at most `data_size` bytes at the pointer, which is the size of the whole `Call`
        // that it is made from, so the target behind the header is the pointer's to reach. All fields are integers, for
        // which any bytes are values, and `control` is open throughout the call, which keeps nothing of the pointer.
        unsafe { request(control.as_raw_fd(), (&raw mut *self).cast::<Header>()) }?;
        Ok(())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.target.line.zeroize();
    }
}

/// How a table's line names the device with this node.
pub(crate) fn numbers(node: &Path) -> io::Result<String> {
    let device = fs::metadata(node)?.rdev();
    Ok(format!("{}:{}", major(device), minor(device)))
}

/// Copies `text` with at least one zero behind it.
fn put(field: &mut [u8], text: &str) -> io::Result<()> {
    let room = field.len().saturating_sub(1);
    let place = field.get_mut(..text.len()).filter(|_| text.len() <= room && !text.contains('\0'));
    let too_long =
        || io::Error::new(io::ErrorKind::InvalidInput, format!("{} bytes, {room} fit", text.len()));
    place.ok_or_else(too_long)?.copy_from_slice(text.as_bytes());
    Ok(())
}

/// The kernel's `new_encode_dev`: twelve bits of the minor number above the major one's.
fn number(dev: u64) -> u64 {
    (dev & 0xff) | ((dev >> 12) & 0xf_ff00)
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn structures_are_laid_out_as_the_kernels() {
        assert_eq!(size_of::<Header>(), 312);
        assert_eq!((offset_of!(Header, flags), offset_of!(Header, dev)), (28, 40));
        assert_eq!((offset_of!(Header, name), offset_of!(Header, uuid)), (48, 176));
        assert_eq!((offset_of!(Call, target), offset_of!(Target, line)), (312, 40));
        assert_eq!((offset_of!(Target, next), offset_of!(Target, target_type)), (20, 24));
    }

    #[test]
    fn requests_have_the_kernels_numbers() {
        assert_eq!(nix::request_code_readwrite!(0xfd, 3, size_of::<Header>()), 0xc138_fd03);
        assert_eq!(nix::request_code_readwrite!(0xfd, 9, size_of::<Header>()), 0xc138_fd09);
    }

    #[test]
    fn a_name_that_leaves_no_room_for_its_end_is_refused() {
        assert!(Call::named(&"n".repeat(NAME_BYTES)).is_err());
        assert!(Call::named("a\0b").is_err());
        assert!(Call::named(&"n".repeat(NAME_BYTES - 1)).is_ok());
    }

    #[test]
    fn a_key_is_not_shown_and_the_kernel_wipes_its_copies() {
        let line = Line::Secret(Zeroizing::new("k3y".to_owned()));
        let table = Table { sectors: 8, target: "crypt", line, writable: true };
        assert!(!format!("{table:?}").contains("k3y"));
        let mut call = Call::named("n").unwrap();
        call.set_target(&table).unwrap();
        assert_eq!((call.header.flags, &call.target.line[..4]), (SECURE_DATA, &b"k3y\0"[..]));
    }

    #[test]
    fn a_device_is_read_only_unless_it_is_asked_for_otherwise() {
        let table = Table { sectors: 8, target: "verity", line: Line::Plain(String::new()), writable: false };
        let mut call = Call::named("n").unwrap();
        call.set_target(&table).unwrap();
        assert_eq!(call.header.flags, READ_ONLY);
    }

    #[test]
    fn a_minor_number_is_put_together_of_both_its_parts() {
        assert_eq!(number((253 << 8) | 7), 7);
        assert_eq!(number((253 << 8) | 0x34 | (0x12 << 20)), 0x1234);
    }
}
