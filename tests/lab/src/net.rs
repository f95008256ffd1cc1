//! Cases about the network.

use std::net::{Shutdown, TcpListener};

use anyhow::{Context, Result, ensure};

use crate::obedient::obedient;
use crate::wire::{BYTES, GUEST, HOST, PORT, configure, tap};

/// Many packets both ways through a tap, with the largest segments that both kernels make.
pub(crate) fn bytes_go_through_a_tap_and_back() -> Result<String> {
    let queue = tap("lab0")?;
    configure("lab0", HOST)?;
    let listener = TcpListener::bind((HOST, PORT))?;
    let mut guest = obedient(1, 256, vec![("--nic 02:00:00:00:00:0a,1400,".to_owned(), queue)])?;
    guest.says("interface eth0", "02:00:00:00:00:0a 1400")?;
    guest.says(&format!("address eth0 {GUEST}"), "ok")?;
    let server = std::thread::spawn(move || -> std::io::Result<u64> {
        let (stream, _) = listener.accept()?;
        let copied = std::io::copy(&mut &stream, &mut &stream)?;
        stream.shutdown(Shutdown::Write)?;
        Ok(copied)
    });
    guest.says("echo", "ok")?;
    let copied = server.join().ok().context("the server failed")??;
    ensure!(copied == BYTES as u64, "{copied} bytes reached the host");
    guest.stop()
}
