//! Cases about the network.

use std::fmt::Write as _;
use std::fs::File;
use std::net::{Shutdown, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::io::{FdFlags, fcntl_setfd};

use crate::guest::Wanted;
use crate::obedient::{Obedient, image, obedient, obey};
use crate::wire::{BYTES, DATAGRAMS, GUEST, HOST, PORT, configure, one_of_several, tap};

/// Many packets both ways through a tap, with the largest segments that both kernels make.
pub(crate) fn bytes_go_through_a_tap_and_back() -> Result<String> {
    let queue = tap("lab0")?;
    configure("lab0", HOST)?;
    let mut guest = obedient(1, 256, vec![("--nic 02:00:00:00:00:0a,1400,".to_owned(), queue)])?;
    guest.says("interface eth0", "02:00:00:00:00:0a 1400")?;
    guest.says(&format!("address eth0 {GUEST}"), "ok")?;
    echo(&mut guest)?;
    guest.stop()
}

/// A guest sends from each of its processors through a queue of its own, and gets the answers there.
pub(crate) fn each_processor_sends_in_its_own_queue() -> Result<String> {
    let queues = [one_of_several("lab2")?, one_of_several("lab2")?];
    let mut option = "--nic 02:00:00:00:00:0c,1400,".to_owned();
    for queue in &queues {
        fcntl_setfd(queue, FdFlags::empty())?;
        write!(option, "{}+", queue.as_raw_fd())?;
    }
    configure("lab2", HOST)?;
    let mut guest = obedient(3, 256, vec![(option, one_of_several("lab2")?)])?;
    drop(queues);
    guest.says("queues-of eth0", "3")?;
    guest.says(&format!("address eth0 {GUEST}"), "ok")?;
    let socket = UdpSocket::bind((HOST, PORT))?;
    let server = std::thread::spawn(move || -> std::io::Result<()> {
        let mut datagram = [0; 8];
        for _ in 0..4 * DATAGRAMS {
            let (length, from) = socket.recv_from(&mut datagram)?;
            socket.send_to(&datagram[..length], from)?;
        }
        Ok(())
    });
    guest.says("ask-from 3", "ok")?;
    server.join().ok().context("the server failed")??;
    echo(&mut guest)?;
    let kicks = guest.obeys("kicks eth0")?;
    let counts = kicks.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    ensure!(
        counts.len() == 3 && counts.iter().all(|count| *count >= DATAGRAMS),
        "kicks of each queue: {kicks}"
    );
    guest.stop()?;
    Ok(format!("kicks of each queue: {kicks}"))
}

/// An interface that gets its tap while the guest runs, loses it, and gets another.
pub(crate) fn an_interface_is_plugged_in_and_out() -> Result<String> {
    let plain = ["--nic-seat", "02:00:00:00:00:0b,1400"];
    let mut guest = obey(Wanted { plain: &plain, ..image("vmlinux") })?;
    guest.says("interface eth0", "02:00:00:00:00:0b 1400")?;
    guest.says(&format!("address eth0 {GUEST}"), "ok")?;
    guest.says("carrier eth0", "0")?;
    let refused = |guest: &Obedient, request: &str, file: &File, why: &str| -> Result<()> {
        let answer = guest.machine.ask_with(request, file)?;
        ensure!(answer.starts_with("error: ") && answer.contains(why), "{request}: {answer}");
        Ok(())
    };
    let no_tap = File::open("/dev/null")?;
    refused(&guest, "plug 0", &no_tap, "must be attached, with IFF_VNET_HDR")?;
    refused(&guest, "plug 1", &no_tap, "no seat 1: the machine was started with 1")?;
    ensure!(guest.machine.ask("unplug 0")? == "error: seat 0: the seat is empty");
    for _ in 0..2 {
        let queue = File::from(tap("lab1")?);
        ensure!(guest.machine.ask_with("plug 0", &queue)? == "ok");
        refused(&guest, "plug 0", &queue, "the seat is taken")?;
        configure("lab1", HOST)?;
        await_carrier(&mut guest, "1")?;
        echo(&mut guest)?;
        ensure!(guest.machine.ask("unplug 0")? == "ok");
        await_carrier(&mut guest, "0")?;
        drop(queue);
        // The tap goes with its last descriptor: the monitor has none left.
        ensure!(!Path::new("/sys/class/net/lab1").exists(), "the tap is still open");
    }
    guest.stop()
}

/// Waits until the guest sees that its cable is plugged in, or is not.
fn await_carrier(guest: &mut Obedient, expected: &str) -> Result<()> {
    let start = Instant::now();
    loop {
        let carrier = guest.obeys("carrier eth0")?;
        if carrier == expected {
            return Ok(());
        }
        ensure!(start.elapsed() < Duration::from_secs(30), "the carrier is {carrier}, {expected} expected");
    }
}

/// Has the guest send bytes to the nested machine, and get them back.
fn echo(guest: &mut Obedient) -> Result<()> {
    let listener = TcpListener::bind((HOST, PORT))?;
    let server = std::thread::spawn(move || -> std::io::Result<u64> {
        let (stream, _) = listener.accept()?;
        let copied = std::io::copy(&mut &stream, &mut &stream)?;
        stream.shutdown(Shutdown::Write)?;
        Ok(copied)
    });
    guest.says("echo", "ok")?;
    let copied = server.join().ok().context("the server failed")??;
    ensure!(copied == BYTES as u64, "{copied} bytes reached the host");
    Ok(())
}
