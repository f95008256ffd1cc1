//! Serves a machine and the shim until the machine ends.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};

use super::message::{MOST, Request, describe_counters, describe_end};
use crate::devices::{Disk, Disks, Ration, Seat, Tap};
use crate::machine::{End, Running, Turn};
use crate::spec;

/// Why a machine cannot be served any longer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The machine's descriptors cannot be watched.
    #[error("the machine's descriptors cannot be watched")]
    Watch(#[source] io::Error),
}

/// What of a machine's devices can be changed while it runs.
#[derive(Debug)]
pub struct Changeable {
    /// Its disks.
    pub disks: Disks,
    /// How much of its memory the guest is to have.
    pub ration: Ration,
    /// Places for interfaces, each with the number of its device as the machine was built.
    pub seats: Vec<(usize, Seat)>,
}

/// Serves `running`, its `devices` and the requests on `control` until the machine ends, and says how.
pub fn serve(mut running: Running, devices: &Changeable, control: &OwnedFd) -> Result<End, ControlError> {
    loop {
        match running.turn().map_err(ControlError::Watch)? {
            Turn::Ended(end) => {
                answer(control, &describe_end(&end));
                return Ok(end);
            }
            Turn::Asked => {
                let Some(received) = receive(control) else { continue };
                let stop = received.request == Some(Request::Stop);
                answer(control, &carry_out(&mut running, devices, received));
                if stop {
                    let end = running.stop();
                    answer(control, &describe_end(&end));
                    return Ok(end);
                }
            }
        }
    }
}

/// A packet, understood or not, and the descriptor that came with it.
struct Received {
    request: Option<Request>,
    file: Option<OwnedFd>,
}

/// Takes a packet; nothing if there is none after all. A shim that is gone wants the machine stopped.
fn receive(control: &OwnedFd) -> Option<Received> {
    let mut packet = [0; MOST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let length = match recvmsg(control, &mut [IoSliceMut::new(&mut packet)], &mut ancillary, flags) {
        Ok(received) => received.bytes,
        Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return None,
        Err(_) => 0,
    };
    let mut files = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => files.collect(),
        _ => Vec::new(),
    });
    let file = files.next();
    let request =
        if length == 0 { Some(Request::Stop) } else { packet.get(..length).and_then(Request::parse) };
    Some(Received { request, file })
}

fn carry_out(running: &mut Running, devices: &Changeable, received: Received) -> String {
    let Changeable { disks, ration, seats } = devices;
    let done = match received {
        Received { request: Some(Request::Attach { serial, read_only }), file: Some(file) } => {
            attach(disks, spec::Disk { serial, file, read_only })
        }
        Received { request: Some(Request::Plug { seat }), file: Some(tap) } => {
            plug(running, seats, seat, tap)
        }
        Received { request: Some(Request::Unplug { seat }), .. } => unplug(running, seats, seat),
        Received { request: Some(Request::Detach { serial }), .. } => {
            disks.detach(&serial).map_err(|error| error.to_string())
        }
        Received { request: Some(Request::Memory { mib }), .. } => {
            ration.set(mib).map_err(|error| error.to_string())
        }
        Received { request: Some(Request::Counters), .. } => {
            return describe_counters(&running.counters(), ration.given());
        }
        Received { request: Some(request), file: None } => obey(running, &request),
        Received { .. } => Err("not understood".to_owned()),
    };
    done.map_or_else(|why| format!("error: {why}"), |()| "ok".to_owned())
}

fn obey(running: &mut Running, request: &Request) -> Result<(), String> {
    match request {
        Request::Resume => running.resume(),
        Request::Pause => running.pause(),
        Request::Stop => {
            running.stop();
        }
        _ => return Err("the disk's file, or the tap, is missing".to_owned()),
    }
    Ok(())
}

fn attach(disks: &Disks, disk: spec::Disk) -> Result<(), String> {
    let disk = Disk::new(disk).map_err(|error| error.to_string())?;
    disks.attach(disk).map_err(|error| error.to_string())
}

fn plug(running: &mut Running, seats: &[(usize, Seat)], number: usize, tap: OwnedFd) -> Result<(), String> {
    let (device, seat) = find(seats, number)?;
    let tap = Tap::new(tap).map_err(|error| error.to_string())?;
    seat.plug(tap.clone()).map_err(|error| format!("seat {number}: {error}"))?;
    let watched = running.watch(*device, tap.as_fd());
    watched.map_err(|error| {
        // Just given, so it is there to be taken.
        let _ = seat.unplug();
        format!("seat {number}: the tap cannot be watched: {error}")
    })
}

fn unplug(running: &mut Running, seats: &[(usize, Seat)], number: usize) -> Result<(), String> {
    let (_, seat) = find(seats, number)?;
    let tap = seat.unplug().map_err(|error| format!("seat {number}: {error}"))?;
    running.forget(tap.as_fd()).map_err(|error| format!("seat {number}: {error}"))
}

fn find(seats: &[(usize, Seat)], number: usize) -> Result<&(usize, Seat), String> {
    seats
        .get(number)
        .ok_or_else(|| format!("there is no seat {number}: the machine was started with {}", seats.len()))
}

/// Sends a packet; a shim that does not read its answers does not hold up the machine.
fn answer(control: &OwnedFd, text: &str) {
    let _ = send(control, text.as_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}
