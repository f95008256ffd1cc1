//! The loop of the device's process: QEMU's messages, the rings' notifications, the host's sockets.
//!
//! It ends when QEMU hangs up or the control descriptor does, which says that the shim is gone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vhost::vhost_user::{BackendReqHandler, Error as VhostError};

use super::device::{Counts, Device};
use super::vhost_user::Backend;

/// What the device's process is given.
#[derive(Debug)]
pub struct Setup {
    /// The connected vhost-user socket, whose other end QEMU has.
    pub qemu: UnixStream,
    /// Where clients on the host connect to.
    pub listener: UnixListener,
    /// Its end of file ends the device.
    pub control: OwnedFd,
    /// The guest's context id.
    pub guest_cid: u64,
    /// Guest connections to port P go to the Unix socket `<dial>_P`.
    pub dial: PathBuf,
    /// The most connections at once.
    pub limit: usize,
}

/// Why the device could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The device's own descriptors could not be set up or watched.
    #[error("the vsock device cannot watch its sockets")]
    Watch(#[source] io::Error),
    /// The device's rings could not be set up.
    #[error("the vsock device cannot set up its rings")]
    Rings(#[source] virtio_queue::Error),
    /// QEMU sent what is not vhost-user, or asked for what was not offered.
    #[error("the vsock device does not understand QEMU")]
    Protocol(#[source] VhostError),
}

/// Why the loop woke up.
struct Woken {
    control: bool,
    qemu: bool,
    host: bool,
    kicked: [bool; 2],
}

/// Runs the device until QEMU or the shim is gone; gives what it counted.
pub fn serve(setup: Setup) -> Result<Counts, ServeError> {
    let device =
        Device::new(setup.guest_cid, setup.listener, &setup.dial, setup.limit).map_err(ServeError::Watch)?;
    let backend = Arc::new(Mutex::new(Backend::new(device).map_err(ServeError::Rings)?));
    let qemu = setup.qemu.try_clone().map_err(ServeError::Watch)?;
    let mut requests = BackendReqHandler::from_stream(setup.qemu, Arc::clone(&backend));
    let lock = || backend.lock().unwrap_or_else(PoisonError::into_inner);
    let mut again = false;
    loop {
        let woken = wait(&lock(), &setup.control, &qemu, again).map_err(ServeError::Watch)?;
        if woken.control {
            return Ok(lock().device().counts());
        }
        if woken.qemu {
            match requests.handle_request() {
                Ok(()) | Err(VhostError::SocketRetry(_)) => {}
                Err(VhostError::Disconnected | VhostError::SocketBroken(_)) => {
                    return Ok(lock().device().counts());
                }
                Err(error) => return Err(ServeError::Protocol(error)),
            }
        }
        again = step(&mut lock(), &woken).map_err(ServeError::Watch)?;
    }
}

fn wait(backend: &Backend, control: &OwnedFd, qemu: &UnixStream, again: bool) -> io::Result<Woken> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // A ring without a notification is watched as the control descriptor once more, which changes nothing.
    let (host, kicks) = backend.watched();
    let mut watched = [
        PollFd::new(control, PollFlags::IN),
        PollFd::new(qemu, PollFlags::IN),
        PollFd::from_borrowed_fd(host, PollFlags::IN),
        PollFd::from_borrowed_fd(kicks[0].unwrap_or(control.as_fd()), PollFlags::IN),
        PollFd::from_borrowed_fd(kicks[1].unwrap_or(control.as_fd()), PollFlags::IN),
    ];
    loop {
        match poll(&mut watched, again.then_some(&now)) {
            Err(rustix::io::Errno::INTR) => {}
            outcome => {
                outcome?;
                break;
            }
        }
    }
    let [control, qemu, host, rx, tx] = watched.map(|fd| !fd.revents().is_empty());
    Ok(Woken { control, qemu, host, kicked: [rx && kicks[0].is_some(), tx && kicks[1].is_some()] })
}

/// Does what the loop woke up for; says whether there is more to do at once.
fn step(backend: &mut Backend, woken: &Woken) -> io::Result<bool> {
    for (ring, kicked) in backend.rings().iter_mut().zip(woken.kicked) {
        if kicked {
            ring.take_kick();
        }
    }
    if woken.host {
        backend.device().poll_host()?;
    }
    match backend.serve() {
        Ok(again) => Ok(again),
        Err(fault) => {
            eprintln!("coffer-vmm: {fault}");
            Ok(false)
        }
    }
}
