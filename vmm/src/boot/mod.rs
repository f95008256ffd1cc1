//! Puts a kernel into the guest's memory, and tells it what machine it runs on.
//!
//! ```text
//! image    which of the two kinds of kernel a file is ──▶ elf (vmlinux) or bzimage
//! load     kernel, initrd and command line into memory ──▶ how the first CPU starts
//! pvh      what a kernel that is entered by its PVH note is told
//! linux    what one that is entered by the Linux 64-bit protocol is told
//! mptable  the processors and interrupt lines, as Intel's MultiProcessor Specification 1.4 has them
//! ```
//! A kernel file is not trusted: every length and address in it is checked before it is used, and nothing of it is kept
//! beyond its headers.
//!
//! Never here: who chose the kernel, and whether it is the one that was measured.

mod bzimage;
mod elf;
mod image;
mod linux;
mod load;
mod mptable;
mod pvh;

pub use image::KernelError;
pub use load::{Boot, BootError, load};
