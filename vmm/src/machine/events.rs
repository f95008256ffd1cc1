//! What wakes the thread that serves devices.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::epoll::{self, CreateFlags, Event as Happening, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::event::Event;
use crate::virtio::{Cause, Transport};

/// Events taken at once.
const MOST: usize = 64;

/// What a number beside the device's stands for, when it is no queue.
const HOST: u64 = 0xffff;
const START: u64 = 0xfffe;

/// Why the thread is to do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Something is to be read from the descriptor that was given.
    Asked,
    /// The machine has ended.
    Ended(super::End),
}

/// All descriptors of the machine's devices, in one that can be watched.
#[derive(Debug)]
pub(super) struct Events {
    epoll: OwnedFd,
    /// Events by the number that they are watched with: taken when they come.
    own: Vec<(u64, Arc<Event>)>,
    /// Devices that have more to do.
    again: Vec<usize>,
}

impl Events {
    /// Nothing to watch.
    pub(super) fn new() -> io::Result<Events> {
        Ok(Events { epoll: epoll::create(CreateFlags::CLOEXEC)?, own: Vec::new(), again: Vec::new() })
    }

    fn token(device: usize, detail: u64) -> u64 {
        (device as u64) << 16 | detail
    }

    /// Watches a device's own descriptor, for every change in it.
    pub(super) fn watch_host(&mut self, device: usize, host: BorrowedFd<'_>) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&self.epoll, host, EventData::new_u64(Events::token(device, HOST)), flags)?;
        Ok(())
    }

    /// Makes the event by which a device says that a driver has taken it over.
    pub(super) fn watch_start(&mut self, device: usize) -> io::Result<Event> {
        self.own_event(Events::token(device, START))
    }

    /// Makes the event by which the guest says that it has added to a queue.
    pub(super) fn watch_queue(&mut self, device: usize, queue: usize) -> io::Result<Event> {
        self.own_event(Events::token(device, queue as u64))
    }

    fn own_event(&mut self, token: u64) -> io::Result<Event> {
        let event = Event::new()?;
        // Edge-triggered: a count that is added to is an edge, so it need not be taken to be noticed again.
        epoll::add(&self.epoll, &event, EventData::new_u64(token), EventFlags::IN | EventFlags::ET)?;
        let kept = Arc::new(event);
        let other = kept.try_clone()?;
        self.own.push((token, kept));
        Ok(other)
    }

    /// Serves whatever there is to serve, without waiting.
    pub(super) fn serve(&mut self, transports: &[Arc<Transport>]) -> io::Result<()> {
        for device in std::mem::take(&mut self.again) {
            self.serve_one(transports, device, Cause::Again);
        }
        let mut events: Vec<Happening> = Vec::with_capacity(MOST);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&now))?;
        for event in events {
            let token = event.data.u64();
            let cause = match token & 0xffff {
                HOST => Cause::Host,
                START => Cause::Again,
                queue => Cause::Queue(usize::try_from(queue).unwrap_or(usize::MAX)),
            };
            let device = usize::try_from(token >> 16).unwrap_or(usize::MAX);
            self.serve_one(transports, device, cause);
        }
        Ok(())
    }

    fn serve_one(&mut self, transports: &[Arc<Transport>], device: usize, cause: Cause) {
        let again = transports.get(device).is_some_and(|transport| transport.serve(cause));
        if again && !self.again.contains(&device) {
            self.again.push(device);
        }
    }

    /// Waits until one of three is readable: the devices (unless they are paused), `ended`, `asked`.
    pub(super) fn wait(
        &self,
        paused: bool,
        ended: BorrowedFd<'_>,
        asked: BorrowedFd<'_>,
    ) -> io::Result<[bool; 3]> {
        let devices = if paused { ended } else { self.epoll.as_fd() };
        let mut watched = [devices, ended, asked].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let limit = (!self.again.is_empty() && !paused).then_some(&now);
        loop {
            match poll(&mut watched, limit) {
                Err(rustix::io::Errno::INTR) => {}
                outcome => {
                    outcome?;
                    break;
                }
            }
        }
        let [devices, ended, asked] = watched.map(|fd| !fd.revents().is_empty());
        Ok([!paused && (devices || !self.again.is_empty()), ended, asked])
    }
}
