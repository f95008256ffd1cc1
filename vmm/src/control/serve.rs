//! Serves a machine and the shim until the machine ends.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::message::{MOST, Request, describe_counters, describe_end};
use crate::machine::{End, Running, Turn};

/// Why a machine cannot be served any longer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The machine's descriptors cannot be watched.
    #[error("the machine's descriptors cannot be watched")]
    Watch(#[source] io::Error),
}

/// Serves `running` and the requests on `control` until the machine ends, and says how.
pub fn serve(mut running: Running, control: &OwnedFd) -> Result<End, ControlError> {
    loop {
        match running.turn(control.as_fd()).map_err(ControlError::Watch)? {
            Turn::Ended(end) => {
                answer(control, &describe_end(&end));
                return Ok(end);
            }
            Turn::Asked => {
                let mut packet = [0; MOST];
                let request = match recv(control, &mut packet[..], RecvFlags::DONTWAIT) {
                    Ok((0, _)) => Some(Request::Stop),
                    Ok((length, _)) => packet.get(..length).and_then(Request::parse),
                    Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
                    // The other end is gone, and with it whoever wanted the machine.
                    Err(_) => Some(Request::Stop),
                };
                let reply = carry_out(&mut running, request);
                answer(control, &reply);
                if request == Some(Request::Stop) {
                    return Ok(finish(control));
                }
            }
        }
    }
}

fn finish(control: &OwnedFd) -> End {
    answer(control, &describe_end(&End::Stopped));
    End::Stopped
}

fn carry_out(running: &mut Running, request: Option<Request>) -> String {
    match request {
        Some(Request::Resume) => running.resume(),
        Some(Request::Pause) => running.pause(),
        Some(Request::Stop) => running.stop(),
        Some(Request::Counters) => return describe_counters(&running.counters()),
        None => return "error: not understood".to_owned(),
    }
    "ok".to_owned()
}

/// Sends a packet; a shim that does not read its answers does not hold up the machine.
fn answer(control: &OwnedFd, text: &str) {
    let _ = send(control, text.as_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}
