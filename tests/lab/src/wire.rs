#![allow(unsafe_code)] // Taps are made, and interfaces set up, by ioctls with a structure of the C library's.
//! What both sides of a case need: interfaces, and bytes whose sum both know.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};

/// The nested machine's address, and the guest's.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// See [`HOST`].
pub(crate) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// Where the nested machine waits.
pub(crate) const PORT: u16 = 7000;

/// Bytes that go each way: many packets of the largest size.
pub(crate) const BYTES: usize = 2 << 20;

fn request(name: &str) -> libc::ifreq {
    // SAFETY: all zeros are a valid structure of integers and arrays.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    request
}

fn ask(fd: i32, number: libc::c_ulong, request: &mut libc::ifreq) -> Result<()> {
    // SAFETY: the structure lives through the call, and every request used here takes one.
    let outcome = unsafe { libc::ioctl(fd, number as _, std::ptr::from_mut(request)) };
    if outcome < 0 {
        bail!("request {number:#x}: {}", std::io::Error::last_os_error());
    }
    Ok(())
}

/// Gives an interface an address of a network of 24 bits, and switches it on.
pub(crate) fn configure(name: &str, address: Ipv4Addr) -> Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket: OwnedFd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::empty(), None)?;
    for (number, address) in
        [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, Ipv4Addr::new(255, 255, 255, 0))]
    {
        let mut request = request(name);
        // SAFETY: all zeros are a valid address.
        let mut place: libc::sockaddr = unsafe { std::mem::zeroed() };
        place.sa_family = libc::AF_INET as libc::sa_family_t;
        for (place, byte) in place.sa_data[2..6].iter_mut().zip(address.octets()) {
            *place = byte as libc::c_char;
        }
        request.ifr_ifru.ifru_addr = place;
        ask(socket.as_raw_fd(), number as _, &mut request)?;
    }
    let mut request = request(name);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    ask(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &mut request)
}

fn pattern() -> Vec<u8> {
    (0..BYTES).map(|index| (index / 3 % 253) as u8).collect()
}

/// Adds bytes to a sum of bytes and their places.
pub(crate) fn add(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum, |sum, byte| sum.rotate_left(5).wrapping_add(u64::from(*byte)))
}

/// The guest's side: sends the pattern and gets it back.
pub(crate) fn echo() -> Result<String> {
    let mut stream = TcpStream::connect((HOST, PORT))?;
    let (sent, mut sender) = (pattern(), stream.try_clone()?);
    let expected = add(0, &sent);
    let writer = std::thread::spawn(move || {
        let outcome = sender.write_all(&sent);
        outcome.and_then(|()| sender.shutdown(Shutdown::Write))
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back)?;
    writer.join().ok().context("the writer failed")??;
    ensure!(back.len() == BYTES && add(0, &back) == expected, "{} bytes came back, changed", back.len());
    Ok("ok".to_owned())
}

/// Makes a tap that stays, for programs that attach themselves to it by its name.
pub(crate) fn persistent_tap(name: &str) -> Result<()> {
    let tap = tap(name)?;
    // SAFETY: the request takes a number.
    let outcome = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETPERSIST as _, 1) };
    if outcome < 0 {
        bail!("TUNSETPERSIST: {}", std::io::Error::last_os_error());
    }
    Ok(())
}

/// An attached tap queue whose packets have virtio's header.
pub(crate) fn tap(name: &str) -> Result<OwnedFd> {
    let tap = File::options().read(true).write(true).open("/dev/net/tun").context("/dev/net/tun")?;
    let mut request = request(name);
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    ask(tap.as_raw_fd(), libc::TUNSETIFF as _, &mut request).context("TUNSETIFF")?;
    Ok(tap.into())
}
