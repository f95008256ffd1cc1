//! What the monitor reads before the guest runs, and while it is told what to do.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};

use coffer_vmm::boot::{Boot, load};
use coffer_vmm::control::Request;
use coffer_vmm::memory::{Backing, create};

/// MiB of memory that a kernel is loaded into: little, so that wrong lengths are soon too long.
const MEMORY: u32 = 32;

/// Bytes as a file that nobody else sees.
pub(crate) fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(bytes).expect("room for a temporary file");
    file.seek(SeekFrom::Start(0)).expect("a file that can be read again");
    file
}

/// An input is a kernel: an ELF file with a note or without, or a bzImage.
pub(crate) fn kernel(input: &[u8]) {
    let memory = create(MEMORY, Backing { huge_pages: false, prefault: false }).expect("memory");
    let (kernel, initrd) = (file(input), file(b"not looked into"));
    let boot =
        Boot { kernel: &kernel, initrd: Some(&initrd), command_line: "console=ttyS0", cpus: 2, lines: &[4] };
    // That it starts or is refused is the kernel's affair; the error is made into words, which must not fail either.
    let _ = load(&memory, boot).map_err(|error| error.to_string());
}

/// An input is a packet on the control socket.
pub(crate) fn control(input: &[u8]) {
    if let Some(Request::Attach { serial, .. } | Request::Detach { serial }) = Request::parse(input) {
        assert!(!serial.contains(' '), "a serial of two words");
    }
}
