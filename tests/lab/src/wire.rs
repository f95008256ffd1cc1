#![allow(unsafe_code)] // Taps are made, and interfaces set up, by ioctls with a structure of the C library's.
//! What both sides of a case need: interfaces, and bytes whose sum both know.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

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

/// Datagrams that are sent and come back in turn.
pub(crate) const DATAGRAMS: u64 = 50;

/// The guest's side: sends datagrams from this processor, each when the one before has come back.
pub(crate) fn ask_and_hear() -> Result<()> {
    let socket = UdpSocket::bind((GUEST, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    socket.connect((HOST, PORT))?;
    for number in 0..DATAGRAMS {
        socket.send(&number.to_le_bytes())?;
        let mut back = [0; 8];
        ensure!(
            socket.recv(&mut back)? == 8 && u64::from_le_bytes(back) == number,
            "another datagram came back"
        );
    }
    Ok(())
}

/// `struct ethtool_sset_info`, `ethtool_gstrings` and `ethtool_stats` (`linux/ethtool.h`), as far as they are alike: which command,
/// a number, and what follows.
#[repr(C)]
struct Question {
    command: u32,
    number: u32,
    rest: [u64; 2048],
}

/// The guest's side: how often its driver has told the device of packets to send, for each queue.
pub(crate) fn kicks(name: &str) -> Result<String> {
    const STRINGS: u32 = 0x1b;
    const STATISTICS: u32 = 0x1d;
    const ETH_SS_STATS: u32 = 1;
    const NAME: usize = 32;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let put = |question: &mut Question| -> Result<()> {
        let mut request = request(name);
        request.ifr_ifru.ifru_data = std::ptr::from_mut(question).cast();
        ask(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &mut request).context("SIOCETHTOOL")
    };
    // Command, set and how many; the names are behind these three.
    let mut names = Question { command: STRINGS, number: ETH_SS_STATS, rest: [0; 2048] };
    put(&mut names)?;
    let count = (names.rest[0] & u64::from(u32::MAX)) as usize;
    let text: Vec<u8> =
        names.rest.iter().flat_map(|word| word.to_ne_bytes()).skip(4).take(count * NAME).collect();
    let mut values = Question { command: STATISTICS, number: count as u32, rest: [0; 2048] };
    ensure!(count <= 128, "{count} statistics");
    put(&mut values)?;
    let value = |wanted: &str| {
        let named = |name: &[u8]| name.split(|byte| *byte == 0).next() == Some(wanted.as_bytes());
        text.chunks(NAME).position(named).map(|at| values.rest[at])
    };
    let queues = (0..).map_while(|queue| value(&format!("tx{queue}_kicks")));
    Ok(queues.map(|kicks| kicks.to_string()).collect::<Vec<_>>().join(" "))
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
    tap_queue(name, 0)
}

/// One of several queues of a tap.
pub(crate) fn one_of_several(name: &str) -> Result<OwnedFd> {
    tap_queue(name, libc::IFF_MULTI_QUEUE)
}

fn tap_queue(name: &str, more: libc::c_int) -> Result<OwnedFd> {
    let tap = File::options().read(true).write(true).open("/dev/net/tun").context("/dev/net/tun")?;
    let mut request = request(name);
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | more;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    ask(tap.as_raw_fd(), libc::TUNSETIFF as _, &mut request).context("TUNSETIFF")?;
    Ok(tap.into())
}
