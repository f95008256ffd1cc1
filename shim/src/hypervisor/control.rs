//! Our side of the built-in monitor's control socket: one packet of text for each request, answer and end.
//!
//! Answers come in the order of the requests. A request whose caller has gone away is answered all the same, so what is
//! still owed is counted.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg,
    socketpair,
};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::timeout;

use super::MachineError;

/// How long the monitor may take for one request. It needs less than a millisecond; a loaded host may need more.
const DEADLINE: Duration = Duration::from_secs(20);

/// The longest packet that is read.
const MOST: usize = 1024;

/// Answers that may wait to be taken.
const WAITING: usize = 16;

/// The shim's end of the socket.
#[derive(Debug)]
pub(super) struct Control {
    socket: Arc<UnixDatagram>,
    answers: Mutex<Answers>,
    ended: watch::Receiver<Option<String>>,
}

#[derive(Debug)]
struct Answers {
    receiver: mpsc::Receiver<String>,
    /// Requests that were sent and not answered yet.
    owed: usize,
}

impl Control {
    /// Our end, and the monitor's.
    pub(super) fn new() -> io::Result<(Control, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        // For packets in order the calls are those for datagrams.
        let ours = std::os::unix::net::UnixDatagram::from(ours);
        ours.set_nonblocking(true)?;
        let socket = Arc::new(UnixDatagram::from_std(ours)?);
        let (sender, receiver) = mpsc::channel(WAITING);
        let (tell, ended) = watch::channel(None);
        tokio::spawn(receive(Arc::clone(&socket), sender, tell));
        Ok((Control { socket, answers: Mutex::new(Answers { receiver, owed: 0 }), ended }, theirs))
    }

    /// Has the monitor do something.
    pub(super) async fn ask(&self, request: &str, file: Option<BorrowedFd<'_>>) -> Result<(), MachineError> {
        let command = || request.to_owned();
        let mut answers = self.answers.lock().await;
        self.socket
            .async_io(Interest::WRITABLE, || send(&self.socket, request, file))
            .await
            .map_err(|source| MachineError::Send { command: command(), source })?;
        answers.owed += 1;
        match timeout(DEADLINE, answers.last()).await {
            Ok(Some(answer)) if answer == "ok" => Ok(()),
            Ok(Some(answer)) => {
                let message = answer.strip_prefix("error: ").unwrap_or(&answer).to_owned();
                Err(MachineError::Refused { command: command(), message })
            }
            Ok(None) => Err(MachineError::Ended { command: command() }),
            Err(_) => Err(MachineError::Deadline { command: command(), waited: DEADLINE }),
        }
    }

    /// What the monitor said about the machine's end; waits until it has closed its end of the socket.
    pub(super) async fn end(&self) -> Option<String> {
        let mut ended = self.ended.clone();
        // An error: the reader is gone, and nothing comes any more.
        while ended.changed().await.is_ok() {}
        ended.borrow().clone()
    }
}

impl Answers {
    /// The answer to the last request.
    async fn last(&mut self) -> Option<String> {
        loop {
            let answer = self.receiver.recv().await?;
            self.owed = self.owed.saturating_sub(1);
            if self.owed == 0 {
                return Some(answer);
            }
        }
    }
}

fn send(socket: &UnixDatagram, request: &str, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let files: Vec<BorrowedFd<'_>> = file.into_iter().collect();
    if !files.is_empty() {
        // The space was made for one descriptor, and there is one.
        ancillary.push(SendAncillaryMessage::ScmRights(&files));
    }
    sendmsg(socket, &[IoSlice::new(request.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Takes the monitor's packets until it closes its end.
async fn receive(
    socket: Arc<UnixDatagram>,
    answers: mpsc::Sender<String>,
    ended: watch::Sender<Option<String>>,
) {
    let mut packet = [0; MOST];
    while let Ok(length @ 1..) = socket.recv(&mut packet).await {
        let text = String::from_utf8_lossy(packet.get(..length).unwrap_or_default()).into_owned();
        if let Some(end) = text.strip_prefix("ended ") {
            ended.send_replace(Some(end.to_owned()));
        } else if answers.try_send(text).is_err() {
            // A monitor that says more than it was asked is not listened to any longer.
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn monitor(theirs: OwnedFd) -> std::os::unix::net::UnixDatagram {
        std::os::unix::net::UnixDatagram::from(theirs)
    }

    #[tokio::test]
    async fn a_refusal_keeps_its_reason() {
        let (control, theirs) = Control::new().unwrap();
        let monitor = monitor(theirs);
        monitor.send(b"error: no such disk").unwrap();
        let error = control.ask("detach layer-1", None).await.unwrap_err();
        assert!(matches!(error, MachineError::Refused { message, .. } if message == "no such disk"));
    }

    #[tokio::test]
    async fn a_late_answer_is_not_taken_for_the_next_one_s() {
        let (control, theirs) = Control::new().unwrap();
        let monitor = monitor(theirs);
        let given_up = timeout(Duration::from_millis(10), control.ask("attach a ro", None)).await;
        assert!(given_up.is_err());
        monitor.send(b"error: the first one's").unwrap();
        monitor.send(b"ok").unwrap();
        assert!(control.ask("attach b ro", None).await.is_ok());
    }

    #[tokio::test]
    async fn the_end_is_what_was_said_before_the_socket_was_closed() {
        let (control, theirs) = Control::new().unwrap();
        let monitor = monitor(theirs);
        monitor.send(b"ended panic: the guest's kernel panicked").unwrap();
        drop(monitor);
        assert_eq!(control.end().await.as_deref(), Some("panic: the guest's kernel panicked"));
        assert!(matches!(
            control.ask("pause", None).await.unwrap_err(),
            MachineError::Ended { .. } | MachineError::Send { .. }
        ));
    }

    #[tokio::test]
    async fn a_descriptor_goes_along() {
        let (control, theirs) = Control::new().unwrap();
        let taken = std::thread::spawn(move || {
            let mut packet = [0; 64];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = rustix::net::RecvAncillaryBuffer::new(&mut space);
            let mut into = [io::IoSliceMut::new(&mut packet)];
            let flags = rustix::net::RecvFlags::empty();
            rustix::net::recvmsg(&theirs, &mut into, &mut ancillary, flags).unwrap();
            let count = ancillary.drain().count();
            rustix::net::send(&theirs, b"ok", SendFlags::NOSIGNAL).unwrap();
            count
        });
        let file = std::fs::File::open("/dev/null").unwrap();
        control.ask("attach a ro", Some(std::os::fd::AsFd::as_fd(&file))).await.unwrap();
        assert_eq!(taken.join().unwrap(), 1);
    }
}
