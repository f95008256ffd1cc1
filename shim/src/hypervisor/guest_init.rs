#![allow(unsafe_code)] // A program of its own, without crates: it speaks to the guest's kernel through the C library.
//! PID 1 of the test guest. Compiled by the tests, not part of the shim.
//!
//! It reports to CID 2 port 1023, then obeys one line per connection to its port 1024:
//! `echo`, `sink`, `source N`, `stall`, `half PORT`, `dial PORT`, `disks`, `head SERIAL`, `write SERIAL TEXT`, `nics`,
//! `uptime`, `halt`.

use std::ffi::{CString, c_char, c_int, c_ulong, c_void};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::FromRawFd;
use std::thread;

const VSOCK: c_int = 40;
const STREAM: c_int = 1;
const ANY: u32 = u32::MAX;

#[repr(C)]
struct Address {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    zero: [u8; 4],
}

unsafe extern "C" {
    fn mount(s: *const c_char, t: *const c_char, k: *const c_char, f: c_ulong, d: *const c_void) -> c_int;
    fn reboot(command: c_int) -> c_int;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn bind(fd: c_int, address: *const Address, length: u32) -> c_int;
    fn connect(fd: c_int, address: *const Address, length: u32) -> c_int;
    fn listen(fd: c_int, backlog: c_int) -> c_int;
    fn accept(fd: c_int, address: *const c_void, length: *const c_void) -> c_int;
    fn shutdown(fd: c_int, how: c_int) -> c_int;
}

fn attach(kind: &str, target: &str) {
    let _ = fs::create_dir_all(target);
    let (kind, target) = (CString::new(kind).unwrap(), CString::new(target).unwrap());
    // SAFETY: all are live C strings, and the data may be null.
    unsafe { mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
}

fn address(cid: u32, port: u32) -> Address {
    Address { family: 40, reserved: 0, port, cid, zero: [0; 4] }
}

fn dial(port: u32) -> Option<File> {
    // SAFETY: the address outlives the calls; the descriptor is new and nobody else's.
    unsafe {
        let fd = socket(VSOCK, STREAM, 0);
        if connect(fd, &address(2, port), 16) != 0 {
            return None;
        }
        Some(File::from_raw_fd(fd))
    }
}

fn close_writing(stream: &File) {
    use std::os::fd::AsRawFd;
    // SAFETY: takes no pointers.
    unsafe { shutdown(stream.as_raw_fd(), 1) };
}

fn hash(sum: &mut u64, bytes: &[u8]) {
    for byte in bytes {
        *sum = (*sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    }
}

fn disks(out: &mut impl Write) -> std::io::Result<()> {
    for entry in fs::read_dir("/sys/block")?.flatten() {
        let name = entry.file_name().into_string().unwrap();
        if let Ok(page) = fs::read(entry.path().join("device/vpd_pg80")) {
            let serial = String::from_utf8_lossy(page.get(4..).unwrap_or_default()).into_owned();
            let read_only = fs::read_to_string(entry.path().join("ro"))?;
            writeln!(out, "{serial} {name} {}", read_only.trim())?;
        }
    }
    Ok(())
}

fn device_of(serial: &str) -> Option<String> {
    let mut list = Vec::new();
    disks(&mut list).ok()?;
    let list = String::from_utf8(list).ok()?;
    let line = list.lines().find(|line| line.split(' ').next() == Some(serial))?;
    line.split(' ').nth(1).map(|name| format!("/dev/{name}"))
}

fn obey(stream: File) -> std::io::Result<()> {
    let mut input = BufReader::with_capacity(64 * 1024, stream.try_clone()?);
    let mut out = stream;
    let mut line = String::new();
    input.read_line(&mut line)?;
    let (word, argument) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
    match word {
        "echo" => {
            let mut chunk = vec![0; 64 * 1024];
            loop {
                match input.read(&mut chunk)? {
                    0 => break,
                    length => out.write_all(&chunk[..length])?,
                }
            }
        }
        "sink" => {
            let (mut chunk, mut sum, mut total) = (vec![0; 64 * 1024], 0xcbf2_9ce4_8422_2325, 0);
            loop {
                match input.read(&mut chunk)? {
                    0 => break,
                    length => {
                        hash(&mut sum, &chunk[..length]);
                        total += length;
                    }
                }
            }
            writeln!(out, "{total} {sum:016x}")?;
        }
        "source" => {
            let chunk: Vec<u8> = (0..65_536_u32).map(|number| (number % 251) as u8).collect();
            let mut left: usize = argument.parse().unwrap();
            while left > 0 {
                let now = left.min(chunk.len());
                out.write_all(&chunk[..now])?;
                left -= now;
            }
        }
        "stall" => loop {
            thread::park();
        },
        "half" => {
            out.write_all(b"said first")?;
            close_writing(&out);
            let mut rest = String::new();
            input.read_to_string(&mut rest)?;
            println!("HEARD {rest}");
            let mut report = dial(argument.parse().unwrap()).unwrap();
            report.write_all(rest.as_bytes())?;
        }
        "disks" => disks(&mut out)?,
        "head" => {
            let mut head = [0; 16];
            File::open(device_of(argument).unwrap())?.read_exact(&mut head)?;
            out.write_all(&head)?;
        }
        "write" => {
            let (serial, text) = argument.split_once(' ').unwrap();
            let mut block = vec![0; 512];
            block[..text.len()].copy_from_slice(text.as_bytes());
            let mut disk = File::options().write(true).open(device_of(serial).unwrap())?;
            disk.write_all(&block)?;
            disk.sync_all()?;
            out.write_all(b"written")?;
        }
        "dial" => match dial(argument.parse().unwrap()) {
            Some(mut host) => {
                host.write_all(b"hello host")?;
                out.write_all(b"connected")?;
            }
            None => out.write_all(b"refused")?,
        },
        "nics" => {
            for entry in fs::read_dir("/sys/class/net")?.flatten() {
                let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
                let name = entry.file_name().into_string().unwrap();
                writeln!(out, "{name} {} {}", read("address").trim(), read("mtu").trim())?;
            }
        }
        "uptime" => out.write_all(&fs::read("/proc/uptime")?)?,
        // SAFETY: takes no pointers.
        "halt" => unsafe {
            reboot(0x0123_4567);
        },
        _ => out.write_all(b"what?")?,
    }
    Ok(())
}

fn main() {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        attach(kind, target);
    }
    // SAFETY: the address outlives the calls.
    let listener = unsafe {
        let listener = socket(VSOCK, STREAM, 0);
        bind(listener, &address(ANY, 1024), 16);
        listen(listener, 128);
        listener
    };
    let _ready = dial(1023);
    println!("GUEST READY");
    loop {
        // SAFETY: null means that the peer's address is not wanted; the descriptor is new and nobody else's.
        let stream = unsafe {
            match accept(listener, std::ptr::null(), std::ptr::null()) {
                -1 => continue,
                fd => File::from_raw_fd(fd),
            }
        };
        thread::spawn(move || obey(stream));
    }
}
